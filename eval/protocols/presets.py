"""How the field makes FVD, KVD and IS: every setting of eight protocols, spelled out, and in words how each differs
from ours.

Each of these settings moves the number, so a number without its protocol says little. They are those of the released
code; where a paper says otherwise, the code holds.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass

# What settings are called; `eval.protocols.clips` and `eval.protocols.follow` know by these words what to do.
STRATIFIED = "a seeded, class-stratified draw of the clips that the generator learned from, other than the controls'"
FIRST_SORTED = "the first 2,048 folders in sorted order (few classes where folders are sorted by class)"
FOLDERS_DRAWN = "2,048 folders drawn anew in every run, without a seed"
ONE_BATCH = "one shuffled batch, without a seed; every window of a video is a clip of its own"
WINDOWS_SHUFFLED = "shuffled without a seed; every window of a video is a clip of its own"
EVERY_VIDEO = "every video of the folder given, in a shuffle seeded with 42"
SAMPLED = "Python's random.sample of the videos that are long enough, seeded with 3407"
GENERATORS_SPLIT, FOLDER_GIVEN = "the split of the generator's latents", "the folder given"
ALL_OF_IT = "the folder given (the authors: all of UCF101)"
TEST_SPLIT, TRAIN_SPLIT = "the test split", "the train split"
GENERATORS_WINDOW, RANDOM_FRAME, EVERY_FRAME = "where the generator's latents do", "at a random frame", "at every frame"
SHA256_FRAME = "at a frame by the sha256 of seed 3407 and the video's number"
SHRUNK, DISCARDED = "the largest stride that fits", "discarded with fewer frames than clip times stride"
NEXT_VIDEO = "replaced by the next video"
ANTIALIASED = "by the shorter side, bilinear, antialiased, then cropped to the centre; bytes throughout"
SMOOTH = "by the shorter side, bilinear, antialiased, then cropped to the centre"
LANCZOS = "by the shorter side, Lanczos, then cropped to the centre"
CROP_LANCZOS = "cropped to the square in the centre, then Lanczos"
AS_MADE = "not at all: made at this size"
DECODED = "decoded video"
JPEG_75 = "JPEG frames of quality 75 (the code asks for 95 in a way that PIL ignores)"
MP4 = "mp4 (H.264, crf 5, which is imageio's quality 9)"
MP4_JPEG = f"{MP4}, then {JPEG_75}"
ROUNDING, TRUNCATING = "rounding", "truncating"
CENTRED = "truncating, once 0.5 was taken off and put back (levels 1 to 63 lose one where nothing is resized)"
I3D_LOGITS = "400 logits of I3D, averaged over time"
SQUASH, CROP = "straight, bilinear, not antialiased", "by the shorter side, bilinear, then cropped to the centre"
PLUS_MINUS_ONE = "[-1, 1]"
NUCLEAR = "the nuclear norm of the cross product, float64"
SQRTM, TFGAN = "scipy.linalg.sqrtm, real part, float64", "TF-GAN's SVD, float32"
CUBIC, NONE = "unbiased, (x·y / d + 1)³, all clips, no factor", "none"
TGAN2_C3D = "TGANv2's C3D and mean clip, on the first 16 frames"
TORCHSCRIPT_C3D = "c3d_ucf101.pt on bytes, no guard against log 0"


def _setting(label: str, default: object = dataclasses.MISSING):
    """A setting of a protocol, with the words that it goes by when protocols are compared."""
    return dataclasses.field(default=default, metadata={"label": label})


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """One way to get from clips to numbers: settings, each with the words that it goes by when protocols are compared.

    `name` is as in `PROTOCOLS`, `source` says where the settings stand, and `remark` what else one has to know. None
    stands for all `real` clips, for the `real_stride` of the generator's latents, and for a network without batch norm
    (`bn_eps`; the published TensorFlow graph has 1e-3). Clips have `resolution` before the network's own `resize`, and
    `real_bytes` and `generated_bytes` are made there of floats in [0, 1]; what they go through then is the storage.
    `weights` names a file of `runtime.published_weights`. Covariances are divided by N - `ddof`. Of `is_splits` the
    first is the headline, and clips are shuffled before they are split.
    """

    name: str
    source: str
    generated: int = _setting("generated clips", 2048)
    real: int | None = _setting("real clips", 2048)
    repeats: int = _setting("pairs of sets, of which the mean is given", 1)
    reference: str = _setting("which real clips")
    split: str = _setting("real clips from")
    num_frames: int = _setting("frames", 16)
    real_stride: int | None = _setting("frame stride of real clips", 1)
    generated_stride: int = _setting("frame stride of generated clips", 1)
    window: str = _setting("real clips start")
    short_videos: str = _setting("real videos too short for the stride", DISCARDED)
    resolution: int = _setting("pixels of a clip", 256)
    real_resize: str = _setting("real clips resized")
    generated_resize: str = _setting("generated clips resized", AS_MADE)
    real_bytes: str = _setting("real clips become bytes by", ROUNDING)
    generated_bytes: str = _setting("generated clips become bytes by", ROUNDING)
    real_storage: str = _setting("real clips read from", DECODED)
    generated_storage: str = _setting("generated clips read from", DECODED)
    features: str = _setting("features", I3D_LOGITS)
    weights: str = _setting("weights")
    key_layout: str = _setting("parameters named as by")
    bn_eps: float | None = _setting("eps of batch norm")
    resize: str = _setting("resize to 224")
    input_range: str = _setting("pixels in", PLUS_MINUS_ONE)
    ddof: int = _setting("covariances divided by", 1)
    root: str = _setting("matrix root")
    kvd: str = _setting("kernel distance")
    is_network: str = _setting("Inception Score")
    is_frames: int = _setting("frames of the Inception Score", 16)
    is_splits: tuple[int, ...] = _setting("parts of the Inception Score", (1,))
    is_shuffle_seed: int | None = _setting("shuffle seed of the Inception Score", None)
    remark: str = ""

    @classmethod
    def settings(cls) -> dict[str, str]:
        """What each setting is called in words, by its name: all that bears on a number."""
        return {field.name: field.metadata["label"] for field in dataclasses.fields(cls) if field.metadata}

    def differs_from(self, other: Protocol) -> list[str]:
        """In words, one line for every setting that is another here than in `other`."""
        lines = []
        for name, label in self.settings().items():
            ours, theirs = _said(self, name), _said(other, name)
            no_score = NONE in (self.is_network, other.is_network) and name.startswith("is_")
            if ours != theirs and not (no_score and name != "is_network"):
                lines.append(f"{label}: {ours} ({other.name}: {theirs})")
        return lines


def protocol_hash(protocol: Protocol) -> str:
    """12 hex digits that stand for all settings: equal for protocols that give the same number of the same clips.

    Name, source and remark do not count.
    """
    settings = {name: getattr(protocol, name) for name in Protocol.settings()}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def _said(protocol: Protocol, name: str) -> str:
    """A setting's value in words."""
    value = getattr(protocol, name)
    if name == "ddof":
        return f"N - {value}" if value else "N"
    if value is None:
        return {"real": "all", "real_stride": "the generator's own"}.get(name, "none")
    if isinstance(value, tuple):
        return " and ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)


_TORCHSCRIPT = dict(weights="i3d_torchscript", key_layout="hassony2 (mixed_3b.branch_0)", bn_eps=1e-3, resize=SQUASH)
_PRETRAINED_400 = dict(weights="i3d_pretrained_400", key_layout="piergiaj (Mixed_3b.b0)", bn_eps=1e-5)
_DISTANCE_ALONE = dict(ddof=0, root=SQRTM, kvd=NONE, is_network=NONE)
_SCORED = dict(is_network=TORCHSCRIPT_C3D, is_splits=(10,), is_shuffle_seed=42)
_STYLEGAN_V = {**_TORCHSCRIPT, **_DISTANCE_ALONE, **_SCORED}
# Both make clips of every window, at 128 pixels, and take real and generated ones through bytes.
_VIDEOGPT = dict(window=EVERY_FRAME, resolution=128, real_resize=CROP, root=TFGAN, is_network=NONE)
_VIDEOGPT |= dict(real_bytes=CENTRED, generated_bytes=TRUNCATING, **_PRETRAINED_400)
_CD_FVD = dict(reference=EVERY_VIDEO, split=FOLDER_GIVEN, window=RANDOM_FRAME, short_videos=NEXT_VIDEO, real=None)
_CD_FVD |= dict(real_resize=SMOOTH, generated_resize=SMOOTH, real_bytes=TRUNCATING, generated_bytes=TRUNCATING)
_CD_FVD |= dict(
    resize=SQUASH,
    remark="With fewer generated videos than asked, they are drawn again until the number is reached. Clips that come "
    "as files or byte arrays are truncated only where they are resized.",
    **_DISTANCE_ALONE,
)

PAPER = Protocol(
    name="paper",
    source="PV-VAE section 4.1; what it leaves open is our choice",
    reference=STRATIFIED,
    split=GENERATORS_SPLIT,
    num_frames=17,
    real_stride=None,
    window=GENERATORS_WINDOW,
    short_videos=SHRUNK,
    real_resize=ANTIALIASED,
    generated_resize=ANTIALIASED,
    root=NUCLEAR,
    kvd=CUBIC,
    is_network=TGAN2_C3D,
    is_splits=(1, 10),
    remark="Clips are square, so that squashing and cropping are the same.",
    **_TORCHSCRIPT,
)

# Settings that the paper gives. How a file names its parameters is nobody's choice.
_GIVEN = ("generated", "real", "resolution", "is_network", "key_layout")


def guessed() -> list[str]:
    """In words, what the paper leaves open of how its numbers are made, and what our default fills in."""
    return [
        *(f"{label}: {_said(PAPER, name)}" for name, label in Protocol.settings().items() if name not in _GIVEN),
        "latents: of the train split (UCF101: the first of three; --split all takes every video), one random window of "
        "each video, of UCF101 at a frame stride of 3",
        "flips: none, neither of clips that latents are made of nor of real ones",
        "guidance: 1, that is none",
        "reconstruction: PSNR of each frame, SSIM in Gaussian windows of 11 pixels, LPIPS by AlexNet",
    ]


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        PAPER,
        Protocol(
            name="stylegan-v",
            source="universome/stylegan-v src/metrics (fvd2048_16f, isv2048_ucf), src/scripts/convert_videos_to_frames",
            reference=FIRST_SORTED,
            split=FOLDER_GIVEN,
            window=RANDOM_FRAME,
            real_resize=LANCZOS,
            real_storage=JPEG_75,
            remark="Kept statistics do not know how many clips they are of.",
            **_STYLEGAN_V,
        ),
        Protocol(
            name="latte",
            source="Vchitect/Latte tools/metrics (fvd2048_16f), tools/convert_videos_to_frames, sample/sample_ddp",
            reference=FOLDERS_DRAWN,
            split=ALL_OF_IT,
            real_stride=3,
            window=RANDOM_FRAME,
            real_resize=CROP_LANCZOS,
            real_storage=JPEG_75,
            generated_storage=MP4_JPEG,
            remark="One version of the code draws 20,480 clips under the same name, fvd2048_16f.",
            **_STYLEGAN_V,
        ),
        Protocol(
            name="videogpt",
            source="wilson1yan/VideoGPT scripts/compute_fvd.py, videogpt/data.py, videogpt/fvd",
            generated=256,
            real=256,
            repeats=4,
            reference=ONE_BATCH,
            split=TEST_SPLIT,
            resize=CROP,
            kvd=NONE,
            remark="256 clips span less than 400 features. Real features are centred in place by the first call.",
            **_VIDEOGPT,
        ),
        Protocol(
            name="tats",
            source="songweige/TATS scripts/sample_vqgan_transformer_short_videos.py, tats/data.py, tats/fvd",
            reference=WINDOWS_SHUFFLED,
            split=TRAIN_SPLIT,
            resize=SQUASH,
            kvd=CUBIC,
            remark="Generated clips are as many of each class. Sets must be multiples of 16.",
            **_VIDEOGPT,
        ),
        Protocol(
            name="cd-fvd",
            source="songweige/content-debiased-fvd cdfvd/fvd.py (as constructed by default: model='i3d')",
            **_CD_FVD,
            **_PRETRAINED_400,
        ),
        Protocol(
            name="cd-fvd-videomae",
            source="songweige/content-debiased-fvd cdfvd/fvd.py (model='videomae')",
            features="1,408 pooled features of VideoMAE-v2 ViT-g, fine-tuned on SSv2",
            weights="vit_g_hybrid_pt_1200e_ssv2_ft",
            key_layout="VideoMAE-v2",
            bn_eps=None,
            input_range="[0, 1], not normalised by ImageNet's mean",
            **_CD_FVD,
        ),
        Protocol(
            name="v-rae",
            source="V-RAE/V-RAE src/vrae/evaluation/common (ucf101_gfvd)",
            reference=SAMPLED,
            split=TRAIN_SPLIT,
            num_frames=17,
            real_stride=3,
            window=SHA256_FRAME,
            real_resize=CROP_LANCZOS,
            generated_storage=MP4,
            remark="Videos are numbered as in the authors' CSV list, here by path. Generated clips have 20 frames, of "
            "which the first 17 count, and take classes in turn.",
            **_TORCHSCRIPT,
            **_DISTANCE_ALONE,
        ),
    )
}

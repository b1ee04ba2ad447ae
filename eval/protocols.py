"""How the field makes FVD, KVD and IS: every setting of six protocols, spelled out, and in words how each differs from
ours.

Each of these settings moves the number, so a number without its protocol says little. They are those of the released
code; where a paper says otherwise, the code holds.
"""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass

from runtime.errors import InputError

# What settings are called; `eval.protocol_clips` and `eval.measure_protocol` know by these words what to do.
STRATIFIED = "a seeded, class-stratified draw of the clips that the generator learned from, other than the controls'"
FIRST_SORTED = "the first 2,048 folders in sorted order (few classes where folders are sorted by class)"
FOLDERS_DRAWN = "2,048 folders drawn anew in every run, without a seed"
ONE_BATCH = "one shuffled batch, without a seed; every window of a video is a clip of its own"
WINDOWS_SHUFFLED = "shuffled without a seed; every window of a video is a clip of its own"
EVERY_VIDEO = "every video of the folder given, in a shuffle seeded with 42"
GENERATORS_SPLIT, FOLDER_GIVEN = "the split of the generator's latents", "the folder given"
ALL_OF_IT = "the folder given (the authors: all of UCF101)"
TEST_SPLIT, TRAIN_SPLIT = "the test split", "the train split"
GENERATORS_WINDOW, RANDOM_FRAME, EVERY_FRAME = "where the generator's latents do", "at a random frame", "at every frame"
DECODED = "decoded video"
JPEG_75 = "JPEG frames of quality 75 (the code asks for 95 in a way that PIL ignores)"
ROUNDING, TRUNCATING = "rounding", "truncating"
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
    """One way to get from clips to numbers.

    Attributes:
        name: As in `PROTOCOLS`.
        source: Where the settings stand.
        generated, real: Clips of each set; None takes all real ones.
        repeats: How many such pairs of sets are drawn, each its own number, of which the mean is given.
        reference: Which real clips.
        split: Of the data set, that they come from.
        num_frames: Frames that the feature network sees.
        real_stride, generated_stride: Source frames between two of them; None: as the generator's latents.
        window: Where in a real video they start.
        resolution: Height and width of the clips in pixels, before the network's own resize.
        storage: What the clips go through on their way to the network.
        to_uint8: How floats become bytes: by "rounding" or "truncating".
        features: The feature network, and what of it is taken.
        weights: Its published file (`runtime.published_weights`).
        key_layout: How the file names its parameters.
        bn_eps: Of the network's batch norm; the published TensorFlow graph has 1e-3. None: it has none.
        resize: To the network's 224x224.
        input_range: Of the network's pixels.
        ddof: Covariances are divided by N - ddof.
        root: How the trace of the matrix root is found, and in which precision.
        kvd: Which kernel distance, or "none".
        is_network: Which classifier the Inception Score uses, or "none".
        is_frames: Frames that it sees.
        is_splits: Parts that scores are averaged over; the first is the headline.
        is_shuffle_seed: Clips are shuffled before they are split.
        remark: What else one has to know.
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
    resolution: int = _setting("pixels of a clip", 256)
    storage: str = _setting("clips read from")
    to_uint8: str = _setting("floats become bytes by", ROUNDING)
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

    def differs_from(self, other: Protocol) -> list[str]:
        """In words, one line for every setting that is another here than in `other`."""
        lines = []
        for setting in dataclasses.fields(self):
            ours, theirs = _said(self, setting.name), _said(other, setting.name)
            no_score = NONE in (self.is_network, other.is_network) and setting.name.startswith("is_")
            if "label" in setting.metadata and ours != theirs and not (no_score and setting.name != "is_network"):
                lines.append(f"{setting.metadata['label']}: {ours} ({other.name}: {theirs})")
        return lines


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


_TORCHSCRIPT = {"weights": "i3d_torchscript", "key_layout": "hassony2 (mixed_3b.branch_0)", "bn_eps": 1e-3}
_PRETRAINED_400 = {"weights": "i3d_pretrained_400", "key_layout": "piergiaj (Mixed_3b.b0)", "bn_eps": 1e-5}
_STYLEGAN_V_IS = {
    "is_network": TORCHSCRIPT_C3D,
    "is_splits": (10,),
    "is_shuffle_seed": 42,
}

PAPER = Protocol(
    name="paper",
    source="PV-VAE section 4.1; what it leaves open is our choice",
    reference=STRATIFIED,
    split=GENERATORS_SPLIT,
    num_frames=17,
    real_stride=None,
    window=GENERATORS_WINDOW,
    storage=DECODED,
    resize=SQUASH,
    root=NUCLEAR,
    kvd=CUBIC,
    is_network=TGAN2_C3D,
    is_splits=(1, 10),
    remark="Clips are square, so that squashing and cropping are the same.",
    **_TORCHSCRIPT,
)

PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        PAPER,
        Protocol(
            name="stylegan-v",
            source="universome/stylegan-v src/metrics (fvd2048_16f, isv2048_ucf)",
            reference=FIRST_SORTED,
            split=FOLDER_GIVEN,
            window=RANDOM_FRAME,
            storage=JPEG_75,
            resize=SQUASH,
            ddof=0,
            root=SQRTM,
            kvd=NONE,
            remark="Kept statistics do not know how many clips they are of.",
            **_TORCHSCRIPT,
            **_STYLEGAN_V_IS,
        ),
        Protocol(
            name="latte",
            source="Vchitect/Latte tools/metrics (fvd2048_16f)",
            reference=FOLDERS_DRAWN,
            split=ALL_OF_IT,
            real_stride=3,
            window=RANDOM_FRAME,
            storage=JPEG_75,
            resize=SQUASH,
            ddof=0,
            root=SQRTM,
            kvd=NONE,
            remark="One version of the code draws 20,480 clips under the same name, fvd2048_16f.",
            **_TORCHSCRIPT,
            **_STYLEGAN_V_IS,
        ),
        Protocol(
            name="videogpt",
            source="wilson1yan/VideoGPT scripts/compute_fvd.py",
            generated=256,
            real=256,
            repeats=4,
            reference=ONE_BATCH,
            split=TEST_SPLIT,
            window=EVERY_FRAME,
            resolution=128,
            storage=DECODED,
            to_uint8=TRUNCATING,
            resize=CROP,
            root=TFGAN,
            kvd=NONE,
            is_network=NONE,
            remark="256 clips span less than 400 features. Real features are centred in place by the first call.",
            **_PRETRAINED_400,
        ),
        Protocol(
            name="tats",
            source="songweige/TATS scripts/sample_vqgan_transformer_short_videos.py, tats/fvd",
            reference=WINDOWS_SHUFFLED,
            split=TRAIN_SPLIT,
            window=EVERY_FRAME,
            resolution=128,
            storage=DECODED,
            to_uint8=TRUNCATING,
            resize=SQUASH,
            root=TFGAN,
            kvd=CUBIC,
            is_network=NONE,
            remark="Generated clips are as many of each class. Sets must be multiples of 16.",
            **_PRETRAINED_400,
        ),
        Protocol(
            name="cd-fvd",
            source="songweige/content-debiased-fvd cdfvd/fvd.py (model='videomae')",
            real=None,
            reference=EVERY_VIDEO,
            split=FOLDER_GIVEN,
            window=RANDOM_FRAME,
            storage=DECODED,
            to_uint8=TRUNCATING,
            features="1,408 pooled features of VideoMAE-v2 ViT-g, fine-tuned on SSv2",
            weights="vit_g_hybrid_pt_1200e_ssv2_ft",
            key_layout="VideoMAE-v2",
            bn_eps=None,
            resize=SQUASH,
            input_range="[0, 1], not normalised by ImageNet's mean",
            ddof=0,
            root=SQRTM,
            kvd=NONE,
            is_network=NONE,
            remark="With fewer videos than asked, they are drawn again until the number is reached.",
        ),
    )
}


def find_protocol(name: str) -> Protocol:
    """A protocol by its name; InputError with the nearest one on any other."""
    if name not in PROTOCOLS:
        near = difflib.get_close_matches(name, PROTOCOLS, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(PROTOCOLS)}"
        raise InputError(f"protocol {name!r} is not known{hint}")
    return PROTOCOLS[name]

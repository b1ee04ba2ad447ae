"""Baselines whose networks are classes of the diffusers library, and any other autoencoder of it from a folder.

Fields of a class that are not named here are its defaults, which are those of the published file.
"""

from __future__ import annotations

import inspect
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from runtime.errors import InputError
from runtime.published_weights import PublishedFile
from runtime.run import read_json
from runtime.weights import load_model
from tokenizer.baselines.base import RANDOM, Baseline, BaselineTokenizer, Normalisation, seeded
from tokenizer.spec import SteppedSpec, TokenizerSpec

# Paths that a class takes for memory's sake and that change its numbers; all are off.
_MEMORY_SAVERS = ("use_framewise_encoding", "use_framewise_decoding", "use_tiling", "use_slicing")
# Attention in image autoencoders, as it is named in files of before 2023.
_OLD_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
_PROBE = 9  # frames: the fewest that tell a temporal stride of 8 from one of 16
_REFUSALS = (RuntimeError, ValueError, TypeError, AttributeError, NotImplementedError, LookupError, AssertionError)


# -- networks ---------------------------------------------------------------------------------------------------------


def diffusers_class(name: str) -> type[nn.Module]:
    """An autoencoder of diffusers by the name of its class.

    Raises:
        InputError: If diffusers is not installed, or has no such autoencoder.
    """
    try:
        import diffusers
    except ImportError as error:
        raise InputError(f"{name} is a class of diffusers, which is not installed: pip install pvvae[baselines]") from (
            error
        )
    with torch.device("cpu"):  # modules are imported here, with tensors of their own, also where a model has no memory
        found = getattr(diffusers, name, None) if name.startswith("Autoencoder") else None
    if not (inspect.isclass(found) and issubclass(found, nn.Module)):
        raise InputError(
            f"{name!r} is no autoencoder of diffusers {diffusers.__version__}; pip install -U pvvae[baselines] may help"
        )
    return found


def build(name: str, **config) -> nn.Module:
    """A network of that class, with random weights."""
    network = diffusers_class(name)(**config)
    for switch in _MEMORY_SAVERS:
        if hasattr(network, switch):
            setattr(network, switch, False)
    return network


# -- calls ------------------------------------------------------------------------------------------------------------


def encode_clip(network: nn.Module, video: Tensor) -> tuple[Tensor, Tensor | None]:
    """Mean and log-variance of a class that takes videos (None for a plain autoencoder)."""
    output = network.encode(video)
    posterior = getattr(output, "latent_dist", None)
    if posterior is None:
        return output.latent, None
    logvar = getattr(posterior, "logvar", None)
    return (posterior.mode(), None) if logvar is None else (posterior.mean, logvar)


def decode_clip(network: nn.Module, latents: Tensor) -> Tensor:
    """The video from a class that takes latents of videos."""
    output = network.decode(latents)
    return output if isinstance(output, Tensor) else output.sample


def encode_frames(network: nn.Module, video: Tensor) -> tuple[Tensor, Tensor | None]:
    """`encode_clip` of a class that takes pictures: frame by frame."""
    moments = encode_clip(network, video.transpose(1, 2).flatten(0, 1))
    return tuple(None if each is None else _as_clips(each, len(video)) for each in moments)


def decode_frames(network: nn.Module, latents: Tensor) -> Tensor:
    """`decode_clip` of a class that takes latents of pictures: frame by frame."""
    return _as_clips(decode_clip(network, latents.transpose(1, 2).flatten(0, 1)), len(latents))


def _as_clips(pictures: Tensor, count: int) -> Tensor:
    return pictures.unflatten(0, (count, -1)).transpose(1, 2)


def encode_vidtok(network: nn.Module, video: Tensor) -> tuple[Tensor, Tensor | None]:
    """Mean and log-variance from VidTok, which wants its first frame as often as a group has frames; its `decode` drops
    the copies."""
    copies = video[:, :, :1].expand(-1, -1, network.temporal_compression_ratio - 1, -1, -1)
    try:
        return encode_clip(network, torch.cat([copies, video], dim=2))
    finally:
        network._empty_causal_cached(network.encoder)  # a copy of every layer's input


def decode_vidtok(network: nn.Module, latents: Tensor) -> Tensor:
    """The video from VidTok."""
    try:
        return decode_clip(network, latents)
    finally:
        network._empty_causal_cached(network.decoder)


def published_normalisation(network: nn.Module) -> Normalisation | None:
    """What the pipelines of diffusers do with the latents of a network, by its config or the buffers in its weights."""
    config = dict(network.named_buffers()) | network.config
    scale = config.get("scaling_factor") or 1.0
    mean, std = (config.get(name) for name in ("latents_mean", "latents_std"))
    if mean is not None and std is not None:
        mean, std = (torch.as_tensor(values, dtype=torch.float64).flatten() for values in (mean, std))
        channels = config.get("latent_channels") or config.get("z_dim")
        if len(mean) != channels:  # of places in time too, as for Cosmos
            return None
        return Normalisation(tuple(mean.tolist()), tuple((std / scale).tolist()))
    if config.get("scaling_factor") is None:
        return None
    return Normalisation(config.get("shift_factor") or 0.0, 1.0 / scale)


# -- the table --------------------------------------------------------------------------------------------------------


def _hub(name: str, repository: str, revision: str, size: int, sha256: str, folder: str = "vae/") -> PublishedFile:
    """A file that is called the same in every repository, and so is kept in a folder of the baseline's name."""
    file = "diffusion_pytorch_model.safetensors"
    address = f"https://huggingface.co/{repository}/resolve/{revision}/{folder}{file}"
    return PublishedFile(f"{name}/{file}", size, sha256, address, f"the baseline {name}")


# Statistics of the latents of each channel, from the file of the authors of Wan2.2.
_WAN22_MEAN = (
    *(-0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382, 0.0542, 0.2813, 0.0891),
    *(0.1570, -0.0098, 0.0375, -0.1825, -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502),
    *(-0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230, -0.0313, -0.1649, 0.0117, 0.0723),
    *(-0.2839, -0.2083, -0.0520, 0.3748, 0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667),
)
_WAN22_STD = (
    *(0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901),
    *(0.6885, 0.6165, 0.8454, 0.4978, 0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659),
    *(0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093, 0.5709, 0.6065, 0.6415, 0.4944),
    *(0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744),
)
_WAN22 = {
    **{"z_dim": 48, "is_residual": True, "in_channels": 12, "out_channels": 12, "patch_size": 2},
    **{"scale_factor_spatial": 16, "latents_mean": _WAN22_MEAN, "latents_std": _WAN22_STD},
}
_KL = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    **{"layers_per_block": 2, "latent_channels": 4, "sample_size": 256},
}
_NARROW = {"block_out_channels": (32,) * 4, "layers_per_block": 1, "norm_num_groups": 4}


def _rename_old(name: str) -> str:
    for old, new in _OLD_NAMES.items():
        name = name.replace(old, new)
    return name


def _lightning(path: Path) -> dict[str, Tensor]:
    from runtime.state_dicts import read_checkpoint

    return read_checkpoint(path, "state_dict", dropped=("loss.", "regularization."))


def _row(
    shape: tuple[str, int, int, int], class_name: str, full: dict, tiny: dict, *, frame_step: int | None = None, **facts
) -> Baseline:
    """A baseline of (name, temporal, spatial, channels) and what its class is called with."""
    spec = dict(zip(("name", "temporal", "spatial", "channels"), shape, strict=True))
    calls = {"encode": encode_clip, "decode": decode_clip, "normalisation": published_normalisation}
    return Baseline(
        spec=SteppedSpec(**spec, frame_step=frame_step) if frame_step else TokenizerSpec(**spec),
        build=partial(build, class_name, **full),
        tiny=partial(build, class_name, **full | tiny),
        **calls | facts,
    )


ROWS = (
    _row(
        ("cogvideox", 4, 8, 16),
        "AutoencoderKLCogVideoX",
        {},
        _NARROW,
        frame_step=8,
        parameters=215_583_907,
        licence="Apache-2.0 (2b), CogVideoX licence (5b)",
        files=(
            _hub(
                "cogvideox",
                "THUDM/CogVideoX-2b",
                "1137dacfc2c9c012bed6a0793f4ecf2ca8e7ba01",
                862_388_596,
                "a410e48d988c8224cef392b68db0654485cfd41f345f4a3a81d3e6b765bb995e",
            ),
        ),
        remarks="encodes 8 frames and decodes 2 groups at a time, and norms pool over these: 1 and 1 + 8k frames alone "
        "come back; latents times 1.15258426 as for 2b, 0.7 for 5b and 1.5",
    ),
    _row(
        ("hunyuanvideo", 4, 8, 16),
        "AutoencoderKLHunyuanVideo",
        {},
        _NARROW,
        parameters=246_478_803,
        licence="Tencent Hunyuan community (not in every territory)",
        files=(
            _hub(
                "hunyuanvideo",
                "hunyuanvideo-community/HunyuanVideo",
                "main",
                0,
                "7c68a6295f9034a88225fbafb1f3258291a08d57a1fdb938233fa57b1b8f4883",
            ),
        ),
        remarks="blending over time, on by default in the class, is off; attention over all positions of a clip; not "
        "for float16",
    ),
    _row(
        ("hunyuanvideo1.5", 4, 16, 32),
        "AutoencoderKLHunyuanVideo15",
        {},
        {"block_out_channels": (32, 32, 32, 64, 64), "layers_per_block": 1},
        parameters=1_260_634_115,
        licence="Tencent Hunyuan community (not in every territory)",
        files=(_hub("hunyuanvideo1.5", "hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-480p_t2v", "main", 0, ""),),
        one_by_one=True,
        remarks="the class fails on more than one clip at a time",
    ),
    _row(
        ("wan2.1", 4, 8, 16),
        "AutoencoderKLWan",
        {},
        {"base_dim": 16},
        parameters=126_892_531,
        licence="Apache-2.0",
        clamps=True,
        files=(
            _hub(
                "wan2.1",
                "Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
                "0fad780a534b6463e45facd96134c9f345acfa5b",
                507_591_892,
                "d6e524b3fffede1787a74e81b30976dce5400c4439ba64222168e607ed19e793",
            ),
        ),
        remarks="one group at a time",
    ),
    _row(
        ("wan2.2", 4, 16, 48),
        "AutoencoderKLWan",
        {"base_dim": 160, "decoder_base_dim": 256, **_WAN22},
        {"base_dim": 16, "decoder_base_dim": 16},
        parameters=704_688_668,
        licence="Apache-2.0",
        clamps=True,
        files=(
            _hub(
                "wan2.2",
                "Wan-AI/Wan2.2-TI2V-5B-Diffusers",
                "b8fff7315c768468a5333511427288870b2e9635",
                2_818_777_808,
                "62cd18f19438e35b32ac63020e2852f566e9b02f46b6cdbd87972a356e3c6f4b",
            ),
        ),
        remarks="that of TI2V-5B; the 14B models use wan2.1",
    ),
    *(
        _row(
            (name, 4, spatial, 16),
            "AutoencoderVidTok",
            {"z_channels": 16, "ch_mult": [1, 2, 4, 4, 4][: 4 + (spatial == 16)]},
            {"ch": 32},
            parameters=parameters,
            licence="MIT",
            encode=encode_vidtok,
            decode=decode_vidtok,
            normalisation=None,
            read=_lightning,
            files=(
                PublishedFile(
                    file,
                    0,
                    "",
                    f"https://huggingface.co/microsoft/VidTok/resolve/main/checkpoints/vidtok_v1_1/{file}",
                    f"the baseline {name}",
                ),
            ),
            remarks="files of version 1.1 alone; the first frame is put in front three times more, and dropped again",
        )
        for name, spatial, parameters, file in (
            ("vidtok", 8, 157_949_351, "vidtok_kl_causal_488_16chn_v1_1.ckpt"),
            ("vidtok-s16", 16, 199_465_639, "vidtok_kl_causal_41616_16chn_v1_1.ckpt"),
        )
    ),
    _row(
        ("ltx", 8, 32, 128),
        "AutoencoderKLLTXVideo",
        {},
        {
            **{"block_out_channels": (32,) * 4, "decoder_block_out_channels": (32,) * 4},
            **{"layers_per_block": (1,) * 5, "decoder_layers_per_block": (1,) * 5},
        },
        parameters=419_193_649,
        licence="LTX-Video open weights",
        files=(
            _hub(
                "ltx",
                "Lightricks/LTX-Video",
                "8984fa25007f376c1a299016d0957a37a2f797bb",
                1_676_798_532,
                "265ca87cb5dff5e37f924286e957324e282fe7710a952a7dafc0df43883e2010",
            ),
        ),
        encoder_only=("encoder.", "latents_"),
        decoder_only=("decoder.", "latents_"),
        remarks="that of 0.9; statistics of the latents are in the weight file; the decoder is not causal",
    ),
    _row(
        ("cosmos", 8, 8, 16),
        "AutoencoderKLCosmos",
        {},
        {"encoder_block_out_channels": (32,) * 4, "decode_block_out_channels": (32,) * 4},
        parameters=105_653_696,
        licence="NVIDIA Open Model",
        normalisation=None,
        files=(_hub("cosmos", "nvidia/Cosmos-1.0-Diffusion-7B-Text2World", "main", 0, ""),),
        remarks="CV8x8x8, a plain autoencoder; the published statistics depend on the place in time, so measured ones "
        "are used",
    ),
    _row(
        ("sd1.5", 1, 8, 4),
        "AutoencoderKL",
        {"block_out_channels": (128, 256, 512, 512), **_KL},
        _NARROW,
        parameters=83_653_863,
        licence="MIT",
        encode=encode_frames,
        decode=decode_frames,
        rename=_rename_old,
        files=(
            _hub(
                "sd1.5",
                "stabilityai/sd-vae-ft-ema",
                "f04b2c4b",
                0,
                "32db726da04f06c1b6b14c0043ce115cc87a501482945c5add89a40d838fcb46",
                "",
            ),
        ),
        remarks="of pictures, frame by frame, so that a clip has as many groups as frames; the one that Latte used",
    ),
)


# -- any other, from a folder -----------------------------------------------------------------------------------------


def load_folder(folder: Path, weights: str | Path | None = None) -> BaselineTokenizer:
    """An autoencoder from a folder as diffusers writes it: config.json, that names its class, and one safetensors file.

    Its shape, and whether it takes videos or pictures, are found out by running it on a few frames of zeros.

    Args:
        weights: Another file, or "random".

    Raises:
        InputError: If the folder holds no such autoencoder, or the class does not give back clips of 1 + k frames.
    """
    path = folder / "config.json"
    config = read_json(path)
    name = config.get("_class_name") if isinstance(config, dict) else None
    if not isinstance(name, str):
        raise InputError(f"{path}: it names no class of diffusers (_class_name)")
    if config.get("timestep_conditioning"):
        raise InputError(f"{path}: the decoder of this {name} draws noise; it is no tokenizer that can be compared")
    taken = inspect.signature(diffusers_class(name).__init__).parameters
    fields = {key: value for key, value in config.items() if key in taken}

    def make() -> nn.Module:
        try:
            return build(name, **fields)
        except _REFUSALS as error:
            raise InputError(f"{path}: {name} refuses it ({_first_line(error)})") from error

    if weights == RANDOM:
        network = seeded(make)
    else:
        network, _ = load_model(make, Path(weights) if weights else _weight_file(folder), rename=_renaming(name))
    network.eval()
    facts = {"build": make, "tiny": make, "licence": "not known here", "normalisation": published_normalisation}
    facts["parameters"] = sum(parameter.numel() for parameter in network.parameters())
    video = (encode_vidtok, decode_vidtok) if name == "AutoencoderVidTok" else (encode_clip, decode_clip)
    reasons = []
    for encode, decode in (video, (encode_frames, decode_frames)):
        try:
            spec = probed(network, encode, decode, name)
        except _REFUSALS as error:
            reasons.append(_first_line(error))
        else:
            baseline = Baseline(spec=spec, encode=encode, decode=decode, **facts)
            return BaselineTokenizer(baseline, network, random_weights=weights == RANDOM)
    raise InputError(f"{folder}: {name} is no tokenizer of clips ({reasons[0]}) nor of pictures ({reasons[1]})")


def _renaming(class_name: str):
    return _rename_old if class_name in ("AutoencoderKL", "AutoencoderKLTemporalDecoder") else None


def _weight_file(folder: Path) -> Path:
    files = sorted(folder.glob("*.safetensors"))
    if len(files) != 1:
        raise InputError(f"{folder}: one safetensors file is wanted, it holds {len(files)}; name one with --weights")
    return files[0]


@torch.no_grad()
def probed(network: nn.Module, encode, decode, name: str) -> TokenizerSpec:
    """The shape of a tokenizer's latents, from runs on zeros.

    Raises:
        ValueError: If it does not give back what it takes; other errors as its class raises them.
    """
    for side in (32, 64, 128):
        try:
            picture = encode(network, torch.zeros(1, 3, 1, side, side))[0]
            break
        except _REFUSALS:
            if side == 128:
                raise
    _, channels, groups, height, width = picture.shape
    if groups != 1 or height != width or side % height:
        raise ValueError(f"a picture of {side} pixels gives latents {list(picture.shape[1:])}")
    longer = encode(network, torch.zeros(1, 3, _PROBE, side, side))[0].shape[2] - 1
    if longer < 1 or (_PROBE - 1) % longer:
        raise ValueError(f"{_PROBE} frames give {longer + 1} groups")
    temporal = (_PROBE - 1) // longer
    spec = TokenizerSpec(
        name=f"{name}-t{temporal}s{side // height}c{channels}",
        **{"temporal": temporal, "spatial": side // height, "channels": channels},
    )

    def returns(num_frames: int) -> bool:
        video = torch.zeros(1, 3, num_frames, side, side)
        return decode(network, encode(network, video)[0]).shape == video.shape

    if not returns(1):
        raise ValueError("a picture comes back in another size")
    for step in (temporal, 2 * temporal, 4 * temporal):
        if returns(1 + step):
            return spec if step == temporal else SteppedSpec(**spec.to_dict(), frame_step=step)
    raise ValueError(f"clips of 1 + {temporal}k frames come back in other lengths")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__

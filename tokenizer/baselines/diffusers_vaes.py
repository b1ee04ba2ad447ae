"""Baselines whose networks are classes of the diffusers library.

Fields of a class that are not named here are its defaults, which are those of the published file.
"""

from __future__ import annotations

from functools import partial

from runtime.published_weights import PublishedFile
from runtime.state_dicts import read_state_dict
from tokenizer.baselines.base import Baseline
from tokenizer.baselines.diffusers_classes import (
    build,
    decode_clip,
    decode_frames,
    decode_vidtok,
    encode_clip,
    encode_frames,
    encode_vidtok,
    published_normalisation,
    rename_old,
)
from tokenizer.spec import SteppedSpec, TokenizerSpec


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
            read=partial(read_state_dict, keys=("state_dict", ""), dropped=("loss.", "regularization.")),
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
        rename=rename_old,
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

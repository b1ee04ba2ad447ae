"""Baselines that no library has, written here from descriptions: one module each beside this one."""

from __future__ import annotations

from functools import partial

from runtime.published_weights import PublishedFile
from runtime.state_dicts import read_state_dict
from tokenizer.baselines import iv_vae, lean_vae, ss_vae, wf_vae
from tokenizer.baselines.base import Baseline, Normalisation
from tokenizer.spec import TokenizerSpec

_IV_VAE = iv_vae.VARIANTS["z16_dim96"]
# Of the latents' part, encoding uses `phi` alone.
_LEANVAE_DECODING = ("Q", "weights", "threshold", "forward_l", "backward_l")


def _file(name: str, filename: str, address: str) -> tuple[PublishedFile]:
    """The one file of a baseline; of none of them size or hash is published."""
    return (PublishedFile(filename, 0, "", address, f"the baseline {name}"),)


ROWS = (
    Baseline(
        spec=TokenizerSpec(name="iv-vae", temporal=4, spatial=8, channels=16),
        build=iv_vae.IVVAE,
        tiny=partial(iv_vae.IVVAE, width=8),
        parameters=241_854_742,
        normalisation=Normalisation(_IV_VAE.shift, 1.0 / _IV_VAE.scale),
        files=_file("iv-vae", "ivvae_z16_dim96.pth", "https://modelscope.cn/models/wpy1999/iv-vae"),
        read=read_state_dict,
        licence="MIT",
        encoder_only=("encoder.", "conv1."),
        decoder_only=("decoder.", "conv2."),
        remarks="z16_dim96, that of the paper; its authors sample where we take the mean",
    ),
    Baseline(
        spec=TokenizerSpec(name="wf-vae-l", temporal=4, spatial=8, channels=16),
        build=wf_vae.WFVAE,
        tiny=partial(wf_vae.WFVAE, base_channels=8, connect_channels=4),
        parameters=317_081_372,
        files=_file(
            "wf-vae-l",
            "wf-vae-l/diffusion_pytorch_model.safetensors",
            "https://huggingface.co/chestnutlzj/WF-VAE-L-16Chn/resolve/main/diffusion_pytorch_model.safetensors",
        ),
        read=wf_vae.read_state_dict,
        licence="Apache-2.0",
        remarks="128 of the parameters are fixed; decoding looks one group ahead; the published statistics of its "
        "latents are placeholders, so measured ones are used",
    ),
    Baseline(
        spec=TokenizerSpec(name="ssvae", temporal=4, spatial=16, channels=48),
        build=ss_vae.SSVAE,
        tiny=partial(ss_vae.SSVAE, 48, (4, 8, 16, 32, 32), stem_channels=2, encoder_blocks=1, decoder_blocks=2),
        parameters=315_177_859,
        normalisation=Normalisation(ss_vae.LATENTS_MEAN, ss_vae.LATENTS_STD),
        files=_file(
            "ssvae",
            "ch48_256p_15w_512p_5w.ckpt",
            "https://huggingface.co/zai-org/SSVAE/resolve/main/ch48_256p_15w_512p_5w.ckpt",
        ),
        # What the authors trained with beside the model is left out.
        read=partial(read_state_dict, keys=("state_dict",), dropped=("mask_token", "loss.")),
        licence="Apache-2.0",
    ),
    Baseline(
        spec=TokenizerSpec(name="leanvae", temporal=4, spatial=8, channels=16),
        build=lean_vae.LeanVAE,
        tiny=partial(lean_vae.LeanVAE, low_width=8, high_width=24),
        parameters=39_785_940,
        normalisation=Normalisation(std=1.0 / lean_vae.LATENT_FACTORS[16]),
        files=_file(
            "leanvae", "LeanVAE-dim16.ckpt", "https://huggingface.co/Yumic/LeanVAE/resolve/main/LeanVAE-dim16.ckpt"
        ),
        read=partial(read_state_dict, keys=("state_dict",)),
        licence="MIT",
        encoder_only=("encoder.", "std_layer."),
        decoder_only=("decoder.", *(f"latent_bottleneck.{part}" for part in _LEANVAE_DECODING)),
        remarks="pixels in [-0.5, 0.5] inside; has public Latte weights for UCF101",
    ),
)

"""PV-VAE: a causal 3D video VAE that can decode a clip of which the encoder has seen only the beginning.

Legend: B batch, T frames after the first, G = 1 + T/4 latent groups, C latent channels, h = H/s and w = W/s latent
    cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from numbers import Integral
from pathlib import Path

import torch
from torch import Tensor, nn

from runtime.errors import InputError
from tokenizer.config import DECODER_FIELDS, PVVAEConfig
from tokenizer.predictive import PADDING_CLASSES, dropped_places, observed_places, pad_dropped, unused_parameters_term
from tokenizer.spec import LOGVAR_RANGE, LatentStatistics, Posterior, check_latents, check_video, weights_hash

# What a weight file may hold beside the weights: statistics `[C]` of the latents.
STATISTICS = ("latents_mean", "latents_std")


class PVVAE(LatentStatistics):
    """Encoder, decoder and padding of one PV-VAE. Latents are raw on both sides; see `normalize`."""

    def __init__(self, config: PVVAEConfig):
        super().__init__(config.latent_channels)
        self.config = config
        self.spec = config.spec
        if config.architecture == "cnn":
            from tokenizer.cnn import Decoder, Encoder
        else:  # imported only where it is wanted: timm takes seconds
            from tokenizer.transformer import Decoder, Encoder
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.padding = PADDING_CLASSES[config.padding](config.latent_channels)
        self._hashes_before_cast: tuple[str, str] | None = None

    # -- encode -------------------------------------------------------------------------------------------------------

    def encode(self, video: Tensor, chunk_groups: int | None = None) -> Posterior:
        """Encode a clip; every latent group depends on its own and earlier frames only.

        Args:
            video: `[B, 3, 1+T, H, W]` float in [-1, 1], T a multiple of 4, H and W of the spatial stride.
            chunk_groups: Latent groups computed at a time; None: all at once. The result is the same within 1e-5
                (float32).

        Returns:
            Posterior over `[B, C, G, h, w]`, float32, not normalised.

        Raises:
            InputError: If shape or dtype does not fit; the message gives the nearest valid size.
        """
        check_video(video, self.spec, values=not self.training)  # training does not wait, and sees NaN in its losses
        groups = self.spec.groups(video.shape[2])
        chunk = _check_chunk(chunk_groups, groups)
        video = video.to(_dtype_of(self.encoder))
        past, parts = None, []
        for start in range(0, groups, chunk):
            stop = min(start + chunk, groups)
            first = 0 if start == 0 else self.spec.frames(start)
            moments, past = self.encoder(video[:, :, first : self.spec.frames(stop)], past)
            parts.append(moments)
        mean, logvar = torch.cat(parts, dim=2).float().chunk(2, dim=1)
        return Posterior(mean, logvar.clamp(*LOGVAR_RANGE))

    # -- decode -------------------------------------------------------------------------------------------------------

    def decode(self, latents: Tensor, chunk_groups: int | None = None) -> Tensor:
        """Decode raw latents `[B, C, G, h, w]` to `[B, 3, 1+T, H, W]` float32, nominally in [-1, 1] but not clamped.

        Args:
            latents: Raw, as `encode` returns them.
            chunk_groups: Latent groups decoded at a time; None: all at once.

        Raises:
            InputError: If the number of channels or dimensions does not fit.
        """
        check_latents(latents, self.spec)
        groups = latents.shape[2]
        chunk = _check_chunk(chunk_groups, groups)
        latents = latents.to(_dtype_of(self.decoder))
        past, parts = None, []
        for start in range(0, groups, chunk):
            frames, past = self.decoder(latents[:, :, start : start + chunk], past)
            parts.append(frames.float())
        return torch.cat(parts, dim=2)

    def forward(
        self,
        video: Tensor,
        *,
        dropped: int | Sequence[int] = 0,
        noise: Tensor | None = None,
        padding_noise: Tensor | None = None,
    ) -> tuple[Tensor, Posterior]:
        """One predictive reconstruction (PV-VAE section 3.2), as trained.

        Every trainable parameter gets a gradient from the result at each call in training mode, of zeros where it had
        no part.

        Args:
            video: `[B, 3, 1+T, H, W]` float in [-1, 1].
            dropped: Places 1 … G-1 of the latent groups that the encoder does not see, or how many of the last ones: it
                sees the frames of the others as one shorter clip.
            noise: Standard normal `[B, C, G, h, w]` for the posterior sample (places of dropped groups are not used).
            padding_noise: For the "gaussian" padding, `[B, C, k, h, w]`.

        Returns:
            All 1+T decoded frames, and the posterior of the observed groups `[B, C, G-k, h, w]`.

        Raises:
            InputError: If the video does not fit, or `dropped` names groups that may not be dropped.
        """
        groups = self.spec.groups(video.shape[2])
        places = dropped_places(dropped, groups)
        observed = observed_places(places, groups)
        parts = [video[:, :, frames] for frames in self._frames_of(observed)]
        # The class's own methods: FSDP2 wraps those of the instance, to gather the weights when one is called alone,
        # and in here it would let go of the padding's before their gradient is computed.
        # A frozen encoder is run as for inference, which has shorter ways and keeps nothing.
        trained = video.requires_grad or any(parameter.requires_grad for parameter in self.encoder.parameters())
        with torch.set_grad_enabled(trained and torch.is_grad_enabled()):
            posterior = PVVAE.encode(self, parts[0] if len(parts) == 1 else torch.cat(parts, dim=2))
        latents = posterior.sample(None if noise is None else noise[:, :, list(observed)])
        padded = pad_dropped(self.padding, latents, places, padding_noise)
        if self.training and not places:
            padded = padded + unused_parameters_term(self.padding)
        return PVVAE.decode(self, padded), posterior

    def predict(self, observed_video: Tensor, groups: int | Sequence[int], chunk_groups: int | None = None) -> Tensor:
        """Decode the observed frames and the latent groups that were not observed.

        Args:
            observed_video: `[B, 3, 1+t, H, W]` float in [-1, 1], t a multiple of 4.
            groups: How many latent groups follow, 4 frames each; >= 0. Or the places, in the whole clip, of those to
                fill in: `predict(video, [2])` takes the first 5 frames of `video` for groups 0 and 1, the next 4 for
                group 3, and so on. Only weights trained with the schedule "infill" have learnt that.
            chunk_groups: As in `encode` and `decode`.

        Returns:
            `[B, 3, 1+t+4k, H, W]` for k such groups, from the posterior mean. Meant for weights trained with dropping:
            decoder fine-tuning ends that, so take the checkpoint of the video stage.
        """
        if isinstance(groups, Integral) and groups < 0:
            raise InputError(f"groups to predict must be at least 0, got {groups}")
        latents = self.encode(observed_video, chunk_groups).mode()
        return self.decode(pad_dropped(self.padding, latents, groups), chunk_groups)

    def _frames_of(self, groups: Sequence[int]) -> list[slice]:
        """The frames of latent groups, as one slice for each row of neighbours."""
        starts = [group for group in groups if group - 1 not in groups]
        stops = [group + 1 for group in groups if group + 1 not in groups]
        return [
            slice(0 if start == 0 else self.spec.frames(start), self.spec.frames(stop))
            for start, stop in zip(starts, stops, strict=True)
        ]

    # -- identity -----------------------------------------------------------------------------------------------------

    def cast(self, dtype: torch.dtype) -> PVVAE:
        """Hold the weights in `dtype`, for inference without autocast; returns itself.

        Statistics of latents stay float32, and both hashes those of the weights before, which name the tokenizer.
        """
        self._hashes_before_cast = self.encoder_hash, self.decoder_hash
        for network in (self.encoder, self.decoder, self.padding):
            network.to(dtype)
        return self

    @property
    def encoder_hash(self) -> str:
        """16 hex digits over the encoder's config and weights: what latents depend on."""
        if self._hashes_before_cast:
            return self._hashes_before_cast[0]
        config = {name: value for name, value in self.config.to_dict().items() if name not in DECODER_FIELDS}
        return weights_hash(config, self.encoder.state_dict())

    @property
    def decoder_hash(self) -> str:
        """16 hex digits over the config and the weights of decoder and padding."""
        if self._hashes_before_cast:
            return self._hashes_before_cast[1]
        tensors = {**self.decoder.state_dict(), **{f"padding.{k}": v for k, v in self.padding.state_dict().items()}}
        return weights_hash(self.config.to_dict(), tensors)

    def _hashes(self) -> str:
        return f"encoder {self.encoder_hash}, decoder {self.decoder_hash}"

    # -- files --------------------------------------------------------------------------------------------------------

    def save_pretrained(self, directory: str | Path) -> None:
        """Write config.json and model.safetensors into `directory` (created; each file replaced at once).

        The weights carry the latent statistics, and the hashes that `from_pretrained` compares. `tokenizer.export` adds
        a model card.
        """
        from runtime.records import write_json
        from runtime.weights import write_weights

        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        tensors = {**self.state_dict(), "latents_mean": self.latents_mean, "latents_std": self.latents_std}
        # Of float32, which is what they are read into.
        single = self
        if any(value.dtype != torch.float32 for value in self.parameters()):
            single = deepcopy(self).float()
            single._hashes_before_cast = None
        write_weights(directory / "model.safetensors", tensors, {"hashes": single._hashes()})
        write_json(directory / "config.json", self.config.to_dict())

    def push_to_hub(self, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
        """Send the weights to the Hugging Face Hub, with a model card; returns the address of the repository.

        `tokenizer.export` sends more: the weights of the video stage, and what is known of training and evaluation.

        Args:
            repo_id: "user/name", made if need be.
            private: Seen by its owner alone; a repository that is public already is refused.
            token: With write access; None: the one of `hf auth login` or `$HF_TOKEN`.

        Raises:
            InputError: If the name is none, huggingface_hub is not installed, or the Hub refuses.
        """
        from tempfile import TemporaryDirectory

        from tokenizer.hub import check_repo_id, push_folder
        from tokenizer.model_card import model_card, write_card

        check_repo_id("repo_id", repo_id)
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            write_card(Path(folder), model_card(self, Path(folder), title=repo_id.split("/")[1]))
            return push_folder(folder, repo_id, private=private, token=token)

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, *, subfolder: str = "", download: bool = False, revision: str | None = None
    ) -> PVVAE:
        """Read what `save_pretrained` wrote; every mismatch between config, weights and hashes is an InputError.

        Args:
            name_or_path: A folder, or "user/name" of the Hugging Face Hub.
            subfolder: "video" for the weights of the video stage, where there are any.
            download: Whether the Hub may be asked; without it, nothing is.
            revision: Branch, tag or commit on the Hub.
        """
        from runtime.records import read_json
        from runtime.weights import load_model, read_metadata
        from tokenizer.hub import pretrained_folder

        directory = pretrained_folder(name_or_path, subfolder, download=download, revision=revision)
        source = directory / "model.safetensors"
        config = PVVAEConfig.from_dict(read_json(directory / "config.json"), directory / "config.json")
        vae, statistics = load_model(lambda: cls(config), source, optional=STATISTICS)
        if statistics:
            if len(statistics) < len(STATISTICS):
                raise InputError(f"{source}: holds one of {' and '.join(STATISTICS)}; it needs both or none")
            try:
                vae.set_latent_statistics(*statistics.values())
            except InputError as error:
                raise InputError(f"{source}: {error}") from error
        found, written = vae._hashes(), read_metadata(source).get("hashes")
        if written not in (None, found):
            raise InputError(
                f"{directory}: config.json and model.safetensors do not belong together, or are damaged (hashes of "
                f"{found}; when written, {written}); fetch or write them again"
            )
        return vae.eval()


def _dtype_of(network: nn.Module) -> torch.dtype:
    """What a network computes in outside of autocast; encoder and decoder may differ."""
    return next(network.parameters()).dtype


def _check_chunk(chunk_groups: int | None, groups: int) -> int:
    if chunk_groups is None:
        return groups
    if chunk_groups < 1:
        raise InputError(f"chunk_groups must be at least 1, got {chunk_groups}")
    return chunk_groups

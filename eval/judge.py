"""Everything that judging one generator shares: the real sets, the feature network, and features that are kept."""

from __future__ import annotations

import json
import zlib
from functools import partial
from pathlib import Path

from runtime.errors import InputError
from runtime.records import check_fields


def choose_features(features: str, data: str) -> str:
    """The feature network that `--features` means for a data set."""
    return ("shapes" if data.startswith("moving_shapes") else "i3d") if features == "auto" else features


def load_chosen(features: str, data: str, device: str):
    """The feature network; when published weights are absent, the error also names the way without them."""
    from eval.features import load_features
    from runtime.processes import resolve_device

    name = choose_features(features, data)
    try:
        return load_features(name, device=str(resolve_device(device)))
    except InputError as error:
        hint = "; --features shapes gives a distance under another name (FD-shapes) without it" if name == "i3d" else ""
        raise InputError(f"{error}{hint}") from error


# C3D names the classes of UCF101; on other clips its Inception Score says nothing.
IS_DATA_SETS = ("ucf101",)


def load_classifier(facts: dict, device: str):
    """(C3D for the Inception Score or None, why there is none); nothing to say where the score is not asked for."""
    from eval.features import load_features
    from runtime.processes import resolve_device

    if facts["data"] not in IS_DATA_SETS:
        return None, ""
    if json.loads(facts["clip"])["num_frames"] < 16:
        return None, "C3D sees 16 frames, and these clips have fewer"
    try:
        return load_features("c3d", device=str(resolve_device(device))), ""
    except InputError as error:
        return None, str(error).split(";")[0]


class Judge:
    """Everything that judging one generator shares: its facts, the real sets, the feature network, and kept features.

    Without `features` it has no network: whoever judges by a protocol brings that protocol's own.
    """

    def __init__(
        self,
        run: str,
        *,
        features: str | None,
        root: str | None,
        samples: int,
        seed: int,
        device: str,
        step: int | None = None,
        tokenizer: str | None = None,
    ):
        from eval.decode import fitting_tokenizer
        from eval.sets import open_training_clips, stratified_halves
        from generator.loading import SHIPPED, load_generator
        from runtime.processes import start_processes

        self.world = start_processes(device)
        generator = load_generator(run, step)
        self.facts, self.step, self.seed, self.device, self.samples_asked = (
            generator.latents,
            generator.step,
            seed,
            str(self.world.device),
            samples,
        )
        self.run, self.shipped = run, run in SHIPPED
        check_fields(self.facts, {"data": str, "split": str, "clip": str, "rows": int}, f"{run}: facts of its latents")
        if features is not None:
            self.network = load_chosen(features, self.facts["data"], self.device)
            self.classifier, self.no_classifier = load_classifier(self.facts, self.device)
        # Before anything is sampled: the wrong tokenizer should cost nothing.
        self.vae = fitting_tokenizer(self.facts, run, tokenizer, self.device)
        self.dataset = open_training_clips(self.facts, root)
        # Only what was encoded: --max-clips may have left out the rest of the data set.
        copies = int(self.facts.get("windows", 1)) * (2 if self.facts.get("flip") else 1)
        labels = self.dataset.labels()[: int(self.facts["rows"]) // copies]
        self.reference_items, self.other_items = stratified_halves(labels, samples, seed)
        self.dir = generator.dir

    def folder(self, runs_dir: str) -> Path:
        """Where results of this generator go."""
        return (Path(runs_dir) / f"shipped-{self.run}" if self.shipped else self.dir) / "eval"

    def _key(self, **more) -> dict:
        return {
            "features": self.network.name,
            "weights": self.network.version_hash,
            "data": self.dataset.fingerprint(),
            "clip": self.facts["clip"],
            "seed": self.seed,
            "samples": self.samples_asked,
            **({"classifier": self.classifier.version_hash} if self.classifier else {}),
            **more,
        }

    def real(self, folder: Path, subject: str):
        """Features of real clips: the "reference"; and of the other half "real", "frozen", "shuffled", "reconstructed".

        "reconstructed-reference" is the reference through the tokenizer: what a perfect generator of latents would
        reach.

        Raises:
            InputError: When all clips of the reference have the same features.
        """
        from eval.sets import feature_batches, frozen, kept_features, real_batches, reconstructed, shuffled

        items = self.reference_items if subject.endswith("reference") else self.other_items
        through_tokenizer = subject.startswith("reconstructed")
        change = {"frozen": frozen, "shuffled": partial(shuffled, seed=self.seed)}.get(subject)
        if through_tokenizer:
            change = partial(reconstructed, vae=self.vae, device=self.device)
        key = {"decoder": self.vae.decoder_hash, "encoder": self.vae.encoder_hash} if through_tokenizer else {}
        found = kept_features(
            folder / "features",
            subject,
            self._key(subject=subject, **key),
            items,
            lambda rows: feature_batches(
                self.network,
                real_batches(self.dataset, [items[row] for row in rows], self.seed),
                change,
                self.device,
                self.classifier,
            ),
            self.world,
        )
        if subject == "reference" and found.is_constant:
            raise InputError(
                f"the {len(items)} real clips of {self.facts['data']} have the same features: they all show the same; "
                "--root names their folder"
            )
        return found

    def samples(self, config, *, guidance_scale: float = 1.0, step: int | None = None, untrained: bool = False) -> Path:
        """The file of sampled latents; samples what is missing."""
        from eval.decode import sampled

        return sampled(
            config,
            self.run,
            self.samples_asked,
            step=step,
            # An untrained network's velocity is exactly zero, so one step ends where a hundred would.
            steps=1 if untrained else config.steps,
            guidance_scale=guidance_scale,
            batch_size=config.batch_size,
            untrained=untrained,
        )

    def generated(
        self, folder: Path, config, *, guidance_scale: float = 1.0, step: int | None = None, untrained: bool = False
    ):
        """Features of generated clips; samples what is missing."""
        from eval.decode import decoded_clips
        from eval.sets import feature_batches, kept_features
        from latents_cache import open_latents

        path = self.samples(config, guidance_scale=guidance_scale, step=step, untrained=untrained)
        with open_latents(path) as reader:
            latents = zlib.crc32(reader.batch(range(self.samples_asked))["mean"].tobytes())
            key = self._key(
                subject="generated", file=path.name, latents=latents, decoder=self.vae.decoder_hash, dtype=config.dtype
            )
            return kept_features(
                folder / "features",
                path.stem,
                key,
                range(self.samples_asked),
                lambda rows: feature_batches(
                    self.network,
                    decoded_clips(reader, self.vae, rows, device=self.device, dtype=config.dtype),
                    None,
                    self.device,
                    self.classifier,
                ),
                self.world,
            )

"""The sets of clips that are compared: the real reference, other real clips and what is made of them for control, and
a generator's own."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from eval.decode import clips_at_once, decoded, file_word, fitting_tokenizer, sampled
from eval.extract import Batch, View, extract, read_items, record_of, seen_by
from eval.features import load_features
from eval.features.store import FeatureSet, FeatureStore
from generator.loading import SHIPPED, load_generator
from generator.sample import check_guidance, options_word, sampling_of, sampling_options
from latents_cache import open_latents
from runtime.errors import InputError
from runtime.processes import resolve_dtype, start_processes
from runtime.records import check_fields, from_record
from runtime.seeds import numpy_generator
from videos import ClipSpec, open_dataset, to_float, to_uint8
from videos.batches import window_seed
from videos.splits import stratified_order
from videos.unreadable import UnreadableClip

# C3D names the classes of UCF101; on other clips its Inception Score says nothing.
IS_DATA_SETS = ("ucf101",)
# Of the half that no generator is compared with: the clips as they are, and what is made of them.
CONTROLS = ("real", "frozen", "shuffled", "reconstructed")


# -- draws -------------------------------------------------------------------------------------------------------------


def open_training_clips(facts: dict, root: str | None = None):
    """The data set that a generator's latents were encoded from, with the same split and clip.

    Raises:
        InputError: If it is a synthetic one that an earlier version drew otherwise.
    """
    spec = from_record(ClipSpec, json.loads(facts["clip"]), "the clip of the latents")
    found = open_dataset(facts["data"], root=root or facts.get("root") or None, split=facts["split"], clip=spec)
    encoded = facts.get("data_fingerprint")
    if encoded and not hasattr(found, "sources") and encoded != found.fingerprint():
        raise InputError(
            f"{facts['data']}: the latents were encoded by an earlier version, which drew other clips (fingerprint "
            f"{encoded}, now {found.fingerprint()}); encode and train again"
        )
    return found


def stratified_halves(labels: Sequence[int], count: int, seed: int) -> tuple[list[int], list[int]]:
    """Two disjoint, seeded, class-stratified sets of up to `count` items each; when items are short, half of them each.

    Both mix classes as `stratified_order` does, and those of a smaller count are the first ones of a larger.
    """
    dealt = stratified_order(labels, seed)
    # Whole rounds of classes go to one half or the other in turn, so that both are stratified.
    width = len(set(labels))
    first = [item for position, item in enumerate(dealt) if position // width % 2 == 0]
    second = [item for position, item in enumerate(dealt) if position // width % 2 == 1]
    return first[:count], second[:count]


def real_clips(dataset, items: Sequence[int], seed: int, count: int | None = None) -> tuple[Tensor, list[int]]:
    """(uint8 `[n, 3, 1+T, H, W]`, labels) of the first `count` items that can be decoded, each with its own window.

    Raises:
        InputError: If none can.
    """
    found = []
    for item in items:
        if len(found) == count:
            break
        try:
            found.append(dataset.item(item, window_seed(seed, 0, item)))
        except UnreadableClip:
            continue  # encoding has told of it
    if not found:
        raise InputError("none of these clips can be decoded")
    return torch.from_numpy(np.stack([one["video"] for one in found])), [int(one["label"]) for one in found]


def names_of(dataset, items: Sequence[int]) -> list[str]:
    """What tells the items of a data set apart: the file below its root; of what is drawn, not filmed, the number."""
    if not hasattr(dataset, "sources"):
        return [str(item) for item in items]
    return [dataset.name_of(item) for item in items]


def sample_names(reader, count: int) -> list[str]:
    """What tells the first samples of a file apart: place, label, and the checksum of the latents."""
    return [
        f"{row}-{reader.labels[row]}-{zlib.crc32(latents.tobytes()):08x}"
        for start in range(0, count, 1024)
        for row, latents in enumerate(reader.batch(range(start, min(start + 1024, count)))["mean"], start)
    ]


# -- controls ----------------------------------------------------------------------------------------------------------


def frozen(video: Tensor) -> Tensor:
    """Every frame replaced by the first: right pictures, no motion."""
    return video[:, :, :1].expand_as(video).contiguous()


def shuffled(video: Tensor, seed: int = 0) -> Tensor:
    """Frames in random order, drawn from the clip itself and so in any batch the same: right pictures, wrong motion."""
    seeds = [zlib.crc32(clip.numpy().tobytes()) for clip in video]
    order = [torch.from_numpy(numpy_generator(seed, "shuffle", s).permutation(video.shape[2])) for s in seeds]
    return torch.stack([clip[:, places] for clip, places in zip(video, order, strict=True)])


def reconstructed(video: Tensor, vae, device: torch.device) -> Tensor:
    """Each clip through encoder (the mean) and decoder, in float32 where no autocast is on: uint8 `[B, 3, 1+T, H, W]`
    like `video`."""
    vae = vae.to(device)
    with torch.no_grad():
        parts = video.split(clips_at_once(*video.shape[2:]))
        return torch.cat([to_uint8(vae.decode(vae.encode(to_float(part.to(device))).mode())).cpu() for part in parts])


# -- networks ----------------------------------------------------------------------------------------------------------


def choose_features(features: str, data: str) -> str:
    """The feature network that `--features` means for a data set."""
    return ("shapes" if data.startswith("moving_shapes") else "i3d") if features == "auto" else features


def load_chosen(features: str, data: str, device: str | torch.device):
    """The feature network; when published weights are absent, the error also names the way without them."""
    name = choose_features(features, data)
    try:
        return load_features(name, device=str(device))
    except InputError as error:
        hint = "; --features shapes gives a distance under another name (FD-shapes) without it" if name == "i3d" else ""
        raise InputError(f"{error}{hint}") from error


def load_classifier(facts: dict, device: str | torch.device):
    """(C3D for the Inception Score or None, why there is none); nothing to say where the score is not asked for."""
    if facts["data"] not in IS_DATA_SETS:
        return None, ""
    if from_record(ClipSpec, json.loads(facts["clip"]), "the clip of the latents").num_frames < 16:
        return None, "C3D sees 16 frames, and these clips have fewer"
    try:
        return load_features("c3d", device=str(device)), ""
    except InputError as error:
        return None, str(error).split(";")[0]


@dataclass(frozen=True, kw_only=True)
class Watcher:
    """A network that looks at clips, and what a protocol does to them before.

    Attributes:
        network: Of `eval.features`, or one that behaves so.
        real: uint8 clips as read -> uint8 clips; None: as they are.
        generated: float clips in [-1, 1] as decoded -> uint8 clips.
        key: What of the protocol its features depend on.
    """

    network: object
    real: Callable[[Tensor], Tensor] | None = None
    generated: Callable[[Tensor], Tensor] = to_uint8
    key: Mapping[str, object] = field(default_factory=dict)

    def view(self, root: Path, device: torch.device, change: Callable | None, count: int | None = None, **key) -> View:
        """Its view of the first `count` clips, kept below `root` by `key`."""
        key = {"network": self.network.name, "weights": self.network.version_hash, **self.key, **key}
        store = FeatureStore(root, f"{key['data']}-{key['picture']}-{key['network']}", key)
        return View(store=store, see=seen_by(self.network, device), change=change, count=count)


def scales_of(config) -> tuple[float, ...]:
    """The scales of guidance that a command asks for, one or several."""
    return tuple(getattr(config, "guidance_scales", None) or (config.guidance_scale,))


# -- the sets of one generator -----------------------------------------------------------------------------------------


class Judge:
    """The sets that one generator is judged by, and what networks see of them.

    Attributes:
        facts: Of the latents that it learned from.
        step: Its checkpoint.
        size: Of its network, a LatteConfig.
        network: The feature network of that name ("auto": what fits the data set), or None.
        vae: What decodes its samples.
        hashes: Of its "encoder" and "decoder".
        dataset: Its training clips.
        reference_items, other_items: Two disjoint, class-stratified draws of them.
        run_folder: Of the generator; shipped weights have one of their own below `runs_dir`.
        results_folder: Where its results go.
    """

    def __init__(
        self,
        run: str,
        config,
        *,
        root: str | None = None,
        step: int | None = None,
        tokenizer: str | None = None,
        weights: str | None = None,
        features: str | None = None,
    ):
        """Args:
        run: Of `generator.train`, or a shipped name.
        config: Of the command: `SamplingFlags`, `DecoderFlags`, and samples, batch_size and the scales of guidance.
        """
        self.world = start_processes(config.device)
        self.device, self.config, self.run = self.world.device, config, run
        generator = load_generator(run, step)
        for scale in scales_of(config):
            check_guidance(generator, run, scale)
        self.facts, self.step, self.size = generator.latents, generator.step, generator.config
        check_fields(self.facts, {"data": str, "split": str, "clip": str, "rows": int}, f"{run}: facts of its latents")
        self.network = features and load_chosen(features, self.facts["data"], self.device)
        # Before anything is sampled: the wrong tokenizer should cost nothing.
        self.vae = fitting_tokenizer(
            self.facts, run, tokenizer, weights, device=config.device, download=config.download
        )
        # Once: they are over all weights, and keys of every pass need them.
        self.hashes = {"encoder": self.vae.encoder_hash, "decoder": self.vae.decoder_hash}
        self.dataset = open_training_clips(self.facts, root)
        # Only what was encoded: --max-clips may have left out the rest of the data set.
        copies = int(self.facts.get("windows", 1)) * (2 if self.facts.get("flip") else 1)
        labels = self.dataset.labels()[: int(self.facts["rows"]) // copies]
        self.reference_items, self.other_items = stratified_halves(labels, config.samples, config.seed)
        if min(len(self.reference_items), len(self.other_items)) < 2:
            found = f"{len(self.reference_items)} and {len(self.other_items)}"
            raise InputError(
                "the clips that the latents were encoded from are too few for two sets to compare with "
                f"({found}, at least 2 each): every class needs two; encode more of them"
            )
        self.run_folder = Path(config.runs_dir) / f"shipped-{run}" if run in SHIPPED else generator.dir
        self.results_folder = self.run_folder / "eval"
        self.features_folder = Path(config.runs_dir) / "features"
        self._samples_of: dict[Path, Path] = {}
        self._dtype = resolve_dtype(config.dtype, self.device)

    def real(
        self, items: Sequence[int], pictures: Sequence[str], watchers: Mapping[str, Watcher], dataset=None, **key
    ) -> dict[tuple[str, str], FeatureSet]:
        """What watchers see of real clips, by (picture, watcher); each clip is read once.

        Args:
            items: Of the data set.
            pictures: Of `CONTROLS`: "real", "frozen", "shuffled", "reconstructed".
            watchers: By any name.
            dataset: The items' own; default: the generator's training clips.
            key: What else features depend on.

        Raises:
            InputError: When all of the real clips have the same features.
        """
        own = dataset is None
        dataset = self.dataset if own else dataset
        changes = {
            "frozen": frozen,
            "shuffled": partial(shuffled, seed=self.config.seed),
            "reconstructed": partial(reconstructed, vae=self.vae, device=self.device),
        }
        key = {"data": self.facts["data"], "seed": self.config.seed, **key}
        if own:  # what features of the generator's training clips depend on
            key |= {"fingerprint": dataset.fingerprint(), "split": self.facts["split"], "clip": self.facts["clip"]}
        views = {}
        for picture in pictures:
            more = {"picture": picture, **(self.hashes if picture == "reconstructed" else {})}
            for name, watcher in watchers.items():
                change = changes.get(picture, watcher.real)
                views[picture, name] = watcher.view(self.features_folder, self.device, change, **key, **more)
        found = extract(
            views,
            names_of(dataset, items) if own else dataset.names(items),
            read_items(dataset, items, self.config.seed, self.device),
            world=self.world,
            label=f"real clips ({', '.join(pictures)})",
            unreadable=record_of(self.features_folder, self.dataset if own else dataset.dataset),
        )
        for (picture, _), kept in found.items():
            if picture == "real" and kept.is_constant:
                raise InputError(
                    f"the {len(items)} real clips of {self.facts['data']} have the same features: they all show the "
                    "same; --root names their folder"
                )
        return found

    @property
    def options(self) -> dict:
        """Of `generator.sample.sampling_options`, for all scales of guidance."""
        return sampling_options(self.config, *scales_of(self.config))

    @property
    def way(self) -> str:
        """What of the flags departs from the plain way, as part of the name of a results file: what two such files
        would otherwise overwrite each other by. The name of a decoder that was asked for comes last."""
        config, words, scales = self.config, "", scales_of(self.config)
        words += "" if config.steps == type(config).steps else f"_euler{config.steps}"
        words += "" if scales == (1.0,) else f"_guidance{'-'.join(f'{scale:g}' for scale in scales)}"
        words += options_word(self.options)
        words += "" if config.seed == type(config).seed else f"_seed{config.seed}"
        if config.tokenizer or config.weights:
            name = file_word(Path(config.tokenizer or config.weights).name)
            words += f"-{name}-{self.hashes['decoder'][:8]}"
        return words

    def samples(self, *, guidance_scale: float = 1.0, step: int | None = None, untrained: bool = False) -> Path:
        """The file of sampled latents; samples what is missing."""
        config = self.config
        return sampled(
            config,
            self.run,
            config.samples,
            step=self.step if step is None else step,
            guidance_scale=guidance_scale,
            batch_size=config.batch_size,
            untrained=untrained,
            # An untrained network's velocity is exactly zero, so one step ends where a hundred would.
            **sampling_of(config) | ({"steps": 1} if untrained else {}),
        )

    def generated(
        self,
        watchers: Mapping[Hashable, Watcher],
        *,
        counts: Mapping[Hashable, int] | None = None,
        label: str = "generated clips",
        **which,
    ) -> dict[Hashable, FeatureSet]:
        """What watchers see of generated clips, each decoded once; samples what is missing.

        Args:
            counts: How many clips each of them sees; default: all that were asked for.
            which: Of `samples`.
        """
        path, config = self.samples(**which), self.config
        with open_latents(path) as reader:
            rows = range(max(counts.values()) if counts else config.samples)
            clips = sample_names(reader, len(rows))
            key = {"data": self.facts["data"], "decoder": self.hashes["decoder"], "dtype": str(self._dtype)}
            key |= {"picture": "generated"}
            # An interval covers the draw of classes, too, unless every class was asked for as often.
            key |= {"stratified": False} if config.labels == "drawn" else {}
            views = {
                name: watcher.view(
                    self.features_folder, self.device, watcher.generated, counts[name] if counts else None, **key
                )
                for name, watcher in watchers.items()
            }

            def read(blocks: Sequence[range], progress) -> Iterator[Batch]:
                for video, labels in decoded(reader, self.vae, blocks, self.device, self._dtype):
                    yield Batch(video, labels, {})

            found = extract(views, clips, read, world=self.world, label=label)
        self._samples_of |= {kept.path: path for kept in found.values()}
        return found

    def samples_as_seen_from(self, folder: Path) -> dict[str, str]:
        """By file of a set of generated clips the file of samples that it was made from, both relative to `folder`."""
        return {os.path.relpath(kept, folder): os.path.relpath(path, folder) for kept, path in self._samples_of.items()}

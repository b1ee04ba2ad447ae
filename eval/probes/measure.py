"""All probes of one generator by one task: sources, noise levels and seeds, each kept as soon as it is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from eval.features.store import digest
from eval.probes.clips import ProbeClips
from eval.probes.features import SOURCES, noise_of
from eval.probes.heads import answers, train_head
from eval.probes.units import Sums, is_kept, make_unit, read_unit, sums_of, unit_path
from runtime.processes import World
from runtime.stopping import check_stop

FORMAT = 1  # grows when the same settings give other numbers


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How heads are trained, and what is drawn.

    Attributes:
        levels: Shares of noise in [0, 1).
        seeds: Of the heads.
        noise_seed: Of the noise.
    """

    levels: tuple[float, ...]
    seeds: tuple[int, ...]
    noise_seed: int
    head_steps: int
    head_width: int
    batch_size: int


@dataclass(frozen=True)
class Found:
    """What was found, by (source, level); the answer that knows nothing, a source without noise, is among them.

    Attributes:
        sums: `[S, V, 2]` by metric.
        files: Of the kept units that these are of, one for each seed.
        videos: Of each clip the place of its video.
    """

    sums: dict[tuple[str, float], Sums]
    files: dict[tuple[str, float], tuple[Path, ...]]
    videos: list[int]


def measure(
    task: str,
    clips: ProbeClips,
    training: ProbeClips | None,
    make: Callable[[str, Tensor, float], Tensor],
    normalize: Callable[[Tensor], Tensor],
    *,
    spatial: int,
    recipe: Recipe,
    identity: dict,
    folder: Path,
    world: World,
) -> Found | None:
    """Probe every source at every level with every seed; the processes of a launch take sources and levels in turns.

    Args:
        clips: To judge by.
        training: To train heads on; None for a task that trains none.
        make: (source, x_t, level) -> its features.
        normalize: Raw latents to what the generator takes.
        spatial: Pixels of a latent cell.
        identity: By source, what its features depend on beside clips and noise; JSON values.
        folder: Of kept units.

    Returns:
        What was found, on the main process.

    Raises:
        Stopped: When a signal or the time limit asks for it; what is found stays.
    """
    trivial_answer = clips.truth.trivial_answer
    seeds = recipe.seeds if clips.truth.is_trained else recipe.seeds[:1]
    plan = [(source, level) for level in recipe.levels for source in SOURCES]
    keys = {
        (s, v, seed): _key(task, clips, training, recipe, identity[s], s, v, seed) for s, v in plan for seed in seeds
    }
    for source, level in plan[world.rank :: world.size]:
        todo = [seed for seed in seeds if not is_kept(folder, keys[source, level, seed])]
        features = [None, None]
        if todo:
            for place, (part, stream) in enumerate(((clips, "test"), (training, "train"))):
                if part is not None:
                    x_t = noise_of(normalize(part.latents), level, recipe.noise_seed, stream, part.items)
                    features[place] = make(source, x_t, level)
        for seed in todo:
            check_stop()
            make_unit(
                folder,
                keys[source, level, seed],
                lambda seed=seed, features=features: _unit(clips, training, *features, seed, spatial, recipe, world),
            )
            print(f"eval.probe: {task}, {source}, {100 * level:g} % noise, seed {seed}", flush=True)
    world.barrier()
    if not world.is_main:
        return None
    nothing = {"format": FORMAT, "task": task, "source": trivial_answer, "level": 0.0, "clips": digest(clips.key)}
    make_unit(folder, nothing, clips.truth.trivial)
    files = {(trivial_answer, 0.0): (unit_path(folder, nothing),)}
    files |= {(s, v): tuple(unit_path(folder, keys[s, v, seed]) for seed in seeds) for s, v in plan}
    places = {video: place for place, video in enumerate(dict.fromkeys(clips.videos))}
    videos = [places[video] for video in clips.videos]
    sums = {who: sums_of([read_unit(path) for path in paths], videos) for who, paths in files.items()}
    return Found(sums, files, videos)


def _key(task, clips, training, recipe: Recipe, identity: dict, source: str, level: float, seed: int) -> dict:
    """Everything that a unit depends on."""
    found = {"format": FORMAT, "task": task, "source": source, "level": level, "clips": digest(clips.key), **identity}
    found |= {"noise_seed": recipe.noise_seed} if level else {}
    if training is None:
        return found
    head = {"head_steps": recipe.head_steps, "head_width": recipe.head_width, "batch_size": recipe.batch_size}
    return found | head | {"seed": seed, "training": digest(training.key)}


def _unit(
    clips: ProbeClips,
    training: ProbeClips | None,
    features: Tensor,
    learnt: Tensor | None,
    seed: int,
    spatial: int,
    recipe: Recipe,
    world: World,
) -> Sums:
    """Sums `[N, 2]` by metric of one head, or of matching."""
    if training is None:
        parts = [
            clips.truth.sums(features[place : place + 1].to(world.device), [place]) for place in range(len(features))
        ]
    else:
        truth, device, size = training.truth, world.device, recipe.batch_size
        clips.truth.scale = truth.scale  # in whose units the head answers
        shape = {"channels": truth.channels, "frames": truth.frames, "spatial": spatial, "width": recipe.head_width}
        steps = recipe.head_steps
        head = train_head(learnt, truth.loss, seed=seed, steps=steps, batch_size=size, device=device, **shape)
        parts = [clips.truth.sums(pictures, places) for places, pictures in answers(head, features, size, device)]
    return {metric: np.concatenate([part[metric] for part in parts]) for metric in parts[0]}

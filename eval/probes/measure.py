"""All probes of one generator by one task: sources, noise levels and seeds, each kept as soon as it is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from eval.probes import flow, next_frame, tracking
from eval.probes.clips import ProbeClips
from eval.probes.features import SOURCES, Features, noise_of
from eval.probes.heads import answers, train_head
from eval.probes.units import Sums, by_video, digest, is_kept, make_unit, read_unit
from runtime.processes import World
from runtime.stopping import Stopped, stop_asked

TASKS = {"flow": flow, "next-frame": next_frame, "tracking": tracking}
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
    """Sums `[S, V, 2]` by (source, level) and metric; by metric alone of the answer that knows nothing."""

    sums: dict[tuple[str, float], Sums]
    trivial: Sums
    clips: int


def measure(
    task: str,
    clips: ProbeClips,
    training: ProbeClips | None,
    make: Callable[[str, Tensor, float], Features],
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
    seeds = recipe.seeds if TASKS[task].TRAINED else recipe.seeds[:1]
    plan = [(source, level) for level in recipe.levels for source in SOURCES]
    keys = {
        (s, v, seed): _key(task, clips, training, recipe, identity[s], s, v, seed) for s, v in plan for seed in seeds
    }
    rows: dict = {}
    for source, level in plan[world.rank :: world.size]:
        todo = [seed for seed in seeds if not is_kept(folder, keys[source, level, seed])]
        features = [None, None]
        if todo:
            for place, (part, stream) in enumerate(((clips, "test"), (training, "train"))):
                if part is not None:
                    x_t = noise_of(normalize(part.latents), level, recipe.noise_seed, stream, part.items)
                    features[place] = make(source, x_t, level)
        for seed in todo:
            if stop_asked():
                raise Stopped(stop_asked())
            make_unit(
                folder,
                keys[source, level, seed],
                lambda seed=seed, features=features: _unit(clips, training, *features, seed, spatial, recipe, world),
            )
            print(f"eval.probe: {task}, {source}, {100 * level:g} % noise, seed {seed}", flush=True)
    world.barrier()
    if not world.is_main:
        return None
    for source, level in plan:
        units = [read_unit(folder, keys[source, level, seed]) for seed in seeds]
        rows[source, level] = {
            metric: np.stack([by_video(unit[metric], clips.videos) for unit in units]) for metric in units[0]
        }
    trivial = {metric: by_video(found, clips.videos)[None] for metric, found in clips.truth.trivial().items()}
    return Found(rows, trivial, len(clips.items))


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
    features: Features,
    learnt: Features | None,
    seed: int,
    spatial: int,
    recipe: Recipe,
    world: World,
) -> Sums:
    """Sums `[N, 2]` by metric of one head, or of matching."""
    if training is None:
        parts = [
            clips.truth.sums(features.values[place : place + 1].to(world.device), [place])
            for place in range(len(features.values))
        ]
    else:
        truth, device, size = training.truth, world.device, recipe.batch_size
        clips.truth.use_scale(truth)
        shape = {"channels": truth.channels, "frames": truth.frames, "spatial": spatial, "width": recipe.head_width}
        steps = recipe.head_steps
        head = train_head(learnt, truth.loss, seed=seed, steps=steps, batch_size=size, device=device, **shape)
        parts = [clips.truth.sums(pictures, places) for places, pictures in answers(head, features, size, device)]
    return {metric: np.concatenate([part[metric] for part in parts]) for metric in parts[0]}


def same_videos(a: ProbeClips, b: ProbeClips) -> bool:
    """Whether two generators were judged on the same clips, frame by frame and pixel by pixel."""
    names = ("data", "clip", "fingerprint", "names")
    return all(a.key[name] == b.key[name] for name in names)

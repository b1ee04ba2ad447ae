"""One page about any video tokenizer, without a generator: `python -m eval.card --tokenizer X --data … --root …`.

Reconstruction and prediction (`eval.reconstruction`), what latents are like (`eval.latents`), tFVD, and speed and
memory (`eval.speed`); and for each number what it has been shown to go with, and by whom. Clips are read and encoded
once for all of it, but for those of tFVD, which are longer. What was seen of them is kept: the same command goes on
after a kill and costs little a second time. The numbers go into a JSON file, the page lies beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from eval.entries import RANDOM, is_said_random, said_random
from eval.reconstruction import JudgedFlags
from runtime.command import flag, run_command
from runtime.errors import InputError
from runtime.output import check_file

if TYPE_CHECKING:
    from eval.reconstruction import Judged
    from eval.results.rows import Row
    from eval.tokenizer_clips import Opened

# Subject of the rows that are of the machine as much as of the tokenizer.
SPEED = "speed"


@dataclass(frozen=True, kw_only=True)
class CardConfig(JudgedFlags):
    """Flags of `python -m eval.card`."""

    clips: int = flag(4, "clips shown with reconstruction and latents", low=0, high=100)
    speed: bool = flag(True, "also measure speed and memory, in a process of its own")
    out: str | None = flag(
        None, "JSON file to write, the page beside it; default: eval/card-….json in the run", check=check_file
    )


def card(config: CardConfig) -> Path:
    """Measure, print the table, write the JSON and the page; returns the path of the JSON."""
    import time

    from eval.analysis.curves import curves_of
    from eval.analysis.kept_latents import see_latents
    from eval.analysis.latent_rows import latent_rows
    from eval.analysis.sources import source_of
    from eval.extract import View
    from eval.latents import latents_store
    from eval.quantities import measurement_rows
    from eval.reconstruction import differences, judge
    from eval.results.rows import table, write_results
    from eval.tokenizer_clips import open_clips
    from runtime.processes import resolve_dtype, start_processes

    began = time.monotonic()
    world = start_processes(config.device)
    opened = open_clips(config, config.tokenizer, config.weights, world.device)
    out = Path(config.out).with_suffix(".json") if config.out else opened.out("card")
    label = label_of(opened)
    judged = judge(config, opened)
    store = latents_store(opened, resolve_dtype(config.dtype, world.device))
    views = {"pixels": judged.view, "latents": View(store=store, see=see_latents, change=judged.view.change)}
    kept = opened.seen(views, world, f"{opened.data} through {label}")
    rows = measurement_rows(kept["pixels"]) + judged.missing if world.is_main else []
    rows += latent_rows(kept["latents"]) if world.is_main else []
    rows += temporal(config, opened, judged, world)
    if not world.is_main:
        return out
    rows += speed_rows(config, opened) if config.speed else []
    facts = {
        **opened.facts,
        "label": label,
        "random_weights": is_said_random(label),
        "samples": len(kept["latents"].features),
        "observed_frames": judged.observed,
        "differences": differences(
            opened.data, config.split, opened.clip, len(kept["pixels"].features), judged.network
        ),
        "curves": curves_of(kept["latents"]),
    }
    known = {row.metric: source_of(row.metric) for row in rows}
    facts["shown_to_go_with"] = {name: {"what": one.shown, "by": one.by} for name, one in known.items() if one}
    write_results(out, kind="card", rows=rows, **facts, seconds=round(time.monotonic() - began, 1))
    print(table(rows))
    from eval.analysis.card_page import card_page
    from eval.page.document import save_page

    page = out.with_suffix(".html")
    save_page(page, card_page(facts, rows, opened, kept["latents"], config.clips))
    print(f"eval.card: wrote {out}; open {page}")
    return out


def label_of(opened: Opened) -> str:
    """What to call the tokenizer; random weights are called so."""
    name = opened.vae.spec.name if ":" in opened.name else Path(opened.name).name
    return said_random(name) if opened.weights == RANDOM or is_said_random(opened.vae.spec.name) else name


def temporal(config: CardConfig, opened: Opened, judged: Judged, world) -> list[Row]:
    """tFVD, or the number that takes its place; a row that says why where there is none."""
    from eval.analysis.latent_rows import temporal_rows
    from eval.analysis.temporal_fvd import AVERAGED, STRIDE, TemporalView, frame_rule
    from eval.extract import View
    from eval.features.store import FeatureStore
    from eval.results.rows import Row
    from eval.tokenizer_clips import drawn
    from runtime.processes import resolve_dtype
    from videos.datasets import FILE_DATASETS

    try:
        rule = frame_rule(opened.vae.spec)
        if judged.network is None:
            raise InputError("there are no features")
        stride = STRIDE if opened.data in FILE_DATASETS else opened.clip.frame_stride
        clip = replace(opened.clip, num_frames=rule.num_frames, frame_stride=stride)
        dataset = opened.dataset.with_clip(clip)
        items, stratified = drawn(dataset, opened.data, config)
    except InputError as error:
        return (
            [Row(metric="tFVD", subject=AVERAGED, value=None, note=f"not measured: {error}")] if world.is_main else []
        )
    view = TemporalView(
        vae=opened.vae,
        network=judged.network,
        rule=rule,
        device=world.device,
        dtype=resolve_dtype(config.dtype, world.device),
        batch_size=config.batch_size,
    )
    store = FeatureStore(
        opened.kept_below, f"{opened.data}-temporal-{clip.height}px", view.key(clip, stratified, **opened.clip_key)
    )
    longer = replace(opened, dataset=dataset, items=items)
    kept = longer.seen({"": View(store=store, see=view.see)}, world, "averaged latents")[""]
    return temporal_rows(kept) if world.is_main else []


def speed_rows(config: CardConfig, opened: Opened) -> list[Row]:
    """Speed and memory of one tokenizer, clips of the shape that it is judged on; few runs on a CPU."""
    from eval.entries import OWN, Entry
    from eval.speed import SpeedConfig, measured

    common = {name: getattr(config, name) for name in ("runs_dir", "seed", "device", "dtype")}
    shape = {"num_frames": opened.clip.num_frames, "size": opened.clip.height, "rounds": 1}
    flags = SpeedConfig(tokenizers=(opened.name,), weights=(opened.weights or OWN,), **shape, **common)
    return measured(flags, Entry(SPEED, opened.name, opened.weights))


if __name__ == "__main__":
    run_command(card, CardConfig, example="python -m eval.card --tokenizer runs/my-vae --data ucf101 --root UCF101")

"""Sections of pages about latents: figures 4, 5c and 5d of PV-VAE, spectra, tables, and what the numbers go with."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from eval.analysis.curves import DISTANCE, EIGENSPECTRUM, HISTOGRAM, SPACE, TIME
from eval.analysis.kept_latents import latent_set
from eval.analysis.pictures import flow_as_rgb, flow_of, groups_as_frames, latents_as_rgb
from eval.analysis.sources import sources_of
from eval.analysis.spectra import principal_directions
from eval.clip_sets import names_of, real_clips, reconstructed
from eval.page.clips import Clip, clip_table
from eval.page.document import Cell, Finding, data_table, facts_table, folded, page, quiet, results_table, section
from eval.page.figures import curve
from eval.page.found import interval
from eval.quantities import better
from eval.results.rows import ARROWS, Row, format_number
from videos.unreadable import UnreadableClip

if TYPE_CHECKING:
    from eval.features.store import FeatureSet
    from eval.tokenizer_clips import Opened

NORMALISED = " normalised"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Latents of one tokenizer.

    Attributes:
        label: What to call it.
        kept: The latents.
        rows: Their numbers.
        facts: As in the results.
        opened: The tokenizer with its clips; None of a latents file.
    """

    label: str
    kept: FeatureSet
    rows: list[Row]
    facts: dict
    opened: Opened | None = None


def latents_page(found: Sequence[Measured], clips: int) -> str:
    """The page of `eval.latents`."""
    first = found[0]
    names = ", ".join(one.label for one in found)
    words = f"{first.facts['samples']} clips"
    words += f" of {first.facts['data']}" if "data" in first.facts else ""
    lead = (
        f"What the latents of <b>{html.escape(names)}</b> are like, on {html.escape(words)}: how far they move, where "
        "their variance lies, how smooth they are. Nothing here was generated: none of these numbers is a quality by "
        "itself, and below stands what each was shown to go with."
    )
    shown = [(one.label, one.opened, one.kept) for one in found if one.opened]
    parts = [
        pictures_section(shown, clips) if shown and clips else "",
        curves_section({one.label: one.facts["curves"] for one in found}),
        numbers_section({one.label: one.rows for one in found}),
        sources_section(row.metric for one in found for row in one.rows),
        section("What was measured", *(facts_table(facts_of(one.facts, one.label)) for one in found)),
    ]
    findings = latent_findings(first.rows) if len(found) == 1 else irreducible_findings(found)
    return page("What latents are like", lead, [part for part in parts if part], findings)


def latent_findings(rows: Sequence[Row]) -> list[Finding]:
    """The few numbers of one tokenizer's latents that stand on top."""
    wanted = {
        "VIV": "irreducible variance",
        "LTD normalised, interval 1": "distance of neighbouring groups",
        "effective channels": "effective channels",
        "SEC 0.5": "energy at high frequencies",
        "rate": "rate, nats per pixel",
    }
    values = {row.metric: row for row in rows if row.value is not None and row.subject == "latents"}
    return [
        Finding(words, format_number(values[name].value), interval(values[name]))
        for name, words in wanted.items()
        if name in values
    ]


def irreducible_findings(found: Sequence[Measured]) -> list[Finding]:
    """Of several tokenizers the number that was shown to tell most, of pictures."""
    rows = {one.label: row for one in found for row in one.rows if row.metric == "VIV" and row.value is not None}
    named = list(rows.items())[:5]
    return [Finding(f"VIV of {label}", format_number(row.value), interval(row)) for label, row in named]


def numbers_section(tokenizers: Mapping[str, Sequence[Row]]) -> str:
    """Numbers of several tokenizers in columns, and each with its notes below; of one as they are."""
    if len(tokenizers) == 1:
        return section("Numbers", *(results_table(rows, label) for label, rows in tokenizers.items()))
    values = {label: {row.metric: row for row in rows} for label, rows in tokenizers.items()}
    table = []
    for metric in dict.fromkeys(metric for rows in values.values() for metric in rows):
        found = [rows.get(metric) for rows in values.values()]
        table.append((metric + ARROWS[better(metric)], *map(_cell, found)))
    side_by_side = data_table(
        ("number", *values), table, caption="numbers of latents, 95 % intervals in brackets", fold=0
    )
    each = [results_table(rows, label) for label, rows in tokenizers.items()]
    named = [f"<h3>{html.escape(label)}</h3>{text}" for label, text in zip(values, each, strict=True)]
    return section("Numbers", side_by_side, folded("Each with its count and notes", *named))


def _cell(row: Row | None) -> Cell | None:
    if row is None or row.value is None:
        return None
    ends = "" if row.low is None else f" [{format_number(row.low)}, {format_number(row.high)}]"
    return Cell(format_number(row.value) + ends, row.value)


def pictures_section(
    shown: Sequence[tuple[str, Opened, FeatureSet]], count: int, title: str = "Latents as colours", decode: bool = False
) -> str:
    """Figure 4: clips, optical flow, and three principal directions of each tokenizer's latents, in step.

    Args:
        shown: What to call each tokenizer, it with its clips, and its latents.
        count: Clips.
        decode: Also show what each tokenizer makes of the clips.
    """
    _, first, kept = shown[0]
    items = readable_items(first, count)
    clips, labels = real_clips(first.dataset, items, first.flags.seed)
    flow, words = flow_of(first.dataset, items, clips)
    frames = clips.permute(0, 2, 3, 4, 1).numpy()
    rows = [("clip", [Clip(clip, text="clip") for clip in frames])]
    if flow:
        largest = float(np.percentile([np.hypot(each[:, 0], each[:, 1]) for each in flow], 99)) or None
        coloured = [flow_as_rgb(each, largest) for each in flow]
        # Flow goes from a frame to the next one; the last frame keeps what came before.
        rows.append((words, [Clip(np.concatenate([each, each[-1:]]), text=words) for each in coloured]))
    for label, opened, kept in shown:
        found, names = latent_set(kept), [clip.decode(errors="replace") for clip in kept.clips]
        wanted = [names.index(name) for name in names_of(opened.dataset, items)]
        latents = found.normalised()
        directions, _ = principal_directions(latents, min(3, latents.shape[1]))
        pictures = latents_as_rgb(latents[wanted], directions)
        size, step = (opened.clip.num_frames, opened.clip.height, opened.clip.width), opened.vae.spec.temporal
        made = [groups_as_frames(each, *size, step) for each in pictures]
        if decode:
            back = torch.cat([reconstructed(clip, opened.vae, opened.device) for clip in clips.split(1)])
            back = back.permute(0, 2, 3, 4, 1).numpy()
            rows.insert(1, ("reconstructed", [Clip(each, text=f"reconstructed by {label}") for each in back]))
        name = "latents" if decode else label
        rows.append((name, [Clip(each, text=f"principal directions of {label}") for each in made]))
    classes = getattr(first.dataset, "class_names", ())
    columns = [classes[label] if 0 <= label < len(classes) else f"clip {n + 1}" for n, label in enumerate(labels)]
    note = (
        f"Red, green and blue are the three directions along which channels vary most, normalised by channel, over all "
        f"{len(kept.features)} clips; every group is shown for the frames that it stands for. Colours of two "
        f"tokenizers have nothing to do with each other. "
    )
    note += f"Flow: hue is direction, strength of colour is speed; {words}." if flow else f"{words.capitalize()}."
    return section(title, clip_table(columns, rows, name="clips and latents"), quiet(html.escape(note)))


def readable_items(opened: Opened, count: int) -> list[int]:
    """The first items that can be decoded."""
    found: list[int] = []
    for item in opened.items:
        if len(found) == count:
            break
        try:
            opened.dataset.item(item, 0)
        except UnreadableClip:
            continue
        found.append(item)
    return found


def curves_section(curves: Mapping[str, Mapping[str, list]]) -> str:
    """Figures 5c and 5d, and spectra, several tokenizers over each other.

    Args:
        curves: By tokenizer, as `eval.analysis.curves.curves_of`.
    """
    charts = (
        (
            HISTOGRAM,
            "distance of neighbouring groups, over its mean",
            "density",
            "Distances of neighbouring groups (5c)",
        ),
        (DISTANCE, "groups apart", "LTD / LTD of neighbours", "Distance by interval (5d)"),
        (DISTANCE + NORMALISED, "groups apart", "LTD / LTD of neighbours", "The same, normalised by channel"),
        (EIGENSPECTRUM, "principal direction", "share of the variance", "Channels"),
        (TIME, "cycles a group", "power, normalised by channel", "Frequencies in time"),
        (SPACE, "cycles a cell", "power, normalised by channel", "Frequencies in space"),
    )
    log = {EIGENSPECTRUM, TIME, SPACE}
    drawn = []
    for name, x, y, title in charts:
        series = {label: found[name] for label, found in curves.items() if found.get(name)}
        if series:
            drawn.append(curve(series, x_label=x, y_label=y, title=title, log_y=name in log))
    note = (
        "Straight lines in time would have a distance by interval of 1, 2, 3, …; random walks of 1, 1.41, 1.73, …; "
        "what jumps to and fro, of 1. Power and distances are those of posterior means."
    )
    return section("Curves", f'<div class="charts">{"".join(drawn)}</div>', quiet(note)) if drawn else ""


def sources_section(metrics: Iterable[str]) -> str:
    """What each of these numbers was shown to go with, and by whom."""
    rows = [(source.numbers, source.shown, source.by) for source in sources_of(metrics)]
    table = data_table(("number", "was shown to go with", "by"), rows, caption="what the numbers go with", fold=0)
    return section("What the numbers have been shown to go with", table)


def facts_of(facts: Mapping, label: str) -> list[tuple[str, str]]:
    """What a page says of tokenizer and clips, from a results file."""
    names = ("tokenizer", "weights", "latents", "data", "split", "num_frames", "size", "frame_stride", "samples")
    names += ("seed", "encoder_hash", "decoder_hash", "device")
    return [("called", label), *((name.replace("_", " "), str(facts[name])) for name in names if name in facts)]

"""The page of `eval.card`."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from eval.analysis.sections import curves_section, facts_of, pictures_section, sources_section
from eval.page.document import Finding, bullet_list, facts_table, page, quiet, results_table, section
from eval.page.figures import curve
from eval.page.found import interval
from eval.results.rows import Row, format_number

if TYPE_CHECKING:
    from eval.features.store import FeatureSet
    from eval.tokenizer_clips import Opened

# Which numbers stand on top: metric, of what, and how they are called there.
_TOP = (
    ("PSNR", "reconstructed", "PSNR, dB"),
    ("rFVD", "reconstructed", "rFVD"),
    ("rFD-shapes", "reconstructed", "rFD-shapes"),
    ("error / repeat", "predicted", "error of prediction over repeating"),
    ("VIV", "latents", "irreducible variance"),
    ("effective channels", "latents", "effective channels"),
    ("ISpeed", "speed", "clips encoded and decoded, batches a second"),
)
_PARTS = (
    ("Reconstruction", ("reconstructed", "rounding", "frozen")),
    ("Prediction", ("predicted", "blank", "grey")),
    ("Latents", ("latents",)),
    ("Averaged latents", ("averaged latents", "latents as they are")),
    ("Speed and memory", ("speed",)),
)


def card_page(facts: Mapping, rows: Sequence[Row], opened: Opened, kept: FeatureSet, clips: int) -> str:
    """The page.

    Args:
        facts: As in the results file.
        rows: All of its numbers.
        opened: The tokenizer and its clips.
        kept: Latents of these.
        clips: How many to show.
    """
    label, spec = facts["label"], facts["spec"]
    lead = f"What <b>{html.escape(label)}</b> is like on {facts['samples']} clips of {html.escape(facts['data'])}, "
    lead += "without a generator. "
    if facts["random_weights"]:
        lead += "<b>Its weights are random: these numbers are those of an untrained network.</b> "
    lead += f"A latent stands for {spec['temporal']} frames (the first for one) of {spec['spatial']}x{spec['spatial']} "
    lead += (
        f"pixels and has {spec['channels']} channels. No number here is gFVD; what each was shown to go with is below."
    )
    about = facts_table(facts_of(facts, label))
    values = {(row.metric, row.subject): row for row in rows if row.value is not None}
    findings = [
        Finding(words, format_number(values[metric, subject].value), interval(values[metric, subject]))
        for metric, subject, words in _TOP
        if (metric, subject) in values
    ]
    shown = [(label, opened, kept)]
    sections = [pictures_section(shown, clips, "Clips, reconstructions and latents", decode=True)] if clips else []
    for title, subjects in _PARTS:
        part = [row for row in rows if row.subject in subjects]
        above = horizon_chart(part) if title == "Prediction" else ""
        sections += [section(title, above, results_table(part, title))] if part else []
        sections += [curves_section({label: facts["curves"]})] if title == "Latents" else []
    sections += [
        sources_section(row.metric for row in rows),
        section("How this differs from the paper", bullet_list(facts["differences"])) if facts["differences"] else "",
        section("What was measured", quiet("Commands and versions stand in the JSON file beside."), about),
    ]
    return page(f"Card of {label}", lead, [part for part in sections if part], findings)


def horizon_chart(rows: Sequence[Row]) -> str:
    """Error of prediction by frames ahead; "" where nothing was predicted."""
    found = [row for row in rows if row.metric.startswith("error / repeat, frame +") and row.value is not None]
    if not found:
        return ""
    ahead = {int(row.metric.rpartition("+")[2]): row for row in found}
    points = {"predicted": [(frame, row.value) for frame, row in ahead.items()]}
    bands = {"predicted": [(frame, row.low, row.high) for frame, row in ahead.items() if row.low is not None]}
    x, y = "frames ahead", "error / error of repeating"
    drawn = curve(points, bands=bands, levels={"repeating": 1.0}, x_label=x, y_label=y, title="By frames ahead")
    return f'<div class="charts">{drawn}</div>'

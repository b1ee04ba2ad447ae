"""The page of `eval.prediction`: who predicts how well, clips and strips (PV-VAE figure 6), and figures 5a and 5b."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from eval.features import FRECHET_NAMES
from eval.page.clips import Clip, clip_table, picture
from eval.page.document import bullet_list, folded, page, quiet, results_table, section
from eval.page.figures import curve
from eval.page.found import predicted
from eval.results.rows import Row
from generator.sample import OPTIONS
from tokenizer.strips import strip
from videos import to_uint8

ERROR = "error / repeat"
_OF_SAMPLING = ("steps", "samples", *OPTIONS)  # of results of eval.fvd
STRIPS = 2  # clips of each tokenizer that are shown frame by frame


@dataclass(frozen=True)
class Predicted:
    """Results of a tokenizer's prediction, or of a generator in its latents.

    Attributes:
        label: What to call the tokenizer.
        facts, rows: Of its results file.
        shown: Clips: real, reconstructed and predicted, each `[3, N, H, W]` in [-1, 1].
    """

    label: str
    facts: dict
    rows: list[Row]
    shown: Sequence[tuple[Tensor, ...]] = field(default=(), repr=False)

    @property
    def kind(self) -> str:
        """Of the results."""
        return self.facts["kind"]

    @property
    def by_name(self) -> dict[tuple[str, str], Row]:
        """Numbers by metric and subject."""
        return {(row.metric, row.subject): row for row in self.rows}

    def row(self, metric: str, subject: str) -> Row | None:
        """A number by its name; None where it was not measured."""
        found = self.by_name.get((metric, subject))
        return found if found and found.value is not None else None

    def by_frame(self, subject: str) -> Iterator[tuple[int, Row]]:
        """(frames ahead, error over repeating)."""
        for row in self.rows:
            if row.subject == subject and row.metric.startswith(f"{ERROR}, frame +") and row.value is not None:
                ahead = row.metric.removeprefix(f"{ERROR}, frame +")
                if ahead.isdecimal():
                    yield int(ahead), row


def prediction_page(found: Sequence[Predicted], generators: Sequence[Predicted], silent: Mapping[str, str]) -> str:
    """The whole page.

    Args:
        found: Results of prediction.
        generators: Results of `eval.fvd`.
        silent: Tokenizers that do not predict, and why.
    """
    data = ", ".join(sorted({one.facts["data"] for one in [*found, *generators]}))
    said = [predicted(one.by_name, one.label, f"{one.label}: ") for one in found]
    words = [sentence for sentence, _ in filter(None, said)]
    words += [f"{label} does not predict: {why}." for label, why in silent.items()]
    lead = html.escape(" ".join(words) or "No prediction was measured.")
    sections = [*_clips(found), *_by_frame(found), *_over_training(found), *_figure_5(found, generators)]
    if found:
        parts = [
            f"<h3>{html.escape(one.label)}</h3>{results_table(one.rows, one.label)}"
            + folded("How they were made", f"<pre>{html.escape(one.facts['command'])}</pre>")
            for one in found
        ]
        sections.append(section("Numbers", quiet(_NUMBERS), *parts))
    return page(f"Prediction on {data}", lead, sections, [finding for _, finding in filter(None, said)])


_NUMBERS = (
    "Squared error on moving pixels of the frames that were not seen, summed over clips, over that of repeating the "
    "last seen frame: 1 is standing still, 0 is perfect. Flat pictures, in the clip's median colour and in "
    "plain grey, predict nothing and stand beside it. Intervals are 95 % by jackknife over clips."
)


def _clips(found: Sequence[Predicted]) -> list[str]:
    """Clips that play, and the same frame by frame."""
    shown = [one for one in found if one.shown]
    if not shown:
        return []
    observed, frames = shown[0].facts["observed_frames"], shown[0].shown[0][0].shape[1]
    columns = [f"clip {number + 1}" for number in range(len(shown[0].shown))]
    real = zip(columns, shown[0].shown, strict=True)
    rows = [("real", [Clip(_frames(videos[0]), text=f"real {name}") for name, videos in real])]
    for one in shown:
        clips = zip(columns, one.shown, strict=True)
        rows.append((one.label, [Clip(_frames(v[2]), text=f"{one.label}: {n}", observed=observed) for n, v in clips]))
    words = (
        f'The encoder sees the first {observed} of {frames} frames (<span class="green">green</span>); the rest '
        '(<span class="orange">orange</span>) the decoder draws from padding.'
    )
    strips = [
        picture(
            strip(videos, observed)[0],
            f"{one.label}, clip {number + 1}, frame by frame: real, reconstructed, predicted",
            f"{one.label}, clip {number + 1}. From top to bottom: real, reconstructed, predicted; frames that were "
            "predicted are underlined.",
        )
        for one in shown
        for number, videos in enumerate(one.shown[:STRIPS])
    ]
    return [
        section("Clips", quiet(words), clip_table(columns, rows, name="real and predicted clips")),
        section("Frame by frame (figure 6)", *strips),
    ]


def _frames(video: Tensor):
    """uint8 `[N, H, W, 3]` of `[3, N, H, W]` in [-1, 1]."""
    return to_uint8(video).permute(1, 2, 3, 0).numpy()


def _by_frame(found: Sequence[Predicted]) -> list[str]:
    """Error by frames ahead, with intervals."""
    series, bands = {}, {}
    for one in found:
        points = list(one.by_frame("predicted"))
        series[one.label] = [(ahead, row.value) for ahead, row in points]
        bands[one.label] = [(ahead, row.low, row.high) for ahead, row in points if None not in (row.low, row.high)]
    # Flat pictures are the same for all who predict the same clips.
    for name, subject in (("the clip's median colour", "blank"), ("plain grey", "grey")):
        curves = ([(ahead, row.value) for ahead, row in one.by_frame(subject)] for one in found)
        if points := next(filter(None, curves), None):
            series[name] = points
    if not any(series.values()):
        return []
    chart = _error_chart(series, bands, "frames after the last one that was seen")
    return [section("Error by frames ahead", chart)]


def _over_training(found: Sequence[Predicted]) -> list[str]:
    """How well checkpoints of one run predict, against its steps; nothing without two of a run."""
    series, bands = {}, {}
    for one in sorted(found, key=lambda one: one.facts.get("trained_steps") or 0):
        run, steps, error = one.facts.get("run"), one.facts.get("trained_steps"), one.row(ERROR, "predicted")
        if run is None or steps is None or error is None:
            continue
        series.setdefault(run, []).append((steps, error.value))
        if None not in (error.low, error.high):
            bands.setdefault(run, []).append((steps, error.low, error.high))
    series = {run: points for run, points in series.items() if len(points) > 1}
    if not series:
        return []
    bands = {run: ends for run, ends in bands.items() if run in series}
    return [section("Prediction over training", _error_chart(series, bands, "training of the tokenizer, steps"))]


def _error_chart(series: dict[str, list], bands: dict[str, list], x_label: str) -> str:
    """Squared error of prediction over that of repeating the last frame, against something."""
    chart = curve(
        series,
        bands=bands,
        levels={"repeating the last frame": 1.0},
        x_label=x_label,
        y_label="squared error / repeating",
        log_y=True,
        from_zero=False,
        title="Squared error of prediction over that of repeating the last frame",
    )
    return f'<div class="charts">{chart}</div>'


# -- figure 5 ----------------------------------------------------------------------------------------------------------


def joined(found: Sequence[Predicted], generators: Sequence[Predicted]) -> tuple[str, list[tuple[Predicted, Row]]]:
    """Generators beside the prediction of the tokenizer whose latents they draw, which is known by its encoder.

    Returns:
        The distance that most of them were measured by, and (prediction, row of that distance) for each generator
        that was, and whose clips were as many and drawn as those of most.
    """
    by_encoder = {one.facts["encoder_hash"]: one for one in found}
    places: dict[tuple, list[tuple[Predicted, Row]]] = {}
    for generator in generators:
        if (one := by_encoder.get(generator.facts["encoder_hash"])) and one.facts["data"] == generator.facts["data"]:
            for name in FRECHET_NAMES.values():
                if row := generator.row(name, "generated"):
                    places.setdefault((name, *_drawn(generator.facts)), []).append((one, row))
    (metric, *_), pairs = max(
        sorted(places.items(), key=lambda place: place[0]), key=lambda place: len(place[1]), default=(("",), [])
    )
    return metric, pairs


def _drawn(facts: dict) -> tuple[str, ...]:
    """How many clips were drawn, and how."""
    scales = facts.get("guidance_scales") or [1.0]
    return tuple(str(each) for each in (scales[0], *(facts.get(name) for name in _OF_SAMPLING)))


def _figure_5(found: Sequence[Predicted], generators: Sequence[Predicted]) -> list[str]:
    """What prediction has to do with how well a generator learns these latents."""
    metric, pairs = joined(found, generators)
    if not generators:
        return []
    lost = len(generators) - len(pairs)
    remarks = [f"{lost} of {len(generators)} results of generators are left out: no prediction in their latents, "
               "another distance, or clips that were drawn in another way or number."] if lost else []  # fmt: skip
    charts = []
    if pairs:
        charts = [accuracy_chart(metric, pairs), training_chart(metric, pairs)]
    return [
        section(
            "Prediction and generation (figures 5a, 5b)",
            f'<div class="charts">{"".join(charts)}</div>',
            bullet_list(remarks),
        )
    ]


def accuracy_chart(metric: str, pairs: Sequence[tuple[Predicted, Row]]) -> str:
    """Figure 5a: a point for each generator."""
    series, bands = {}, {}
    for one, row in pairs:
        error = one.row(ERROR, "predicted")
        if error is None:
            continue
        series.setdefault(one.label, []).append((error.value, row.value))
        if row.low is not None and row.high is not None:
            bands.setdefault(one.label, []).append((error.value, row.low, row.high))
    return curve(
        series,
        bands=bands,
        joined=False,
        x_label="squared error of prediction / repeating",
        y_label=f"{metric} of the generator",
        title=f"5a: {metric} against accuracy of prediction",
    )


def training_chart(metric: str, pairs: Sequence[tuple[Predicted, Row]]) -> str:
    """Figure 5b: the mean over generators at each amount of training; the band is their range, of one its interval."""
    words = {True: "with predictive reconstruction", False: "without"}
    at: dict[str, dict[int, list[Row]]] = {}
    for one, row in pairs:
        steps, ratio = one.facts.get("trained_steps"), one.facts.get("max_drop_ratio")
        if steps is not None and ratio is not None:
            at.setdefault(words[ratio > 0], {}).setdefault(steps, []).append(row)
    series, bands = {}, {}
    for name, by_steps in at.items():
        for steps, rows in sorted(by_steps.items()):
            values = [row.value for row in rows]
            series.setdefault(name, []).append((steps, sum(values) / len(values)))
            ends = (min(values), max(values)) if len(rows) > 1 else (rows[0].low, rows[0].high)
            if None not in ends:
                bands.setdefault(name, []).append((steps, *ends))
    return curve(
        series,
        bands=bands,
        x_label="training of the tokenizer, steps",
        y_label=f"{metric} of the generator",
        title=f"5b: {metric} against training of the tokenizer",
    )

"""Clips of several tokenizers below each other: what each makes of the same real clips, and what generators draw in its
latents (the paper's figure 3)."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

from eval.clip_sets import real_clips, reconstructed, stratified_halves
from eval.page.clips import Clip, clip_table
from eval.page.document import quiet, section
from eval.page.sections import captions_of, drawn_clips, frames, shown_clips
from generator.sample import SampleConfig, sample
from runtime.errors import InputError
from runtime.processes import autocast, resolve_device, resolve_dtype
from runtime.run import read_run
from videos import psnr


@dataclass(frozen=True)
class Side:
    """One row.

    Attributes:
        label: Its name.
        tokenizer, weights: Which decodes, as `tokenizer.load` takes them.
        sampling: Which generator draws, how many clips, and how.
    """

    label: str
    tokenizer: str
    weights: str | None
    sampling: SampleConfig


def clip_sections(sides: Sequence[Side], of: str = "") -> list[str]:
    """Real and reconstructed clips, then generated ones: a column a clip, a row for each side, played in step; where
    they cannot be shown, as on another machine than they were drawn on, a section that says why.

    Args:
        sides: On one data set, of one shape; as many clips as the first one's sampling says.
        of: Ends the headings, where there are such sections of several data sets.
    """
    try:
        return _sections(sides, of)
    except InputError as error:
        return [section(f"Clips{of}", quiet(html.escape(f"Not shown: {error}")))]


def _sections(sides: Sequence[Side], of: str) -> list[str]:
    first = sides[0].sampling
    facts = read_run(first.run, "generator").manifest["latents"]
    dataset, seen = shown_clips(facts)
    halves = stratified_halves(dataset.labels(), first.samples, first.seed)
    clips, labels = real_clips(dataset, [*halves[1], *halves[0]], first.seed, first.samples)
    device = resolve_device(first.device)
    dtype = resolve_dtype(first.dtype, device)
    decoded, drawn = [("the clip itself", [Clip(each) for each in frames(clips)])], []
    for side in sides:
        path = sample(side.sampling)
        made, asked, _, vae = drawn_clips(path, first.samples, first.device, first.dtype, side.tokenizer, side.weights)
        drawn.append((side.label, [Clip(each) for each in frames(made)]))
        with autocast(device, dtype):
            again = reconstructed(clips, vae, device)
        decibels = psnr(again.double() / 255, clips.double() / 255).tolist()
        pairs = zip(frames(again), decibels, strict=True)
        decoded.append((side.label, [Clip(clip, f"{value:.1f} dB") for clip, value in pairs]))
    real, generated = f"Real, reconstructed{of}", f"Generated{of}"
    below = quiet(f"{seen}. Below it what each tokenizer makes of it: encoder, mean, decoder.")
    noise = quiet(f"From noise in {first.steps} Euler steps, by the generator on the latents of each tokenizer.")
    columns = captions_of(labels, facts, "clip"), captions_of(asked, facts, "sample")
    return [
        section(real, below, clip_table(columns[0], decoded, name=real)),
        section(generated, noise, clip_table(columns[1], drawn, name=generated)),
    ]

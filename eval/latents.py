"""What latents are like: `python -m eval.latents --tokenizer vae=RUN,wan2.2 --data ucf101 --root UCF101`, one tokenizer
or several side by side.

How far they move in time (PV-VAE, figures 5c and 5d), where their variance lies (SSVAE), how smooth they are and how
much of the flow's velocity nobody could know (arXiv 2606.03578), their rate; and their first three principal directions
as colours beside optical flow (PV-VAE, figure 4). Each tokenizer gets a results file, all together a page. What stands
behind the numbers is kept, so that `eval.verify` computes them again without a video. `--latents FILE` measures what
`tokenizer.encode` has written instead, without pictures.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from eval.entries import OWN, Entry, entries_of, with_commits
from eval.tokenizer_clips import ClipFlags
from runtime.command import flag, run_command
from runtime.errors import InputError
from runtime.output import check_file

if TYPE_CHECKING:
    from eval.analysis.sections import Measured
    from eval.features.store import FeatureSet
    from eval.results.rows import Row
    from eval.tokenizer_clips import Opened


@dataclass(frozen=True, kw_only=True)
class LatentsConfig(ClipFlags):
    """Flags of `python -m eval.latents`."""

    tokenizer: tuple[str, ...] = flag(
        (), "names, runs or folders, by commas; LABEL=NAME gives another label; default: the newest run"
    )
    weights: tuple[str, ...] = flag((OWN,), f"weight file, 'random' or '{OWN}': one for all tokenizers, or one each")
    latents: tuple[str, ...] = flag((), "files of tokenizer.encode to measure instead of --tokenizer, by commas")
    clips: int = flag(4, "clips shown as colours beside optical flow", low=0, high=100)
    out: str = flag(
        "latents.html", "page to write; the numbers of each tokenizer go into its own folder", check=check_file
    )

    def __post_init__(self) -> None:
        if self.latents and self.tokenizer:
            raise InputError("--latents and --tokenizer are both given; one of them will do")
        if len({Path(name).stem for name in self.latents}) < len(self.latents):
            raise InputError(f"--latents {','.join(self.latents)}: two files of one name")
        if self.tokenizer:
            entries_of(self.tokenizer, self.weights)


def latents(config: LatentsConfig) -> Path:
    """Measure, print the tables, write the results files and the page; returns the page's path."""
    from eval.results.rows import table
    from runtime.processes import start_processes

    check_file("--out", config.out, folder_exists=True)
    out = Path(config.out)
    world = start_processes(config.device)
    found = []
    for one in of_files(config) if config.latents else of_tokenizers(config, world):
        if world.is_main:
            print(f"{one.label}\n{table(one.rows)}")
        found.append(one)
    if not world.is_main:
        return out
    from eval.analysis.sections import latents_page
    from eval.page.document import save_page

    save_page(out, latents_page(found, config.clips))
    print(f"eval.latents: open {out}")
    return out


def of_tokenizers(config: LatentsConfig, world) -> Iterator[Measured]:
    """Encode what is not kept yet, measure, and write the results file of each tokenizer."""
    from eval.analysis.kept_latents import see_latents
    from eval.analysis.sections import Measured
    from eval.extract import View
    from eval.tokenizer_clips import encoder_of, open_clips
    from runtime.processes import resolve_dtype
    from tokenizer.zoo import check_known

    config = with_commits(config, "tokenizer")
    entries = entries_of(config.tokenizer, config.weights) if config.tokenizer else [Entry("", "", None)]
    for entry in entries[1:]:  # whose mistakes should not be said after hours of the first one's work
        check_known(entry.tokenizer, entry.weights)
    dtype = resolve_dtype(config.dtype, world.device)
    for entry in entries:
        opened = open_clips(config, entry.tokenizer or None, entry.weights, world.device)
        label = entry.label or Path(opened.name).name
        store = latents_store(opened, dtype)
        encode = encoder_of(opened.vae, world.device, dtype, config.batch_size)
        view = View(store=store, see=see_latents, change=encode)
        kept = opened.seen({"": view}, world, f"encode {opened.data} with {label}")[""]
        if not world.is_main:
            yield Measured(label=label, kept=kept, rows=[], facts={}, opened=opened)
            continue
        about = {**opened.facts, "label": label, "samples": len(kept.features)}
        rows, facts = written(opened.out("latents"), kept, about)
        yield Measured(label=label, kept=kept, rows=rows, facts=facts, opened=opened)


def latents_store(opened: Opened, dtype):
    """Where the latents of a tokenizer's clips are kept."""
    from eval.analysis.kept_latents import latents_key
    from eval.features.store import FeatureStore
    from tokenizer.encode import has_no_logvar

    posterior = not has_no_logvar(opened.vae, opened.device)
    key = latents_key(opened.vae, opened.clip, posterior, dtype, opened.stratified, **opened.clip_key)
    return FeatureStore(opened.kept_below, f"{opened.data}-latents-{opened.clip.height}px", key)


def written(path: Path, kept: FeatureSet, about: dict) -> tuple[list[Row], dict]:
    """Every number of some latents, and `about` them with the curves behind the numbers: both as now in a file."""
    from eval.analysis.curves import curves_of
    from eval.analysis.latent_rows import latent_rows
    from eval.results.rows import write_results

    rows, facts = latent_rows(kept), {**about, "curves": curves_of(kept)}
    write_results(path, kind="latents", rows=rows, **facts)
    print(f"eval.latents: wrote {path}")
    return rows, facts


def of_files(config: LatentsConfig) -> Iterator[Measured]:
    """Measure latents files, a class-stratified draw of each."""
    from eval.analysis.kept_latents import kept_of_file
    from eval.analysis.sections import Measured

    for name in config.latents:
        kept, facts = kept_of_file(name, config.samples, config.seed)
        label, count = Path(name).stem, len(kept.features)
        about = {**facts, "label": label, "samples": count, "seed": config.seed}
        rows, facts = written(Path(config.runs_dir) / f"latents-{label}-n{count}.json", kept, about)
        yield Measured(label=label, kept=kept, rows=rows, facts=facts)


if __name__ == "__main__":
    run_command(
        latents,
        LatentsConfig,
        example="python -m eval.latents --tokenizer vae=runs/my-vae,wan2.2 --data ucf101 --root UCF101",
    )

"""One page that shows what a run of the whole chain did: `python -m eval.report --run GENERATOR_RUN --out report.html`.

Real, reconstructed, predicted and generated clips that play; curves; every number with interval, count, features and
controls; what was run, on what, and for how long; and in words how it differs from the paper. The sections are those
of `eval.page.sections`.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.command import CommonFlags, flag, printable, run_command
from runtime.output import check_file
from runtime.records import check_fields

# What the page repeats of the runs and of the latents.
_MANIFEST = {"parameters": int, "command": str, "git_commit": str, "versions": dict, "machine": dict}
_FACTS = dict.fromkeys(("tokenizer", "encoder_hash", "data", "split", "clip", "data_fingerprint"), str)
_FACTS |= {"rows": int, "shape": list[int]}
# Kinds of results, in the order of the page.
_ORDER = ("reconstruction", "prediction", "fvd", "protocols", "probe", "difference", "convergence")


@dataclass(frozen=True, kw_only=True)
class ReportConfig(CommonFlags):
    """Flags of `python -m eval.report`."""

    run: str | None = flag(None, "run of generator.train; default: the newest run")
    clips: int = flag(12, "clips of each kind to show", low=1, high=1000)
    steps: int = flag(100, "Euler steps of the shown samples", low=1, high=100_000)
    guidance_scale: float | None = flag(
        None, "guidance of the shown samples; default: those that eval.fvd measured, else 1", low=0.0, high=1000.0
    )
    shipped: bool = flag(True, "also show the shipped weights, where the data fit them")
    out: str = flag("report.html", "file to write", check=check_file)


def report(config: ReportConfig) -> Path:
    """Write the page and print the metrics table; returns the page's path."""
    from eval.results.rows import table
    from eval.tokenizer_clips import run_results
    from runtime.run import is_main, newest_run, read_run, timed_part
    from tokenizer.zoo import run_and_step

    check_file("--out", config.out, folder_exists=True)
    out = Path(config.out)
    run = read_run(config.run or newest_run(config.runs_dir, "generator"), "generator")
    facts = check_generator(run)
    if facts.get("root"):
        print(f"eval.report: the page shows clips of {printable(facts['root'])}", flush=True)  # as the run's files say
    tokenizer, step = run_and_step(facts["tokenizer"])
    tokenizer_run = read_run(tokenizer, "tokenizer") if (tokenizer / "manifest.json").is_file() else None
    if tokenizer_run:
        check_run(tokenizer_run, {})
        check_fields(tokenizer_run.manifest["identity"], {"steps": int}, f"{tokenizer_run.dir}: identity")
        check_fields(tokenizer_run.config, {"lpips_weight": float}, tokenizer_run.dir / "config.json")
        check_fields(tokenizer_run.config, {"gan_weight": float}, tokenizer_run.dir / "config.json", needed=False)

    from eval.page import sections
    from eval.page.document import page, save_page
    from eval.page.found import found_in

    with timed_part(run.dir, "eval.report"):
        folders = [run_results(tokenizer, step)] if tokenizer_run else folders_without_run(Path(config.runs_dir))
        results = newest_results([*folders, run_results(run.dir)], facts["data"], facts["encoder_hash"])
        parts = [
            sections.real_section(config, run, facts),
            *sections.generated_sections(config, run, facts, results),
            sections.numbers_section(results),
            sections.curves_section(run, tokenizer_run, results),
            *(sections.shipped_sections(config) if config.shipped and facts["data"] == "moving_shapes" else []),
            sections.differences_section(run, tokenizer_run, results, step),
            sections.run_section(run, tokenizer_run),
        ]
        name, data = html.escape(run.dir.name), html.escape(facts["data"])
        words, findings = found_in(results)
        lead = (
            f"{words} <span class=quiet>Tokenizer, latents, generator and evaluation of <b>{name}</b> on {data}.</span>"
        )
        if is_main():
            save_page(out, page(f"PV-VAE on {facts['data']}", lead, parts, findings))
    print(table([row for record, rows in results if record["kind"] != "convergence" for row in rows]))
    print(f"eval.report: open {out}")
    return out


def check_generator(run) -> dict:
    """A generator's run must say of itself what the page repeats; returns the facts of its latents."""
    from latents_cache.layout import check_attributes

    check_run(run, {"latents": dict})
    check_fields(run.config, {"steps": int}, run.dir / "config.json")
    facts, source = run.manifest["latents"], f"{run.dir / 'manifest.json'}: latents"
    check_fields(facts, _FACTS, source)
    check_attributes(facts, source)
    return facts


def check_run(info, more: dict) -> None:
    """A run must say of itself what the page repeats, and `more`."""
    source = info.dir / "manifest.json"
    check_fields(info.manifest, more | _MANIFEST, source)
    check_fields(info.manifest["machine"], {"processor": str, "cores": int, "system": str}, f"{source}: machine")
    check_fields(info.config, {"preset": str, "seed": int}, info.dir / "config.json")
    for session in info.manifest["sessions"]:
        check_fields(session, {"seconds": float}, f"{source}: sessions", needed=False)


def folders_without_run(runs_dir: Path) -> list[Path]:
    """Where results lie of tokenizers that were not trained here: shipped ones, baselines, folders."""
    return sorted({path for kind in ("shipped", "baseline") for path in runs_dir.glob(f"{kind}-*/eval")})


def newest_results(folders: Sequence[Path], data: str, encoder: str | None = None) -> list[tuple]:
    """(facts, rows) of the evaluations in folders on a data set, one after the other, in a fixed order of kinds.

    Of each kind the newest; of protocols and differences, the newest of the same protocols, and with the same b; of
    curves, those drawn in the same way and decoded by the same tokenizer.

    Args:
        encoder: Leave out results that name another encoder.
    """
    from eval.page.sections import CURVES
    from eval.results.rows import read_results

    found = {}
    for folder in folders:
        for path in sorted(folder.glob("*.json")):
            facts, rows = read_results(path)
            if encoder and facts.get("encoder_hash", encoder) != encoder:
                continue
            if facts["kind"] in _ORDER and facts.get("data", data) == data:
                of = [*sorted(facts.get("protocols", ())), facts.get("of", ""), facts.get("b", "")]
                of += [facts.get(name, "") for name in (*CURVES, "features")] if facts["kind"] == "convergence" else []
                key = (folders.index(folder), _ORDER.index(facts["kind"]), tuple(map(str, of)))
                found[key] = max(found.get(key, ("", "", {}, [])), (facts["created"], str(path), facts, rows))
    return [(facts, rows) for _, (_, _, facts, rows) in sorted(found.items(), key=lambda item: item[0])]


if __name__ == "__main__":
    run_command(report, ReportConfig, example="python -m eval.report --run runs/my-generator --out report.html")

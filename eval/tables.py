"""Tables in the paper's layout, the published rows beside what was measured here.

`python -m eval.tables --results runs/latte/eval/fvd-….json,runs/vae/eval/reconstruction-….json --out tables.md`. Every
row says where it comes from; measured numbers carry interval and number of clips, and below each table stands how their
protocol differs. A number enters a column only under its own name: a distance on other features than I3D's is no FVD.
What fits no column, as numbers of other protocols and differences of two results, is listed in a table of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from eval.results.published import TABLES
from eval.results.tables import FORMATS, KINDS, Measured, fill, others
from runtime.command import CommonFlags, flag, run_command
from runtime.errors import InputError
from runtime.output import check_file

SUFFIXES = {".md": "markdown", ".tex": "latex", ".csv": "csv", ".json": "json"}


@dataclass(frozen=True, kw_only=True)
class TablesConfig(CommonFlags):
    """Flags of `python -m eval.tables`."""

    results: tuple[str, ...] = flag((), "results of eval.fvd, reconstruction, probe, difference and speed, by commas")
    names: tuple[str, ...] = flag(
        (), "what to call the tokenizer of each file but those of speeds, which say it; default: its folder's name"
    )
    tables: tuple[str, ...] = flag(("generation", "reconstruction"), "which tables", choices=tuple(TABLES))
    format: str | None = flag(None, "default: by the ending of --out, else markdown", choices=tuple(SUFFIXES.values()))
    out: str | None = flag(None, "file to write; default: print", check=check_file)

    def __post_init__(self) -> None:
        if len(self.names) > len(self.results):
            raise InputError(f"--names gives {len(self.names)} names to {len(self.results)} files of --results")


def tables(config: TablesConfig) -> str:
    """Write or print the tables; returns the text."""
    from runtime.files import replacing

    measured = read_measured(config)
    published = [TABLES[name] for name in config.tables]
    rest = others(measured, published)
    made = [*(fill(table, measured) for table in published), *([rest] if rest.lines else [])]
    chosen = config.format or SUFFIXES.get(Path(config.out or "").suffix, "markdown")
    text = FORMATS[chosen](made)
    if config.out is None:
        print(text, end="")
        return text
    out = Path(config.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out, "tables") as partial:
        partial.write_text(text, "utf-8", "backslashreplace")  # JSON may hold what is no text
    print(f"eval.tables: wrote {out}")
    return text


def read_measured(config: TablesConfig) -> list[Measured]:
    """The results files, in order, and of eval.speed's each tokenizer for itself.

    Raises:
        InputError: On a file of another kind, or names for another number of files.
    """
    found = [measured_in(path) for path in config.results]
    unnamed = [measured for measured in found if measured[0].facts["kind"] != "speed"]
    if config.names and len(config.names) != len(unnamed):
        raise InputError(f"--names gives {len(config.names)} names to {len(unnamed)} files of --results")
    for measured, given in zip(unnamed, config.names, strict=bool(config.names)):
        measured[:] = [replace(each, given=given) for each in measured]
    return [each for measured in found for each in measured]


def measured_in(path: str | Path) -> list[Measured]:
    """What one results file holds: of eval.speed, each tokenizer for itself, by its label."""
    from eval.results.rows import read_results
    from runtime.records import check_fields

    facts, rows = read_results(path)
    if facts["kind"] not in KINDS:
        raise InputError(f"{path}: results of {facts['kind']}; tables are made of {', '.join(KINDS)}")
    check_fields(facts, KINDS[facts["kind"]], path)
    check_fields(facts, {"size": int, "run": str, "tokenizer": str, "weights": str}, path, needed=False)
    if facts["kind"] != "speed":
        return [Measured("", str(path), facts, rows)]
    labels = dict.fromkeys(row.subject for row in rows)
    return [Measured(label, str(path), facts, [row for row in rows if row.subject == label]) for label in labels]


if __name__ == "__main__":
    run_command(
        tables,
        TablesConfig,
        example="python -m eval.tables --results runs/latte/eval/fvd-i3d-step00250000-n2048.json --out tables.md",
    )

"""Tables say the same in every format, keep published and measured apart, and lose no number."""

from __future__ import annotations

import csv
import io
import json
import re

import pytest

from eval.results.published import TABLES
from eval.results.rows import Row, write_results
from eval.results.tables import CSV_COLUMNS, tex
from eval.tables import TablesConfig, tables
from runtime.command import parse
from runtime.errors import InputError


def row(metric: str, value: float | None, subject: str = "generated", **more) -> Row:
    edges = {} if value is None else {"low": value - 1, "high": value + 2, "n": 2048}
    return Row(metric=metric, subject=subject, value=value, **(edges | more))


@pytest.fixture
def results(tmp_path):
    """Results of one tokenizer on both generation sets and at both sizes, and of a demo."""

    def make(name: str, kind: str, rows: list[Row], **facts) -> str:
        facts = {"decoder_hash": "d0", "differences": [], **facts}
        write_results(tmp_path / f"{name}.json", kind=kind, rows=rows, **facts)
        return str(tmp_path / f"{name}.json")

    quality = [("rFVD", 3.2), ("PSNR", 32.5), ("SSIM", 0.953), ("LPIPS (alex)", 0.0213), ("LPIPS (vgg)", 0.08)]
    at = {
        size: make(f"k{size}", "reconstruction", [row(m, v + size, "reconstructed") for m, v in quality],
                   tokenizer="runs/my_vae", data="kinetics400", size=size, differences=["512 clips"] * (size == 512))
        for size in (256, 512)
    }  # fmt: skip
    classes = [row("FVD", 150.25), row("KVD", 12.5), row("IS", 68.1), row("FVD", 60.0, "real")]
    flights = [row("FVD", 75.5), row("KVD", 4.5)]
    return {
        "ucf101": make("ucf101", "fvd", classes, run="runs/gen-ucf", data="ucf101",
                       differences=["guidance 2 & more_words"]),
        "realestate10k": make("re10k", "fvd", flights, run="runs/gen-re", data="realestate10k"),
        "k256": at[256],
        "k512": at[512],
        "demo": make("demo", "fvd", [row("FD-shapes", 32.1, features="shapes@1"), row("IS", None, note="not measured")],
                     run="runs/demo", data="moving_shapes", decoder_hash="d1"),
    }  # fmt: skip


def made(results, form: str, *names: str, **more) -> str:
    return tables(TablesConfig(results=tuple(results[name] for name in names), format=form, **more))


def values(name: str, line: str) -> tuple:
    """What a published table says of a model."""
    (found,) = [found for found in TABLES[name].lines if found.name == line]
    return tuple(cell.value for cell in found.cells.values())


def test_published_numbers_are_those_of_the_paper():
    for number, table in enumerate(TABLES.values(), 1):
        assert {line.source for line in table.lines} == {f"arXiv 2605.02134v1, table {number}"}
    ours = values("generation", "PV-VAE")
    assert ours == ("t4s16c64", 146.37, 14.52, 69.72, 72.50, 4.06, 4.40, 33.34, 661)
    assert {name: len(table.lines) for name, table in TABLES.items()} == {
        "generation": 8, "reconstruction": 8, "probes": 2, "components": 4, "dropping": 3, "padding": 2,
        "transformer": 1,
    }  # fmt: skip
    # The same model stands in several tables with the same numbers.
    full = values("components", "+ decoder fine-tuning")
    assert full == (ours[1], *values("reconstruction", "PV-VAE")[:4])
    assert values("padding", "learnable") == values("dropping", "100 %") == ours[1:4]
    assert [column.direction for column in TABLES["generation"].columns] == [
        "", "lower", "lower", "higher", "lower", "lower", "higher", "lower", "",
    ]  # fmt: skip


def test_json_holds_everything_and_says_where_it_is_from(results):
    found = json.loads(made(results, "json", "ucf101", "realestate10k", "k256", "k512"))["tables"]
    generation, reconstruction, others = found
    (ours,) = [line for line in generation["lines"] if line["origin"] == "measured here"]
    assert ours["name"] == "gen-ucf" and ours["source"] == f"{results['ucf101']}, {results['realestate10k']}"
    assert {title: cell["value"] for title, cell in ours["cells"].items()} == {
        "UCF101 FVD": 150.25, "UCF101 KVD": 12.5, "UCF101 IS": 68.1, "RE10K FVD": 75.5, "RE10K KVD": 4.5,
    }  # fmt: skip
    fvd = ours["cells"]["UCF101 FVD"]
    assert (fvd["low"], fvd["high"], fvd["n"]) == (149.25, 152.25, 2048)
    published = [line for line in generation["lines"] if line["origin"] == "published"]
    assert len(published) == 8 and all(cell["low"] is None for line in published for cell in line["cells"].values())
    (ours,) = [line for line in reconstruction["lines"] if line["origin"] == "measured here"]
    assert ours["name"] == "my_vae" and ours["cells"]["PSNR 512"]["value"] == 544.5
    assert ours["cells"]["LPIPS 256"]["value"] == pytest.approx(256.0213)
    # What has no column: the floor, and LPIPS of the other network at both sizes.
    rest = [(line["cells"]["metric"]["value"], line["cells"]["of"]["value"]) for line in others["lines"]]
    assert rest == [("FVD", "real"), ("LPIPS (vgg)", "reconstructed"), ("LPIPS (vgg)", "reconstructed")]


def test_csv_and_json_hold_the_same_numbers(results):
    names = ("ucf101", "k256", "demo")
    read = list(csv.DictReader(io.StringIO(made(results, "csv", *names))))
    assert tuple(read[0]) == CSV_COLUMNS
    cells = {(r["table"], r["tokenizer"], r["source"], r["column"], r["value"], r["n"]) for r in read}
    expected = {
        (table["name"], line["name"], line["source"], title, str(cell["value"]), str(cell["n"] or ""))
        for table in json.loads(made(results, "json", *names))["tables"]
        for line in table["lines"]
        for title, cell in line["cells"].items()
    }
    assert cells == expected and len(cells) > 100


def markdown_tables(text: str) -> list[list[list[str]]]:
    parts = re.split(r"^### .*$", text, flags=re.MULTILINE)[1:]
    lines = [[line for line in part.splitlines() if line.startswith("|")] for part in parts]
    return [[[cell.strip() for cell in line.strip("|").split("|")] for line in table] for table in lines]


def test_markdown_parses_back_and_marks_what_was_measured_here(results):
    text = made(results, "markdown", "ucf101", "k256", "k512", "demo")
    generation, reconstruction, others = markdown_tables(text)
    assert all(len(line) == len(table[0]) for table in (generation, reconstruction, others) for line in table)
    by_name = {line[0]: dict(zip(generation[0], line, strict=True)) for line in generation[2:]}
    assert by_name["PV-VAE"]["UCF101 FVD ↓"] == "146.37" and by_name["CogVideoX"]["UCF101 FVD ↓"] == "176.90"
    assert by_name["PV-VAE"]["from"] == "published: arXiv 2605.02134v1, table 1"
    ours = by_name["**gen-ucf** [1]"]
    assert ours["from"] == "measured here" and ours["clips"] == "2,048"
    assert ours["UCF101 FVD ↓"] == "150.2 [149.2, 152.2]" and ours["RE10K FVD ↓"] == "–"
    assert "[1] guidance 2 & more_words" in text and "[1] 512 clips" in text
    published = dict(zip(reconstruction[0], reconstruction[2], strict=True))
    assert (published["SSIM 256 ↑"], published["LPIPS 256 ↓"]) == ("0.97", "0.027")
    assert "FD-shapes ↓" in {cell for line in others for cell in line} and "not measured" not in text


def test_a_distance_on_other_features_never_stands_in_a_column_of_fvd(results):
    generation, others = json.loads(made(results, "json", "demo", tables=("generation",)))["tables"]
    assert {line["origin"] for line in generation["lines"]} == {"published"}
    assert others["lines"][0]["cells"]["features"]["value"] == "shapes@1"


@pytest.mark.parametrize("kind", ["difference", "comparison"])
def test_a_difference_is_listed_with_its_sides_and_verdict_and_enters_no_column(kind, results, tmp_path):
    path = tmp_path / "difference.json"
    rows = [row("FVD", -3.5, "generated, a - b", note="a is better, by 3.5"), row("FVD", 150.25)]
    write_results(path, kind=kind, rows=rows, a="runs/a/fvd.json", b="runs/b/fvd.json", of="fvd", data="ucf101")
    generation, others = json.loads(made({"d": str(path)}, "json", "d", tables=("generation",)))["tables"]
    assert {line["origin"] for line in generation["lines"]} == {"published"}
    first, second = others["lines"]
    assert (first["cells"]["of"]["value"], first["cells"]["value"]["value"]) == ("generated, a - b", -3.5)
    assert first["cells"]["notes"]["value"] == "a is better, by 3.5" and second["cells"]["notes"]["value"] == ""
    assert first["notes"] == ["a: runs/a/fvd.json, b: runs/b/fvd.json"]


def test_numbers_of_other_protocols_are_listed_with_what_differs_and_enter_no_column(results, tmp_path):
    path, said = tmp_path / "protocols.json", {"latte": {"differences": ["frames: 16"]}, "paper": {"differences": []}}
    rows = [row("FVD", 170.0, "generated, latte (guidance 2)"), row("FVD", 150.0, "generated, paper")]
    rows.append(row("FVD", 171.0, protocol="latte@0123"))
    write_results(path, kind="protocols", rows=rows, run="runs/gen", data="ucf101", protocols=said)
    generation, others = json.loads(made({"p": str(path)}, "json", "p", tables=("generation",)))["tables"]
    assert {line["origin"] for line in generation["lines"]} == {"published"}
    assert [line["notes"] for line in others["lines"]] == [["latte: frames: 16"], [], ["latte: frames: 16"]]
    assert others["lines"][2]["cells"]["notes"]["value"] == "protocol latte@0123"


def test_only_the_papers_protocol_enters_a_column(results, tmp_path):
    path = tmp_path / "fvd.json"
    for protocol, lines in (("paper@0", 9), ("", 9), ("latte@0", 8)):
        found = [row("FVD", 150.0, protocol=protocol)]
        write_results(path, kind="fvd", rows=found, run="runs/gen", data="ucf101", decoder_hash="d0")
        assert len(json.loads(made({"p": str(path)}, "json", "p"))["tables"][0]["lines"]) == lines


def test_a_protocol_without_its_differences_is_refused(tmp_path):
    write_results(tmp_path / "p.json", kind="protocols", rows=[], data="ucf101", protocols={"latte": {}})
    with pytest.raises(InputError, match="protocol latte: differences is missing"):
        tables(TablesConfig(results=(str(tmp_path / "p.json"),)))


def test_latex_has_as_many_cells_in_every_row_and_escapes_what_is_special(results):
    text = made(results, "latex", "ucf101", "k256")
    for part in text.split(r"\begin{tabular}{")[1:]:
        columns = len(part.split("}", 1)[0])
        body = part.split(r"\bottomrule")[0]
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert {len(re.split(r"(?<!\\)&", line)) for line in rows} == {columns}
    assert r"guidance 2 \& more\_words." in text and r"my\_vae" in text
    assert r"\textcolor{gray}{146.37}" in text and r"\textcolor{gray}{150.2" not in text
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 3
    assert not re.search(r"[^\x00-\x7f]", text.replace("%", ""))
    assert tex("50 % of_a&b {x} ~^\\") == r"50 \% of\_a\&b \{x\} \textasciitilde{}\textasciicircum{}\textbackslash{}"


def test_two_results_for_one_cell_are_two_rows_and_names_are_given(results, tmp_path):
    again = tmp_path / "again.json"
    write_results(again, kind="fvd", rows=[row("FVD", 140.0)], run="runs/gen-ucf", data="ucf101", decoder_hash="d0")
    config = TablesConfig(results=(results["ucf101"], str(again)), format="json", names=("guided", "plain"))
    lines = json.loads(tables(config))["tables"][0]["lines"][8:]
    assert [(line["name"], line["cells"]["UCF101 FVD"]["value"]) for line in lines] == [
        ("guided", 150.25),
        ("plain", 140),
    ]
    lines = json.loads(made({**results, "again": str(again)}, "json", "ucf101", "again"))["tables"][0]["lines"][8:]
    assert [line["cells"]["UCF101 FVD"]["value"] for line in lines] == [150.25, 140.0]


def test_the_ending_of_the_file_says_the_format(results, tmp_path, capsys):
    out = tmp_path / "new" / "tables.tex"
    text = tables(TablesConfig(results=(results["k256"],), out=str(out)))
    assert out.read_text() == text and text.startswith("% needs")
    assert tables(TablesConfig(out=str(tmp_path / "tables.csv"))).startswith("table,tokenizer")
    assert "wrote" in capsys.readouterr().out
    assert tables(TablesConfig()).startswith("### Generation") and "### Generation" in capsys.readouterr().out


@pytest.mark.parametrize("name", TABLES)
def test_every_published_table_can_be_printed_alone(name):
    (table,) = json.loads(tables(TablesConfig(tables=(name,), format="json")))["tables"]
    assert table["name"] == name and len(table["lines"]) == len(TABLES[name].lines)


@pytest.mark.parametrize(
    "line, words",
    [
        ("--results nowhere.json", "no such file"),
        ("--results {convergence}", "results of convergence"),
        ("--results {bare}", "decoder_hash is missing"),
        ("--results {difference}", "a is missing"),
        ("--names a,b --results {bare}", "2 names to 1 files"),
        ("--tables table1", "not one of"),
        ("--format html", "not one of"),
    ],
)
def test_what_makes_no_table_is_refused(line, words, tmp_path):
    files = {"convergence": "convergence", "bare": "fvd", "difference": "difference"}
    for name, kind in files.items():
        write_results(tmp_path / f"{name}.json", kind=kind, rows=[], data="ucf101")
    line = line.format(**{name: tmp_path / f"{name}.json" for name in files})
    with pytest.raises(InputError, match=words):
        tables(parse(line.split(), TablesConfig))


def test_a_tokenizer_with_random_weights_is_called_so(tmp_path):
    facts = {"data": "kinetics400", "decoder_hash": "0", "tokenizer": "wan2.2", "size": 256}
    row = Row(metric="PSNR", subject="reconstructed", value=12.5, low=12.0, high=13.0, n=8)
    for name, more in (("trained", {}), ("random", {"weights": "random"})):
        write_results(tmp_path / f"{name}.json", kind="reconstruction", rows=[row], **facts, **more)
        text = tables(TablesConfig(results=(str(tmp_path / f"{name}.json"),), tables=("reconstruction",)))
        assert ("wan2.2 (random weights)" in text) is (name == "random") and "wan2.2" in text


@pytest.fixture
def speeds(tmp_path) -> str:
    """Speeds of two tokenizers, of which one has no number of training."""
    rows = [
        row("ISpeed", 0.5, "my_vae"),
        row("TSpeed (tokenizer inside)", 2.5, "my_vae"),
        row("parameters", 12.3, "my_vae"),
        row("ISpeed", 0.25, "wan2.2 (random weights)"),
        row("TSpeed (tokenizer inside)", None, "wan2.2 (random weights)"),
    ]
    shape = {"batch_size": 4, "num_frames": 17, "size": 64, "dtype": "float32", "device": "a GPU", "generator": "demo"}
    write_results(tmp_path / "speed.json", kind="speed", rows=rows, **shape)
    return str(tmp_path / "speed.json")


def test_speeds_stand_in_their_columns_on_the_line_of_the_tokenizer_of_that_name(results, speeds):
    config = TablesConfig(results=(results["ucf101"], speeds), names=("my_vae",), format="json")
    found = {table["name"]: table["lines"] for table in json.loads(tables(config))["tables"]}
    ours = {line["name"]: line["cells"] for line in found["generation"] if line["origin"] == "measured here"}
    assert {title: cell["value"] for title, cell in ours["my_vae"].items()} == {
        "UCF101 FVD": 150.25, "UCF101 KVD": 12.5, "UCF101 IS": 68.1, "TSpeed it/s": 2.5, "params M": 12.3,
    }  # fmt: skip
    assert "wan2.2 (random weights)" not in ours  # it has no number of that table
    inference = {line["name"]: line for line in found["reconstruction"] if line["origin"] == "measured here"}
    assert {name: line["cells"]["ISpeed it/s"]["value"] for name, line in inference.items()} == {
        "my_vae": 0.5, "wan2.2 (random weights)": 0.25,
    }  # fmt: skip
    assert "batch 4 of 17x64x64, float32, generator demo, on a GPU" in inference["my_vae"]["notes"][0]


def test_numbers_of_clips_and_of_speed_never_share_a_column(results, speeds, tmp_path):
    rows = [row("parameters", 1.0), row("ISpeed", 1.0, "reconstructed")]  # the words of speed in a file of clips
    write_results(tmp_path / "odd.json", kind="fvd", rows=rows, decoder_hash="d0", data="ucf101", run="runs/odd")
    config = TablesConfig(results=(str(tmp_path / "odd.json"), speeds), format="json")
    found = {table["name"]: table["lines"] for table in json.loads(tables(config))["tables"]}
    assert [line["name"] for line in found["generation"] if line["origin"] == "measured here"] == ["my_vae"]
    assert {line["name"] for line in found["others"]} == {"odd"}


def test_names_are_for_files_that_have_none_of_their_own(results, speeds):
    with pytest.raises(InputError, match="gives 2 names to 1 files"):
        tables(TablesConfig(results=(results["ucf101"], speeds), names=("a", "b")))


def test_a_comparison_shows_generated_clips_and_controls_of_the_same_metric_apart():
    from eval.comparison.outcome import columns_of
    from eval.results.tables import Measured, Table, fill

    rows = [
        Row(metric="FD-shapes", subject=subject, value=value, n=8)
        for subject, value in (("generated", 200.0), ("generated (guidance 2)", 150.0), ("reconstructed", 20.0))
    ]
    facts = {"kind": "fvd", "data": "moving_shapes", "size": 32, "num_frames": 17, "steps": 100}
    measured = [Measured("mine", "fvd.json", facts, rows)]
    columns = tuple(columns_of(measured))
    (line,) = fill(Table("measured", "", "", columns, []), measured, {"mine": {}}).lines
    assert {title: cell.value for title, cell in line.cells.items()} == {
        "FD-shapes": 200.0,
        "FD-shapes (guidance 2)": 150.0,
        "FD-shapes reconstructed": 20.0,
    }

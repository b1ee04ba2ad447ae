"""Rank correlations over results files of tokenizers whose numbers are made up."""

import pytest

from eval.correlate import CorrelateConfig, correlate
from eval.results.rows import Row, read_results, write_results
from runtime.command import parse
from runtime.errors import InputError

SETTING = {"data": "moving_shapes", "features": "shapes@1", "samples": 8, "steps": 4, "guidance_scales": [1.0]}
SETTING |= {"step": 100}
WORDS = "moving_shapes, shapes@1, 8 clips, 4 steps, guidance 1.0"


def results_of(folder, name, psnr, distances, kind="card", subject="reconstructed", **more):
    """A card, and a results file for each of a tokenizer's generators."""
    hashes = {"encoder_hash": f"e-{name}", "decoder_hash": f"d-{name}"}
    facts = {"tokenizer": name, "data": "moving_shapes", "split": "test", "size": 32, "num_frames": 17}
    row = Row(metric="PSNR", subject=subject, value=psnr, n=8)
    write_results(folder / f"{name}-{kind}.json", kind=kind, rows=[row], **hashes, **facts | more)
    for number, distance in enumerate(distances):
        rows = [
            Row(metric="FD-shapes", subject="generated", value=distance, n=8),
            Row(metric="FD-shapes", subject="real", value=1.0, n=8),
            Row(metric="FD-shapes", subject="generated", value=99.0, n=8, protocol="latte@1"),
        ]
        about = SETTING | {"run": f"gen{number}"}
        write_results(folder / f"{name}-{number}.json", kind="fvd", rows=rows, **hashes, **about)


def test_numbers_are_matched_by_tokenizer_and_generators_are_averaged(tmp_path, capsys):
    for name, psnr, distances in (("a", 30.0, [5.0]), ("b", 31.0, [7.0, 9.0]), ("c", 32.0, [7.5]), ("d", 33.0, [20.0])):
        results_of(tmp_path, name, psnr, distances)
    results_of(tmp_path, "e", 99.0, [])  # without a generator
    out = tmp_path / "out" / "correlation.json"
    (row,) = correlate(CorrelateConfig(results=(str(tmp_path),), out=str(out)))
    assert (row.metric, row.subject, row.n) == ("PSNR ~ FD-shapes", "reconstructed", 4)
    assert row.value == pytest.approx(0.8) and row.low < 0 and "33.3% of all orders" in row.note
    facts, rows = read_results(out)
    assert facts["kind"] == "correlation" and rows == [row] and facts["tokenizers"][WORDS]["b"] == 8.0
    printed = capsys.readouterr().out
    assert "b: FD-shapes 8, of 2 generators" in printed and "4 tokenizers have FD-shapes" in printed


def test_few_tokenizers_are_said_to_show_nothing(tmp_path):
    for name, psnr, distance in (("a", 30.0, 5.0), ("b", 31.0, 7.0), ("c", 32.0, 9.0)):
        results_of(tmp_path, name, psnr, [distance])
    (row,) = correlate(CorrelateConfig(results=(str(tmp_path),)))
    assert (row.value, row.low, row.high, row.n) == (1.0, None, None, 3) and "which shows nothing" in row.note
    (tmp_path / "c-card.json").unlink()
    (row,) = correlate(CorrelateConfig(results=(str(tmp_path),)))
    assert row.value is None and row.n == 2 and "at least 3 pairs" in row.note


def test_numbers_of_other_clips_are_not_mixed_and_the_newest_counts(tmp_path):
    for name, psnr, distance, size in (
        ("a", 30.0, 5.0, 32),
        ("b", 31.0, 7.0, 32),
        ("c", 32.0, 9.0, 64),
        ("d", 1.0, 2.0, 32),
    ):
        results_of(tmp_path, name, psnr, [distance], size=size)
    results_of(tmp_path, "d", 29.0, [2.0], kind="reconstruction")
    (row,) = correlate(CorrelateConfig(results=(str(tmp_path),)))
    assert row.n == 3 and row.value == 1.0 and "moving_shapes, test, 32, 17" in row.note


@pytest.mark.parametrize("change", [{"samples": 2048}, {"frame_stride": 3}, {"observed_frames": 5}])
def test_cheap_numbers_of_other_clips_are_apart(change, tmp_path, capsys):
    """rFVD falls with the number of clips: tokenizers of 8 and of 2,048 of them have no order by it."""
    alike = {"samples": 8, "frame_stride": 1, "observed_frames": 9}
    for name, quality, distance in zip("abcdef", (1.0, 2.0, 3.0, 0.1, 0.2, 0.3), (1.0, 2.0, 3.0) * 2, strict=True):
        about = alike | (change if name in "def" else {})
        results_of(tmp_path, name, quality, [distance], subject="predicted", **about)
    rows = correlate(CorrelateConfig(results=(str(tmp_path),)))
    assert [(row.value, row.n) for row in rows] == [(1.0, 3), (1.0, 3)]
    printed = capsys.readouterr().out
    assert "2 numbers were tried: about 0.1 of them" in printed and "of 1 generators, after 100 steps" in printed


@pytest.mark.parametrize(
    "change",
    [
        {"samples": 96},
        {"data": "ucf101"},
        {"features": "shapes@2"},
        {"steps": 50},
        {"labels": "drawn"},
        {"guidance_interval": [0.1, 0.8]},
    ],
)
def test_distances_that_were_measured_otherwise_are_not_averaged(change, tmp_path):
    for name, psnr, distance in (("a", 30.0, 5.0), ("b", 31.0, 7.0), ("c", 32.0, 9.0)):
        results_of(tmp_path, name, psnr, [distance])
    rows = [Row(metric="FD-shapes", subject="generated", value=500.0, n=8)]
    about = SETTING | {"run": "gen0", "encoder_hash": "e-a", "decoder_hash": "d-a"} | change
    write_results(tmp_path / "a-otherwise.json", kind="fvd", rows=rows, **about)
    (row,) = correlate(CorrelateConfig(results=(str(tmp_path),)))
    assert row.n == 3 and row.value == 1.0 and WORDS in row.note


def test_of_one_generator_the_latest_checkpoint_counts(tmp_path, capsys):
    for name, psnr, distance in (("a", 30.0, 5.0), ("b", 31.0, 7.0), ("c", 32.0, 9.0)):
        results_of(tmp_path, name, psnr, [distance])
        rows = [Row(metric="FD-shapes", subject="generated", value=500.0 - distance, n=8)]
        about = SETTING | {"run": "gen0", "encoder_hash": f"e-{name}", "decoder_hash": f"d-{name}", "step": 50}
        write_results(tmp_path / f"{name}-before.json", kind="fvd", rows=rows, **about)
    (row,) = correlate(CorrelateConfig(results=(str(tmp_path),)))
    assert row.value == 1.0 and "a: FD-shapes 5, of 1 generators" in capsys.readouterr().out


def test_the_published_tables_can_be_asked(capsys):
    rows = correlate(CorrelateConfig(results=("published",)))
    assert {row.n for row in rows} == {8} and rows[0].metric == "SSIM 256 ~ FVD"
    # Over these tokenizers the better the pictures, the worse the generator's FVD.
    assert rows[0].value > 0.7 and rows[0].low > 0


def test_results_are_words_or_a_list():
    assert parse(["a.json", "b,c"], CorrelateConfig).results == ("a.json", "b", "c")
    assert parse(["--results", "a,b"], CorrelateConfig).results == ("a", "b")
    with pytest.raises(InputError, match="--results is needed"):
        parse([], CorrelateConfig)


def test_results_that_do_not_meet_are_one_line(tmp_path):
    results_of(tmp_path, "a", 30.0, [5.0])
    results_of(tmp_path, "b", 30.0, [])
    with pytest.raises(InputError, match="2 tokenizers have cheap numbers, 0 have KVD"):
        correlate(CorrelateConfig(results=(str(tmp_path),), target="KVD"))

"""`python -m latents_cache.check`: what it prints and what it finds."""

import h5py
import numpy as np
import pytest

from latents_cache import create_latents
from latents_cache.check import CheckConfig, check
from runtime.command import run_command
from runtime.errors import InputError

SHAPE = (2, 3, 2, 2)


@pytest.fixture
def path(tmp_path):
    generator = np.random.default_rng(0)
    with create_latents(tmp_path / "a.h5", 6, SHAPE, {"num_classes": 3, "encoder_hash": "abc"}) as writer:
        for row in range(6):
            writer.write(row, *generator.standard_normal((2, *SHAPE)), label=row % 3, name=f"clip-{row}")
        return writer.finish()


def offset_of(path, name: str) -> int:
    with h5py.File(path, "r") as file:
        return file[name].id.get_offset()


def flip_byte(path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 0x04
    path.write_bytes(content)


def test_a_sound_file_is_described(path, capsys):
    check(CheckConfig(file=str(path), full=True))
    said = capsys.readouterr().out
    assert "6 rows of (C, G, h, w) = (2, 3, 2, 2), mean and logvar" in said and "encoder_hash: abc" in said
    assert "labels: 3 different, 2 to 2" in said and "all 6 rows read" in said


def test_long_work_says_how_far_it_is_and_short_work_nothing(path, capsys, monkeypatch):
    check(CheckConfig(file=str(path), full=True))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("latents_cache.check.MOMENT", -1.0)
    check(CheckConfig(file=str(path), full=True))
    assert capsys.readouterr().err == ""  # nobody watches
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    check(CheckConfig(file=str(path), full=True))
    said = capsys.readouterr().err
    assert "checksums 6/6" in said and "numbers 6/6" in said


def test_an_error_after_long_work_is_a_line_of_its_own(path, capsys, monkeypatch):
    monkeypatch.setattr("latents_cache.check.MOMENT", -1.0)
    flip_byte(path, offset_of(path, "mean"))
    for watched in (False, True):
        monkeypatch.setattr("sys.stderr.isatty", lambda watched=watched: watched, raising=False)
        with pytest.raises(SystemExit, match="2"):
            run_command(check, CheckConfig, argv=[str(path), "--full"])
        *before, error = capsys.readouterr().err.splitlines()
        assert error.startswith("error: ") and "1 of 6 rows" in error and bool(before) == watched


def test_more_channels_than_memory_are_refused_before_they_are_counted(path, capsys, monkeypatch):
    monkeypatch.setattr("runtime.resources.free_main_memory", lambda: 2**20)
    monkeypatch.setattr("latents_cache.counts.count_values", None)
    for flags in ({"full": True}, {"histogram": True}):
        with pytest.raises(InputError, match="2 channels needs .* MiB of memory, 1 MiB are free"):
            check(CheckConfig(file=str(path), **flags))


def test_the_histogram_shows_each_channel(path, capsys):
    check(CheckConfig(file=str(path), histogram=True))
    lines = capsys.readouterr().out.splitlines()
    with h5py.File(path) as file:
        own = np.sort(file["mean"][:, 1].reshape(-1).astype(float))
    number, low, _, _, middle, _, _, high = lines[-1][:-32].split()
    expected = own[[0, len(own) // 2 - 1, -1]]
    assert number == "1" and [float(low), float(middle), float(high)] == pytest.approx(expected.tolist(), rel=5e-3)
    assert set(lines[-1][-32:]) <= set(" ▁▂▃▄▅▆▇█") and "█" in lines[-1]
    assert len([line for line in lines if "█" in line]) == 2


@pytest.mark.parametrize("name", ["mean", "logvar", "name", "label", "crc32"])
def test_full_finds_a_flipped_byte_and_names_its_row(path, name):
    with h5py.File(path, "r") as file:
        row_bytes = file[name].nbytes // 6
    flip_byte(path, offset_of(path, name) + 4 * row_bytes + (1 if name == "label" else 0))
    if name != "label":  # a label outside the classes is seen without reading every row
        check(CheckConfig(file=str(path)))
    with pytest.raises(InputError, match=r"1 of 6 rows are damaged \(4\)|row 4 has label"):
        check(CheckConfig(file=str(path), full=True))


def test_a_label_changed_within_the_classes_is_found_by_full(path):
    with h5py.File(path, "r+") as file:
        file["label"][4] = 2
    check(CheckConfig(file=str(path)))
    with pytest.raises(InputError, match=r"1 of 6 rows are damaged \(4\)"):
        check(CheckConfig(file=str(path), full=True))


def test_full_finds_statistics_that_do_not_fit(path):
    with h5py.File(path, "r+") as file:
        file["latents_std"][1] *= 1.001
    with pytest.raises(InputError, match="stored statistics do not fit"):
        check(CheckConfig(file=str(path), full=True))


def test_a_constant_channel_is_named(tmp_path):
    values = np.ones(SHAPE)
    values[0, 0, 0, 0] = 2
    with create_latents(tmp_path / "a.h5", 1, SHAPE, {}) as writer:
        writer.write(0, values)
        writer.finish()
    with pytest.raises(InputError, match=r"channels \[1\] are constant"):
        check(CheckConfig(file=str(tmp_path / "a.h5")))


@pytest.mark.parametrize("words", [["absent.h5"], ["--file", "absent.h5"], [], ["a.h5", "--fulll"], ["a.h5", "b.h5"]])
def test_bad_command_lines_are_one_line_and_exit_code_2(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        run_command(check, CheckConfig, argv=words)
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and said.startswith("error: ") and said.count("\n") == 1

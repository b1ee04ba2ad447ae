"""Where a command may write, and under which names."""

import functools
import os
from dataclasses import dataclass

import pytest

from runtime.command import CommonFlags, ReadingFlags, flag, parse
from runtime.errors import InputError
from runtime.output import MAX_NAME, check_file, check_folder, check_name


@pytest.mark.parametrize("name", ["a", "my-run_2.1", "läufe", "漢字", "with space", "n" * MAX_NAME])
def test_names_that_a_folder_can_have(name, tmp_path):
    check_name("--name", name)
    (tmp_path / name).mkdir()


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "/a", ".hidden", "-rf", "a\nb", "a\0b", "\x1b[2J", "\ud800", "n" * 201, "漢" * 99]
)
def test_names_that_no_folder_should_have(name):
    with pytest.raises(InputError, match="--name .* cannot be a folder name"):
        check_name("--name", name)


def test_a_file_is_written_where_no_folder_and_no_file_is_in_the_way(tmp_path):
    (tmp_path / "file").touch()
    check_file("--out", str(tmp_path / "a.json"))
    check_file("--out", str(tmp_path / "file"))
    check_file("--out", str(tmp_path / "new" / "folders" / "a.json"))
    with pytest.raises(InputError, match="no such folder"):
        check_file("--out", str(tmp_path / "new" / "a.json"), folder_exists=True)
    for path, words in (
        (tmp_path, "is a folder"),
        (tmp_path / "file" / "a.json", "file is a file, not a folder"),
        (tmp_path / "file" / "b" / "a.json", "file is a file, not a folder"),
        (tmp_path / ("n" * 300), "File name too long"),
    ):
        with pytest.raises(InputError, match=words):
            check_file("--out", str(path))
    check_folder("--runs-dir", str(tmp_path / "new" / "runs"))
    with pytest.raises(InputError, match="--runs-dir .*file is a file"):
        check_folder("--runs-dir", str(tmp_path / "file"))
    assert sorted(os.listdir(tmp_path)) == ["file"]


def test_a_folder_without_permission_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(InputError, match="no permission to write in"):
        check_file("--out", str(tmp_path / "a.json"))
    with pytest.raises(InputError, match="--runs-dir runs: no permission to write in"):
        parse([], CommonFlags)
    parse([], ReadingFlags)  # of commands that write nothing


def test_flags_are_checked_with_their_defaults(tmp_path, monkeypatch):
    @dataclass(frozen=True, kw_only=True)
    class Config(CommonFlags):
        out: str = flag("no/a.json", check=functools.partial(check_file, folder_exists=True))

    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="--out no/a.json: no such folder no"):
        parse([], Config)
    assert parse(["--out", "a.json"], Config).out == "a.json"

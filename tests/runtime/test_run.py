"""Run directories: resume, identity, lock, newest, JSON files."""

import hashlib
import json
import shlex
import subprocess
import sys
from dataclasses import dataclass

import pytest

from runtime.errors import InputError
from runtime.records import read_json, write_json
from runtime.run import Run, command_line, commits, default_name, file_sha256, newest_run, read_run, timed_part


@dataclass(frozen=True)
class Config:
    runs_dir: str
    steps: int = 10


def open_run(folder, name="run", kind="tokenizer", **identity) -> Run:
    return Run.open(Config(str(folder)), kind=kind, name=name, identity={"steps": 10, **identity})


def test_a_run_records_its_sessions_and_resumes(tmp_path, monkeypatch):
    for commit in ("first", "second"):
        monkeypatch.setattr("runtime.run.git_commit", lambda commit=commit: commit)
        with open_run(tmp_path) as run:
            assert run.dir == tmp_path / "run"
    manifest = read_run(run.dir).manifest
    assert [session["status"] for session in manifest["sessions"]] == ["done", "done"]
    assert commits(manifest) == "first, second" and commits({"sessions": [{}]}) == "unknown"
    assert {"git_commit", "versions", "machine", "command", "started"} <= set(manifest)
    assert read_run(run.dir).config == {"runs_dir": str(tmp_path), "steps": 10}


def test_a_failed_session_says_so(tmp_path):
    with pytest.raises(ZeroDivisionError), open_run(tmp_path):
        raise ZeroDivisionError
    assert read_run(tmp_path / "run").manifest["sessions"][0]["status"] == "failed"


def test_another_identity_is_refused_with_every_difference(tmp_path):
    with open_run(tmp_path, rate=1, seed=0):
        pass
    with pytest.raises(InputError, match="rate: was 1, now 2; seed: was 0, now 5"):
        open_run(tmp_path, rate=2, seed=5)


def test_a_second_live_launch_is_refused(tmp_path):
    with open_run(tmp_path), pytest.raises(InputError, match="being written by another process"):
        open_run(tmp_path)
    with open_run(tmp_path):
        pass


def test_a_file_system_without_locks_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("fcntl.flock", lambda *_: (_ for _ in ()).throw(OSError(38, "Function not implemented")))
    with pytest.raises(InputError, match="cannot be locked: Function not implemented"):
        open_run(tmp_path)


def test_a_launch_of_another_process_is_refused_while_this_one_lives(tmp_path):
    code = (
        "import sys; from runtime.errors import InputError; from runtime.run import Run\n"
        "from dataclasses import make_dataclass\n"
        "config = make_dataclass('Config', [('runs_dir', str)])(sys.argv[1])\n"
        "try: Run.open(config, kind='tokenizer', name='run', identity={'steps': 10})\n"
        "except InputError as error: sys.exit(3 if 'another process' in str(error) else 4)"
    )

    def launch() -> int:
        return subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode

    with open_run(tmp_path):
        assert launch() == 3
    assert launch() == 0


def test_the_command_in_the_manifest_can_be_pasted(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "--data", "my clips", "--name", "a'b"])
    assert shlex.split(command_line())[-4:] == ["--data", "my clips", "--name", "a'b"]


def test_the_settings_on_disk_are_those_of_the_newest_command(tmp_path):
    for steps in (10, 20):
        with Run.open(Config(str(tmp_path), steps), kind="tokenizer", name="run", identity={}) as run:
            assert read_run(run.dir).config["steps"] == steps


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert file_sha256(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()


def test_a_runs_dir_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write to"):
        open_run(tmp_path / "file")


def test_a_run_of_another_kind_and_a_bad_name_are_refused(tmp_path):
    with open_run(tmp_path):
        pass
    with pytest.raises(InputError, match="is a tokenizer run, not a generator run"):
        open_run(tmp_path, kind="generator")
    for name in ("a/b", "..", "", ".hidden"):
        with pytest.raises(InputError, match="folder name"):
            open_run(tmp_path, name=name)


def test_newest_is_the_latest_start_of_a_kind(tmp_path):
    with pytest.raises(InputError, match="no generator run"):
        newest_run(tmp_path, "generator")
    for name, kind in (("b", "tokenizer"), ("a", "tokenizer"), ("z", "generator")):
        with open_run(tmp_path, name=name, kind=kind):
            pass
    assert newest_run(tmp_path, "tokenizer").name == "a"
    with open_run(tmp_path, name="b"):
        pass
    assert newest_run(tmp_path, "tokenizer").name == "b"  # resumed last


def test_names_depend_on_the_flags_that_change_results():
    assert default_name("demo", "ucf101.h5", {"a": 1}).startswith("demo-ucf101-")
    assert default_name("demo", "x", {"a": 1}) != default_name("demo", "x", {"a": 2})
    assert default_name("demo", "x", {"a": 1, "b": 2}) == default_name("demo", "x", {"b": 2, "a": 1})


def test_json_files_are_replaced_whole_and_bad_ones_are_named(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    write_json(path, {"a": 2})
    assert read_json(path) == {"a": 2} and [p.name for p in tmp_path.iterdir()] == ["a.json"]
    path.write_text("{")
    with pytest.raises(InputError, match="not readable as JSON"):
        read_json(path)
    path.write_text("[1]")
    with pytest.raises(InputError, match="expected a JSON object"):
        read_json(path)
    with pytest.raises(InputError, match="no such file"):
        read_json(tmp_path / "b.json")


def test_timed_parts_add_a_line_when_they_end_well(tmp_path):
    with timed_part(tmp_path, "encode"):
        pass
    with pytest.raises(ZeroDivisionError), timed_part(tmp_path, "broken"):
        raise ZeroDivisionError
    lines = [json.loads(line) for line in (tmp_path / "parts.jsonl").read_text().splitlines()]
    assert [line["part"] for line in lines] == ["encode"] and lines[0]["seconds"] >= 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"identity": None}, "identity is None, expected an object"),
        ({"sessions": "many"}, "sessions is 'many', expected a list"),
        ({"sessions": [1]}, "sessions is .1., expected a list, each an object"),
        ({"kind": 3}, "kind is 3"),
        ({"started": 2026}, "started is 2026"),
    ],
)
def test_a_manifest_of_wrong_types_is_refused(tmp_path, changes, words):
    with open_run(tmp_path) as run:
        pass
    write_json(run.dir / "manifest.json", run.manifest | changes)
    with pytest.raises(InputError, match=f"manifest.json: {words}"):
        read_run(run.dir)
    if "kind" not in changes:
        with pytest.raises(InputError, match=words):
            newest_run(tmp_path, "tokenizer")


def test_check_refuses_what_open_would_and_writes_nothing(tmp_path):
    settings = {"kind": "tokenizer", "identity": {"steps": 10}}
    assert Run.check(Config(str(tmp_path)), name="run", **settings) == tmp_path / "run"
    assert not list(tmp_path.iterdir())
    with open_run(tmp_path):
        pass
    Run.check(Config(str(tmp_path)), name="run", **settings)
    with pytest.raises(InputError, match="made with other settings .steps: was 10, now 11."):
        Run.check(Config(str(tmp_path)), name="run", kind="tokenizer", identity={"steps": 11})


def test_of_a_record_that_differs_only_its_fields_are_named_and_long_ones_are_cut(tmp_path):
    before = {"shape": [8, 5, 4, 4], "mean": [0.123456789] * 8, "rows": 10}
    with open_run(tmp_path, latents=before):
        pass
    now = {"latents": {"shape": [12, 5, 4, 4], "mean": [0.123456789] * 12, "rows": 10}}
    with pytest.raises(InputError, match=r"latents.shape: was \[8, 5, 4, 4\], now \[12, 5, 4, 4\]") as caught:
        Run.check(Config(str(tmp_path)), kind="tokenizer", name="run", identity={"steps": 10, **now})
    assert len(str(caught.value)) < 400 and "rows" not in str(caught.value)
    with open_run(tmp_path, name="far", root=f"/{'x' * 100}/a"):
        pass
    with pytest.raises(InputError, match=r"root: was …/?x+/a', now …/?x+/b'"):
        Run.check(
            Config(str(tmp_path)), kind="tokenizer", name="far", identity={"steps": 10, "root": f"/{'x' * 100}/b"}
        )

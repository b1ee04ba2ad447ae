"""Files of strangers: mutated ones are taken or refused in one line, and nothing outside their folder is touched."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import fuzzing
import h5py
import kinds
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eval.clip_sets import load_classifier
from eval.decode import file_word, fitting_tokenizer
from eval.features.store import FeatureSet, Segment
from eval.results.rows import Row, read_results, table, write_results
from eval.tables import TablesConfig, tables
from eval.verify import DIFFERS, UNCHECKED, VerifyConfig, check_samples, checks_of, verify
from latents_cache import open_latents
from latents_cache.check import describe
from runtime.command import CommonFlags, run_command
from runtime.errors import InputError
from runtime.records import append_line, read_json
from runtime.run import Run
from tokenizer.zoo import check_named_by_file, trained_on
from videos import ClipSpec, write_video
from videos.clip import lowest_stride
from videos.datasets import open_files
from videos.listing import _one_at_a_time
from videos.unreadable import UnreadableClip, UnreadableFiles


@pytest.mark.parametrize("kind", fuzzing.KINDS)
def test_sound_files_are_accepted(kind, tmp_path):
    fuzzing.KINDS[kind].read(Path(shutil.copytree(fuzzing.sound_files(kind), tmp_path / "sound")))


@pytest.mark.parametrize("kind", fuzzing.KINDS)
@settings(derandomize=True, database=None, max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(rng=st.randoms(use_true_random=False))
def test_mutated_files_are_taken_or_refused_in_words(kind, rng):
    with tempfile.TemporaryDirectory() as folder:
        assert fuzzing.fuzz(kind, rng, Path(folder)).startswith(("accepted", "refused: "))


def test_a_seed_repeats_a_case_and_anything_but_a_refusal_fails(tmp_path, monkeypatch):
    first, again = (fuzzing.fuzz_once("results", 5, tmp_path / name) for name in ("a", "b"))
    assert first.replace(str(tmp_path / "a"), "") == again.replace(str(tmp_path / "b"), "")
    broken = dataclasses.replace(fuzzing.KINDS["results"], read=lambda folder: {}["absent"])
    monkeypatch.setitem(fuzzing.KINDS, "results", broken)
    with pytest.raises(AssertionError, match="seed 5, results: KeyError: 'absent'; the files are in"):
        fuzzing.fuzz_once("results", 5, tmp_path / "c")


@pytest.fixture
def latents(tmp_path) -> Path:
    kinds.make_latents(tmp_path)
    return tmp_path / "a.h5"


def replace_dataset(path: Path, name: str, make) -> None:
    """Put what `make(file, name)` writes in the place of a dataset."""
    with h5py.File(path, "r+") as file:
        del file[name]
        make(file, name)


def external_link(file: h5py.File, name: str) -> None:
    file[name] = h5py.ExternalLink("other.h5", f"/{name}")


def external_bytes(file: h5py.File, name: str) -> None:
    file.create_dataset(name, (6, *kinds.LATENT_SHAPE), np.float16, external=[("other.h5", 0, 384)])


def virtual(file: h5py.File, name: str) -> None:
    layout = h5py.VirtualLayout((6, *kinds.LATENT_SHAPE), np.float16)
    layout[...] = h5py.VirtualSource("other.h5", name, layout.shape)
    file.create_virtual_dataset(name, layout)


def soft_link(file: h5py.File, name: str) -> None:
    external_link(file.create_group("group"), name)
    file[name] = h5py.SoftLink(f"/group/{name}")


@pytest.mark.parametrize("make", [external_link, soft_link])
def test_a_link_to_a_pipe_is_refused_and_not_waited_for(latents, make):
    os.mkfifo(latents.with_name("other.h5"))
    replace_dataset(latents, "logvar", make)
    code = f"from latents_cache import open_latents; open_latents({str(latents)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "logvar lies in another file, or behind a link" in done.stderr


@pytest.mark.parametrize("make", [external_link, external_bytes, virtual])
def test_a_latents_file_cannot_pass_off_bytes_of_other_files_as_its_rows(latents, make):
    shutil.copy(latents, latents.with_name("other.h5"))
    replace_dataset(latents, "logvar", make)
    with pytest.raises(InputError, match="logvar lies in another file"):
        open_latents(latents)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("mean", (10**12, *kinds.LATENT_SHAPE)), ("mean", (6, 4, 2, 10**6, 10**6)), ("logvar", (6, 10**12, 2, 2, 2))],
)
def test_a_size_that_no_file_holds_is_refused_before_it_is_allocated(latents, name, shape):
    replace_dataset(
        latents, name, lambda file, name: file.create_dataset(name, shape, np.float16, chunks=(1,) * len(shape))
    )
    tracemalloc.start()
    with pytest.raises(InputError, match="promises|expected"):
        open_latents(latents)
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


@pytest.mark.parametrize(
    "dtype", ["f8", "i2", "S4", "?", "c8", [("a", "f2")], h5py.string_dtype()], ids=lambda dtype: str(dtype)[:12]
)
def test_other_types_of_values_are_refused(latents, dtype):
    replace_dataset(latents, "label", lambda file, name: file.create_dataset(name, (6,), dtype))
    if dtype == "i2":  # whole numbers of any width are labels
        assert open_latents(latents).labels.tolist() == [0] * 6
    else:
        with pytest.raises(InputError, match="label is .* expected"):
            open_latents(latents)


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 1_000_000, "\x00", '{"a": ', "[1]", ""])
def test_no_json_text_is_more_than_a_refusal(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match="a.json"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "..", "a/b", "a\\b", "a\0b", "", "\n", "x" * 999, "漢" * 99]
)
def test_a_class_name_cannot_lead_out_of_the_folder_of_decoded_clips(name):
    word = file_word(name)
    assert word and len(word.encode()) <= 160 and Path(word).name == word and word not in (".", "..")
    assert "\\" not in word and word.isprintable()


def test_a_split_list_chooses_among_the_files_of_the_data_set_and_nothing_else(tmp_path):
    outside = tmp_path / "secret" / "v_Archery_g09_c01.mp4"
    inside = tmp_path / "data" / "Archery" / "v_Archery_g01_c01.mp4"
    for path in (outside, inside):
        path.parent.mkdir(parents=True)
        write_video(path, np.zeros((6, 32, 32, 3), np.uint8), 8)
    lines = ["../secret/v_Archery_g09_c01.mp4", str(outside), "Archery/v_Archery_g01_c01.avi 3"]
    for split in ("train", "test"):
        (tmp_path / "data" / f"{split}list01.txt").write_text("\n".join(lines))
    dataset = open_files("ucf101", str(tmp_path / "data"), "train", ClipSpec(num_frames=5, size=32))
    assert dataset.sources == [inside]


def test_links_out_of_a_data_set_are_neither_read_nor_passed_over_in_silence(tmp_path):
    from PIL import Image

    root, outside = tmp_path / "data", tmp_path / "outside"
    for folder in (root / "frames", outside):
        folder.mkdir(parents=True)
    for number in range(5):
        Image.fromarray(np.full((32, 32, 3), 9, np.uint8)).save(root / "frames" / f"{number}.png")
    Image.fromarray(np.full((32, 32, 3), 200, np.uint8)).save(outside / "0.png")
    (root / "frames" / "5.png").symlink_to(outside / "0.png")
    (root / "more").symlink_to(outside)
    (root / "lost.mp4").symlink_to(tmp_path / "nowhere.mp4")
    dataset = open_files("realestate10k", str(root), "all", ClipSpec(num_frames=5, size=32))
    assert dataset.lengths == [5] and dataset[0]["video"].max() == 9
    assert dataset.skipped == [
        (str(root / "frames" / "5.png"), "a link that leads out of the data set"),
        (str(root / "lost.mp4"), "a link to nowhere"),
        (str(root / "more"), "a link to a folder, which is not followed"),
    ]


def test_code_that_came_with_a_run_is_not_run_because_the_run_names_it(tmp_path, monkeypatch):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "evil.py").write_text(f"import pathlib; pathlib.Path({str(tmp_path / 'ran')!r}).touch()")
    (tmp_path / "beside_it.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)  # as `python -m` does with the current folder
    name = "theirs.evil:Toy"
    with pytest.raises(InputError, match=f"a.h5: its tokenizer is code .* give --tokenizer {name}"):
        fitting_tokenizer({"tokenizer": name}, "a.h5")
    write_results(tmp_path / "a.json", kind="fvd", rows=[], tokenizer=name)
    (check,) = checks_of(tmp_path / "a.json")
    assert check.state == UNCHECKED and "not run" in check.words and not (tmp_path / "ran").exists()
    for own in ("beside_it:Toy", "torch.nn:Linear", "nowhere:Toy", "moving-shapes"):
        check_named_by_file(own, "a.h5")
    with pytest.raises(InputError, match="has no torch.nn.Module 'Toy'"):
        fitting_tokenizer({}, "a.h5", name)
    assert (tmp_path / "ran").exists()


def test_facts_that_only_some_readers_use_are_checked_too(latents, tmp_path):
    write_results(tmp_path / "a.json", kind="fvd", rows=[], samples_of={"a": 5})
    with pytest.raises(InputError, match="a.json: samples_of: a is 5, expected text"):
        list(checks_of(tmp_path / "a.json"))
    assert check_samples(latents, SimpleNamespace(clips=np.array([b"\xff"]))).state == DIFFERS
    with pytest.raises(InputError, match="clip of the latents: num_frames is '9'"):
        load_classifier({"data": "ucf101", "clip": '{"num_frames": "9"}'}, "cpu")
    row = Row(metric="FD-shapes", subject="generated", value=1.0)
    write_results(tmp_path / "a.json", kind="fvd", rows=[row], data="\ud800", decoder_hash="0")
    tables(TablesConfig(results=(str(tmp_path / "a.json"),), out=str(tmp_path / "a.md")))
    assert "\\ud800" in (tmp_path / "a.md").read_text()
    kinds.make_card(tmp_path)
    for name, value in (("num_frames", "17"), ("size", None), ("frame_stride", ["a", 1]), ("frame_stride", {})):
        (tmp_path / "config.json").write_text(json.dumps({"data": "ucf101", name: value}))
        with pytest.raises(InputError, match=f"config.json: {name} is"):
            trained_on(tmp_path)
    assert lowest_stride([]) == 1


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("manifest.json", {"plan": [{}]}),
        ("manifest.json", {"identity": {"steps": "5"}}),
        ("manifest.json", {"sessions": [{"seconds": "x"}]}),
        ("manifest.json", {"command": ["a"]}),
        ("manifest.json", {"machine": 3}),
        ("eval/a.json", {"differences": 5}),
    ],
)
def test_a_model_card_repeats_nothing_that_was_not_checked(file, change, tmp_path):
    kinds.make_card(tmp_path)
    record = json.loads((tmp_path / file).read_text())
    (tmp_path / file).write_text(json.dumps(record | change))
    with pytest.raises(InputError, match=f"{file}: {next(iter(change))}|{file}: (name|steps|seconds) is"):
        kinds.read_card(tmp_path)


def test_a_log_is_drawn_as_far_as_it_holds_numbers(tmp_path):
    kinds.make_page(tmp_path)
    lines = [json.dumps({"step": 1, "loss": value}) for value in ("a", 10**400, None, [], 1, float("nan"))]
    (tmp_path / "runs" / "a" / "metrics.jsonl").write_text("\n".join([*lines, ""]))
    kinds.read_page(tmp_path)


def test_what_files_say_is_text_on_the_terminal_and_no_command_to_it(latents, capsys):
    def refuse(config):
        raise InputError(evil)

    evil = "\x1b]0;mine\x07 a\nverified  all\u202e"
    results = latents.with_name("a.json")
    write_results(results, kind="fvd", rows=[Row(metric=evil, subject="generated", value=1.0)])
    verify(VerifyConfig(results=str(results), weights=False))
    print(table(read_results(results)[1]))
    with h5py.File(latents, "r+") as file:
        file.attrs["tokenizer_name"] = evil
    with open_latents(latents) as reader:
        describe(reader)
    with pytest.raises(SystemExit):
        run_command(refuse, CommonFlags, argv=[])
    said = "".join(capsys.readouterr())
    assert said.count("\\x1b]0;mine\\x07 a verified all\\u202e") == 4
    assert all(letter.isprintable() or letter == "\n" for letter in said)


def open_a_run(folder: Path) -> None:
    @dataclasses.dataclass
    class Flags:
        runs_dir: str = str(folder)

    with Run.open(Flags(), kind="generator", name="a", identity={}):
        pass


def fill_a_segment(folder: Path) -> None:
    with Segment(folder / "a.h5", {}, "ab") as segment:
        segment.write([0, 1], FeatureSet(np.ones((2, 3), np.float32), None, np.arange(2)))


@pytest.mark.parametrize(
    ("link", "write"),
    [
        ("a/.lock", open_a_run),
        (".a.h5.lock", fill_a_segment),
        (".a.h5.new", fill_a_segment),
        ("a.jsonl", lambda folder: append_line(folder / "a.jsonl", {})),
        ("a.jsonl", lambda folder: UnreadableFiles(folder / "a.jsonl", 900).record(UnreadableClip("b", "c"))),
        ("a.lock", lambda folder: _one_at_a_time(folder / "a.json").__enter__()),
    ],
)
def test_nothing_is_written_through_a_link_that_came_with_a_folder(link, write, tmp_path):
    folder, elsewhere, mine = tmp_path / "runs", tmp_path / "scratch", tmp_path / "mine"
    folder.symlink_to(elsewhere)  # of the user, who may keep runs on another disk
    (elsewhere / link).parent.mkdir(parents=True)
    mine.write_text("mine")
    (folder / link).symlink_to(mine)
    with pytest.raises(InputError, match=f"{link} is a link"):
        write(folder)
    assert mine.read_text() == "mine"
    (folder / link).unlink()
    write(folder)


def test_facts_of_strangers_are_checked_before_a_generator_is_used(tmp_path):
    from generator.loading import load_generator

    kinds.make_generator(tmp_path)
    state = tmp_path / kinds.STEP / "state.json"
    sound = json.loads(state.read_text())
    for name, value, words in (
        ("class_names", "[1]", "class_names"),
        ("class_names", "{}", "class_names"),
        ("windows", 0, "windows is 0"),
        ("num_classes", True, "num_classes is True"),
        ("tokenizer", ["a"], "tokenizer"),
        ("std", [1.0, 1.0, 1.0, -1.0], "std above 0"),
    ):
        state.write_text(json.dumps(sound | {"latents": sound["latents"] | {name: value}}))
        with pytest.raises(InputError, match=words):
            load_generator(tmp_path / "runs" / "a")

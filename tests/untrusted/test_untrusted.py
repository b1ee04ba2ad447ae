"""Files of strangers: mutated ones are taken or refused in one line, and nothing outside their folder is touched."""

import dataclasses
import json
import shutil
import tempfile
import tracemalloc
from pathlib import Path

import fuzzing
import h5py
import kinds
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eval.decode import file_word
from latents_cache import open_latents
from runtime.errors import InputError
from runtime.records import read_json
from videos import ClipSpec, write_video
from videos.datasets import open_files


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

"""Training on files: what is undecodable, gone or new; who is held out; sizes and strides."""

import collections
import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from runtime.command import parse
from runtime.errors import InputError
from tokenizer import presets
from tokenizer.pvvae import PVVAEConfig
from tokenizer.train import TrainConfig, open_clips, preset_defaults, train, validation_batches
from videos import ClipSpec, open_dataset, write_video
from videos.batches import batch_indices
from videos.codec import count_frames

TINY = PVVAEConfig(latent_channels=4, channels=(8, 8, 8), blocks=1, middle_blocks=1, patch=4, norm="layer")


@pytest.fixture(autouse=True)
def tiny_demo(monkeypatch):
    monkeypatch.setitem(presets.PRESETS, "demo", dataclasses.replace(presets.PRESETS["demo"], model=TINY))
    monkeypatch.setattr("runtime.log._encoded", lambda frames: b"")  # pictures take longer than the training


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """150 sound clips of 8 frames, each of another grey."""
    root = tmp_path_factory.mktemp("many")
    for number in range(150):
        write_video(root / f"{number:03d}.mp4", np.full((8, 32, 32, 3), number, np.uint8), 8)
    return root


@pytest.fixture
def root(many, tmp_path):
    """A copy of them, to break."""
    return shutil.copytree(many, tmp_path / "data")


def config_for(folder, root, *words: str) -> TrainConfig:
    common = f"--runs-dir {folder} --device cpu --dtype float32 --preset demo --stage video --steps 8 --batch-size 2"
    common += f" --num-frames 5 --warmup 1 --validation-clips 2 --data videos --root {root}"
    return parse([*common.split(), *words], TrainConfig, preset_defaults)


def log_of(run) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "time"} for line in lines]


def drawn_at(root, *steps: int):
    """The files that a run's first rows show at some steps."""
    sources = open_dataset("videos", root=str(root), split="train", clip=ClipSpec(5, 32)).sources
    return [sources[batch_indices(len(sources), 2, step, 0)[0]] for step in steps]


def spoil(path) -> None:
    """Overwrite the pictures, not the tables: the packets are still counted."""
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    length = int.from_bytes(data[start - 8 : start - 4], "big") - 8
    data[start : start + length] = b"\xff" * length
    path.write_bytes(data)


def test_a_run_outlives_a_clip_that_cannot_be_decoded_and_then_goes_away(root, tmp_path):
    broken, _ = drawn_at(root, 2, 5)
    spoil(broken)
    assert count_frames(broken) == 8  # the probe sees nothing
    whole = train(config_for(tmp_path / "runs", root, "--name", "whole"))
    assert [line["redrawn"] for line in log_of(whole)] == [0, 0, 1, 0, 0, 0, 0, 0]
    (recorded,) = [json.loads(line) for line in (whole / "unreadable.jsonl").read_text().splitlines()]
    assert recorded["path"] == str(broken) and "damaged" in recorded["reason"]

    first = train(config_for(tmp_path / "runs", root, "--name", "halves", "--save-every", "4"))
    for checkpoint in (first / "checkpoints").glob("step_*8"):
        shutil.rmtree(checkpoint)  # as if it had been killed after step 4 and begun again
    broken.unlink()
    again = train(config_for(tmp_path / "runs", root, "--name", "halves", "--save-every", "4"))
    assert log_of(again) == log_of(whole)


def test_a_file_that_goes_away_or_breaks_costs_its_rows_and_new_or_changed_ones_are_refused(root, tmp_path, capsys):
    gone, _ = drawn_at(root, 6, 7)
    words = ("--save-every", "4")
    run = train(config_for(tmp_path / "runs", root, *words))
    shutil.rmtree(run / "checkpoints" / "step_00000008")
    kept = gone.read_bytes()
    gone.unlink()
    assert train(config_for(tmp_path / "runs", root, *words)) == run  # by its default name, too
    assert "1 of 1" in capsys.readouterr().err
    assert [line["step"] for line in log_of(run) if line["redrawn"]] == [7]
    gone.write_bytes(kept)
    write_video(root / "new.mp4", np.zeros((8, 32, 32, 3), np.uint8), 8)
    with pytest.raises(InputError, match=r"begun with: new\.mp4 is new; .*another --name"):
        train(config_for(tmp_path / "runs", root, *words))
    (root / "new.mp4").unlink()
    with open(gone, "ab") as file:
        file.write(b"\0" * 64)
    with pytest.raises(InputError, match=f"{gone.name} has changed"):
        train(config_for(tmp_path / "runs", root, *words))


def test_a_run_ends_when_more_than_one_percent_of_its_files_have_gone(root, tmp_path):
    config = config_for(tmp_path / "runs", root, "--save-every", "4")
    run = train(config)
    shutil.rmtree(run / "checkpoints" / "step_00000008")
    for path in drawn_at(root, 1, 2, 3):
        path.unlink()
    with pytest.raises(InputError, match=r"3 of 1\d\d files cannot be read, more than 1 %"):
        train(config)


def test_a_damaged_list_of_files_is_refused(root, tmp_path):
    config = config_for(tmp_path / "runs", root, "--name", "run")
    run = train(config)
    for text in ("text", "[]", '{"video": [["a.mp4", 5]]}', '{"video": [["a.mp4", 5, 8, "32", 32]]}', '{"video": 3}'):
        (run / "files.json").write_text(text)
        with pytest.raises(InputError, match=r"files\.json"):
            train(config)


def test_validation_clips_are_none_of_training_and_take_classes_in_turns(tmp_path):
    root = tmp_path / "train"
    for number in range(60):
        path = root / ("archery" if number < 50 else "bowling") / f"id{number:09d}_000000_000010.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, np.full((8, 32, 32, 3), 4 * number, np.uint8), 8)
    train_set, test_set = (
        open_dataset("videos", root=str(root), split=split, clip=ClipSpec(5, 32)) for split in ("train", "test")
    )
    assert not set(train_set.sources) & set(test_set.sources) and len(train_set) + len(test_set) == 60
    everything = open_dataset("videos", root=str(root), clip=ClipSpec(5, 32, window="center"))
    (chosen,) = validation_batches(everything, 8, seed=0)
    shown = {round(float(clip.float().mean()) / 4) for clip in chosen}
    assert len([number for number in shown if number >= 50]) == 4  # of 10 of 60
    (other,) = validation_batches(everything, 8, seed=1)
    assert shown != {round(float(clip.float().mean()) / 4) for clip in other}


def test_an_undecodable_clip_is_left_out_of_validation(root, capsys):
    dataset = open_dataset("videos", root=str(root), clip=ClipSpec(5, 32, window="center"))
    spoil(dataset.sources[7])
    batches = validation_batches(dataset, 150, seed=0)
    assert sum(map(len, batches)) == 149 and "007.mp4" in capsys.readouterr().err


def test_what_of_a_folder_is_left_out_is_said(root, tmp_path, capsys):
    assert open_clips(config_for(tmp_path / "runs", root), tmp_path / "run") and capsys.readouterr().err == ""
    (root / "more").symlink_to(tmp_path)
    open_clips(config_for(tmp_path / "runs", root), tmp_path / "run")
    said = f"1 entries of {root} are left out, such as {root / 'more'}: a link to a folder, which is not followed"
    assert said in capsys.readouterr().err


def test_a_validation_without_any_clip_is_refused_before_training(tmp_path):
    write_video(tmp_path / "only.mp4", np.zeros((8, 32, 32, 3), np.uint8), 8)
    dataset = open_dataset("videos", root=str(tmp_path), clip=ClipSpec(5, 32, window="center"))
    spoil(dataset.sources[0])
    with pytest.raises(InputError, match="none of the held-out clips .* can be decoded"):
        validation_batches(dataset, 8, seed=0)


def test_larger_sizes_leave_smaller_files_out_and_the_smallest_says_what_it_enlarges(tmp_path, capsys):
    for number, side in enumerate([24, 40, 40, 70, 70, 70]):
        write_video(tmp_path / f"{number}.mp4", np.zeros((8, side, side, 3), np.uint8), 8)
        Image.new("RGB", (side, side)).save(tmp_path / f"{number}.png")
    words = ("--clip-sizes", "32,64", "--images", "images", "--images-root", str(tmp_path), "--image-sizes", "32,48")
    clips = open_clips(config_for(tmp_path / "runs", tmp_path, *words), tmp_path / "run")
    held = open_dataset("videos", root=str(tmp_path), split="test", clip=ClipSpec(5, 32))
    sides = collections.Counter(file.height for file in clips.listing["video"])
    assert len(clips.video[32]) == 6 - len(held) and len(clips.video[64]) == sides[70]
    assert len(clips.images[48]) == sum(file.height >= 48 for file in clips.listing["images"])
    assert "smaller than 32 pixels, and enlarged" in capsys.readouterr().err
    clips = open_clips(config_for(tmp_path / "runs", tmp_path, "--clip-sizes", "32,128"), tmp_path / "run")
    assert list(clips.video) == [32] and "no file has 128 pixels: that size is left out" in capsys.readouterr().err


def test_a_range_of_strides_is_drawn_for_training_and_the_lowest_serves_validation(many, tmp_path):
    config = config_for(tmp_path, many, "--frame-stride", "1,3")
    clips = open_clips(config, tmp_path / "run")
    assert clips.video[32].clip.frame_stride == (1, 3) and clips.validation[0].shape[2] == 5
    assert config_for(tmp_path, many, "--frame-stride", "2,2").frame_stride == 2
    for words in ("3,1", "1,2,3"):
        with pytest.raises(InputError, match=r"the lowest and the highest, as in 1,3"):
            config_for(tmp_path, many, "--frame-stride", words)
    assert parse(["--data", "ucf101", "--root", "x"], TrainConfig, preset_defaults).frame_stride == (1, 3)

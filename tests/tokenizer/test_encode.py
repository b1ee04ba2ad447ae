"""Encoding a data set into a latents file, and the commands that show a tokenizer at work."""

import errno
import json
import re
import shutil
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

from latents_cache import open_latents
from runtime.command import parse
from runtime.errors import InputError
from tokenizer import PVVAE, PVVAEConfig
from tokenizer.encode import EncodeConfig, encode, resolve
from tokenizer.predict import PredictConfig, fade_over, predict
from tokenizer.reconstruct import ReconstructConfig, reconstruct
from tokenizer.spec import crop_to
from tokenizer.streaming import Parts, Stream
from tokenizer.tiling import decode_tiled, encode_tiled, predict_tiled
from tokenizer.zoo import load
from videos import ClipSpec, open_dataset, read_video, to_float, to_uint8, write_video
from videos.codec import frame_rate

TINY = PVVAEConfig(latent_channels=4, channels=(8, 8, 8), blocks=1, middle_blocks=1, patch=4, norm="layer")


@pytest.fixture
def folder(tmp_path):
    """A folder with a saved tokenizer "vae"."""
    for place in (tmp_path / "vae", tmp_path / "vae" / "video"):  # the last weights, and those to predict with
        torch.manual_seed(0)
        PVVAE(TINY).save_pretrained(place)
    return tmp_path


def encode_with(folder, *words: str):
    common = [
        "--tokenizer",
        str(folder / "vae"),
        "--data",
        "moving_shapes",
        "--size",
        "32",
        "--device",
        "cpu",
        "--dtype",
        "float32",
        "--runs-dir",
        str(folder),
        "--out",
        str(folder / "out.h5"),
        "--batch-size",
        "4",
    ]
    return encode(parse([*common, *words], EncodeConfig, None))


def test_rows_hold_the_posteriors_of_the_clips_in_order(folder, capsys):
    path = encode_with(folder, "--max-clips", "6")
    assert "the first 6 of 20000 clips are of 6 of 12 classes alone" in capsys.readouterr().err
    vae = PVVAE.from_pretrained(folder / "vae")
    dataset = open_dataset("moving_shapes", split="train", clip=ClipSpec(17, 32))
    with open_latents(path) as reader:
        assert len(reader) == 6 and reader.shape == (4, 5, 2, 2)
        rows = reader.batch([3, 0])
        assert rows["label"].tolist() == [dataset[3]["label"], dataset[0]["label"]]
        with torch.no_grad():
            posterior = vae.encode(to_float(torch.as_tensor(dataset[3]["video"])[None]))
        # float16 keeps three digits
        assert np.allclose(rows["mean"][0], posterior.mean[0].numpy(), atol=2e-3)
        assert np.allclose(rows["logvar"][0], posterior.logvar[0].numpy(), atol=1e-2)
        assert reader.attributes["encoder_hash"] == vae.encoder_hash and reader.attributes["num_classes"] == 12
        assert json.loads(reader.attributes["clip"])["num_frames"] == 17


def test_flipped_rows_encode_the_mirrored_clip(folder):
    path = encode_with(folder, "--max-clips", "2", "--flip")
    vae = PVVAE.from_pretrained(folder / "vae")
    clip = torch.as_tensor(open_dataset("moving_shapes", split="train", clip=ClipSpec(17, 32))[1]["video"]).flip(-1)
    with open_latents(path) as reader, torch.no_grad():
        assert len(reader) == 4
        assert np.allclose(reader.batch([3])["mean"][0], vae.encode(to_float(clip[None])).mean[0].numpy(), atol=2e-3)


def test_the_shipped_tokenizer_encodes_clips_as_it_was_trained_on(tmp_path):
    source = resolve(EncodeConfig(tokenizer="moving-shapes", runs_dir=str(tmp_path)))
    assert (source.data, source.root, source.num_frames, source.size, source.frame_stride) == (
        "moving_shapes", None, 17, 32, 1
    )  # fmt: skip


@pytest.mark.parametrize(
    ("data", "trained", "stride"),
    [
        ("ucf101", {"data": "ucf101", "frame_stride": [1, 3]}, 3),
        ("ucf101", {"data": "ucf101", "frame_stride": 1}, 1),
        ("videos", {"data": "videos", "frame_stride": [2, 3]}, 2),
        ("videos", {"data": "ucf101", "frame_stride": 3}, 1),
        ("ucf101", {}, 3),
    ],
)
def test_the_stride_is_the_runs_own_where_it_has_one_on_the_same_data(data, trained, stride, monkeypatch):
    """What --help and docs/tokenizer.md say."""
    monkeypatch.setattr("tokenizer.zoo.trained_on", lambda tokenizer: trained)
    config = EncodeConfig(tokenizer="moving-shapes", data=data, root="x")
    assert resolve(config).frame_stride == stride
    assert resolve(replace(config, frame_stride=5)).frame_stride == 5


def test_a_second_call_keeps_the_file_and_other_settings_are_refused(folder):
    path = encode_with(folder, "--max-clips", "3")
    before = path.stat().st_mtime_ns
    assert encode_with(folder, "--max-clips", "3") == path and path.stat().st_mtime_ns == before
    with pytest.raises(InputError, match="holds other latents"):
        encode_with(folder, "--max-clips", "4")


def test_an_interrupted_encoding_goes_on_without_repeating_rows(folder, monkeypatch):
    import tokenizer.encode as module

    genuine, calls = module.encode_block, []

    def count_then_stop(vae, video, *rest):
        calls.append(len(video))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return genuine(vae, video, *rest)

    monkeypatch.setattr(module, "encode_block", count_then_stop)
    with pytest.raises(KeyboardInterrupt):
        encode_with(folder, "--max-clips", "10")
    assert (folder / "out.h5.partial").exists() and not (folder / "out.h5").exists()
    with open_latents(encode_with(folder, "--max-clips", "10")) as reader:
        assert len(reader) == 10 and reader.damaged_rows() == []
    assert calls == [4, 4, 4, 2]  # the second of these was lost


@pytest.fixture
def films(folder, monkeypatch):
    """120 clips of 8 frames, of which one passes for sound until it is decoded."""
    root = folder / "films"
    root.mkdir()
    for number in range(120):
        write_video(root / f"{number:03d}.mp4", np.full((8, 32, 32, 3), 2 * number, np.uint8), 8)
    spoil(root / "007.mp4")
    return root


def spoil(path):
    """Overwrite the pictures, not the tables: the packets are still counted."""
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    length = int.from_bytes(data[start - 8 : start - 4], "big") - 8
    data[start : start + length] = b"\xff" * length
    path.write_bytes(data)


def encode_films(folder, films, *words: str, split: str = "all"):
    more = ["--data", "videos", "--root", str(films), "--split", split, "--num-frames", "5"]
    common = f"--tokenizer {folder / 'vae'} --size 32 --device cpu --dtype float32 --out {folder / 'out.h5'}"
    return encode(parse([*common.split(), *more, *words], EncodeConfig, None))


def test_a_row_that_cannot_be_decoded_is_left_out_and_the_others_are_what_they_would_be(folder, films, capsys):
    path = encode_films(folder, films, "--flip", "--batch-size", "4")
    with open_latents(path) as reader:
        assert len(reader) == 238 and reader.attributes["left_out"] == 2 and reader.damaged_rows() == []
        names = [name for number in range(120) for name in [f"{number:03d}.mp4"] * 2 if number != 7]
        assert list(reader.names) == names
        rows = reader.batch([13, 14, 237])
    record = folder / "out.h5.unreadable.jsonl"
    (line,) = [json.loads(line) for line in record.read_text().splitlines()]
    said = capsys.readouterr()
    assert line["path"] == str(films / "007.mp4") and "2 left out" in said.out
    assert re.search(r"out\.h5: 240 rows \(split all\) of \[\d+, 2, \d, \d\], [\d.]+ KiB; 240 to encode", said.err)
    assert not list(folder.glob("*.partial")) and encode_films(folder, films, "--flip", "--batch-size", "4") == path
    dataset = open_dataset("videos", root=str(films), clip=ClipSpec(5, 32, window="first"))
    vae = PVVAE.from_pretrained(folder / "vae")
    for row, item in ((0, 6), (1, 8), (2, 119)):
        with torch.no_grad():
            expected = vae.encode(to_float(torch.as_tensor(dataset[item]["video"])[None])).mean[0].numpy()
        assert np.allclose(rows["mean"][row], expected, atol=2e-3)  # float16; flat pictures have no side


@pytest.mark.parametrize("point", ["latents.row:9", "latents.created:2", "latents.statistics"])
def test_left_out_rows_stay_out_after_a_kill_with_the_same_bytes(folder, films, monkeypatch, point):
    name, _, time = point.partition(":")
    left = int(time or 1)

    def fill_the_disk(reached: str) -> None:
        nonlocal left
        left -= reached == name
        if reached == name and not left:
            raise OSError(errno.ENOSPC, "No space left on device")

    whole = encode_films(folder, films, "--batch-size", "4").read_bytes()
    (folder / "out.h5").unlink()
    (folder / "out.h5.unreadable.jsonl").unlink()
    with monkeypatch.context() as patch, pytest.raises((OSError, InputError), match=r"No space left|no room"):
        patch.setattr("runtime.faults.listener", fill_the_disk)
        encode_films(folder, films, "--batch-size", "4")
    assert (folder / "out.h5.partial").exists()
    assert encode_films(folder, films, "--batch-size", "4").read_bytes() == whole
    assert (folder / "out.h5.unreadable.jsonl").read_text().count("007.mp4") == 1


def test_too_many_undecodable_files_end_the_encoding_with_the_list(folder, films):
    spoil(films / "050.mp4")
    with pytest.raises(InputError, match=r"2 of 120 files cannot be read, more than 1 %.*050\.mp4"):
        encode_films(folder, films)


@pytest.fixture
def begun(folder, films, monkeypatch):
    """Encoding of the 120 films, all of them sound, that ended after 16 rows."""
    import tokenizer.encode as module

    shutil.copy(films / "006.mp4", films / "007.mp4")
    genuine, calls = module.encode_block, []

    def end_at_the_fifth(*given):
        calls.append(given)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return genuine(*given)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "encode_block", end_at_the_fifth)
        encode_films(folder, films, "--batch-size", "4")
    return films


@pytest.mark.parametrize(("number", "left_out"), [(3, 0), (50, 1)])
def test_a_file_that_goes_away_costs_its_own_rows_alone(folder, begun, capsys, number, left_out):
    """What was encoded of it stays; what was not is left out; all others stay in their places."""
    gone = begun / f"{number:03d}.mp4"
    kept = gone.read_bytes()
    gone.unlink()
    path = encode_films(folder, begun, "--batch-size", "4")
    assert f"1 of 120 files of {begun} are gone" in capsys.readouterr().err
    with open_latents(path) as reader:
        names = [f"{each:03d}.mp4" for each in range(120) if each != number or not left_out]
        assert list(reader.names) == names and reader.attributes.get("left_out", 0) == left_out
        found = reader.batch(range(len(names)))["mean"]
    record = folder / "out.h5.unreadable.jsonl"
    assert record.exists() == bool(left_out) and (not left_out or json.loads(record.read_text())["path"] == str(gone))
    assert encode_films(folder, begun, "--batch-size", "4") == path and "is complete" in capsys.readouterr().out
    gone.write_bytes(kept)
    path.unlink()
    with open_latents(encode_films(folder, begun, "--batch-size", "4")) as reader:
        assert np.array_equal(reader.batch([int(name[:3]) for name in names])["mean"], found)


def test_encoding_goes_on_only_with_the_files_that_it_was_begun_with(folder, begun):
    new = begun / "new.mp4"
    shutil.copy(begun / "000.mp4", new)
    with pytest.raises(InputError, match=r"begun with: new\.mp4 is new; .*another --out"):
        encode_films(folder, begun, "--batch-size", "4")
    with pytest.raises(InputError, match=r"was begun with other settings \(.*split: was 'all', now 'train'"):
        encode_films(folder, begun, "--batch-size", "4", split="train")
    new.unlink()
    for number in (60, 61):
        (begun / f"{number:03d}.mp4").unlink()
    with pytest.raises(InputError, match=r"2 of 120 files cannot be read, more than 1 %: 060\.mp4; 061\.mp4"):
        encode_films(folder, begun, "--batch-size", "4")
    (folder / "out.h5.partial").unlink()  # a list without it is forgotten
    with open_latents(encode_films(folder, begun)) as reader:
        assert len(reader) == 118


# Inductor is slow on small things: Dynamo and its backend without code generation show that the flag is taken.
def test_blocks_are_compiled_when_asked_and_encode_the_same(folder, monkeypatch):
    from runtime import parallel

    genuine, calls = parallel.compile_blocks, []
    monkeypatch.setattr(parallel, "compile_blocks", lambda model: calls.append(genuine(model, backend="eager")))
    found = []
    for number, choice in enumerate(("auto", "false", "true")):
        torch.compiler.reset()
        torch._dynamo.utils.counters.clear()
        path = encode_with(folder, "--max-clips", "3", "--compile", choice)
        with open_latents(path) as reader:
            found.append(reader.batch([0, 1, 2])["mean"])
        path.unlink()
        assert len(calls) == (number == 2)  # auto: not on the CPU
        assert (torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0) == (number == 2)
    torch.compiler.reset()
    assert np.array_equal(found[0], found[1]) and np.allclose(found[1], found[2], atol=2e-3)  # float16
    with pytest.raises(InputError, match="--compile 'maybe' is not one of auto, true, false"):
        encode_with(folder, "--compile", "maybe")


@pytest.fixture
def clip_file(folder):
    video = open_dataset("moving_shapes", clip=ClipSpec(19, 32))[0]["video"]
    write_video(folder / "clip.mp4", np.ascontiguousarray(video.transpose(1, 2, 3, 0)), 8)
    return folder / "clip.mp4"


def test_reconstruct_writes_original_and_reconstruction_side_by_side(folder, clip_file, capsys):
    flags = {"tokenizer": str(folder / "vae"), "video": str(clip_file), "device": "cpu", "dtype": "float32"}
    reconstruct(ReconstructConfig(**flags, out=str(folder / "out.mp4")))
    assert read_video(folder / "out.mp4").shape == (19, 32, 64, 3)
    assert "19 frames, PSNR" in capsys.readouterr().out


@pytest.mark.parametrize(("height", "width", "size"), [(40, 72, None), (36, 50, None), (48, 96, 24)])
def test_reconstruct_keeps_shape_and_frame_rate(folder, height, width, size):
    """Nothing is cropped: what is left of the picture's middle is the original, to the edge."""
    ramp = np.linspace(0, 255, width)[None, None, :, None] + np.zeros((7, height, 1, 3))
    write_video(folder / "wide.mp4", ramp.astype(np.uint8), 12.5)
    flags = {"tokenizer": str(folder / "vae"), "video": str(folder / "wide.mp4"), "device": "cpu", "dtype": "float32"}
    reconstruct(ReconstructConfig(**flags, out=str(folder / "out.mp4"), size=size, chunk_groups=1))
    both = read_video(folder / "out.mp4")
    scale = (size or height) / height
    side = round(width * scale)
    assert both.shape == (7, round(height * scale), 2 * side, 3) and frame_rate(folder / "out.mp4") == 12.5
    assert both[:, :, :2].mean() < 12 and both[:, :, side - 2 : side].mean() > 243


def test_a_long_video_is_never_in_memory_as_a_whole(folder, monkeypatch, capsys):
    """Read, computed and written part by part: frames that were read and are not yet written stay below a part's."""
    from videos import codec

    write_video(folder / "long.mp4", np.zeros((150, 16, 16, 3), np.uint8), 25)
    waiting, most = [0], [0]
    genuine_read, genuine_write = codec.iterate_video, codec.video_writer

    def counting_read(path):
        for frame in genuine_read(path):
            waiting[0] += 1
            most[0] = max(most[0], waiting[0])
            yield frame

    @contextmanager
    def counting_writer(path, fps, crf=12):
        with genuine_write(path, fps) as write:

            def count(video):
                write(video)
                waiting[0] -= len(video)

            yield count

    monkeypatch.setattr(codec, "iterate_video", counting_read)
    monkeypatch.setattr(codec, "video_writer", counting_writer)
    flags = {"tokenizer": str(folder / "vae"), "video": str(folder / "long.mp4"), "device": "cpu"}
    reconstruct(ReconstructConfig(**flags, out=str(folder / "out.mp4"), chunk_groups=2))
    assert most[0] == 8 and waiting[0] == 0 and "150 frames" in capsys.readouterr().out
    waiting[0] = most[0] = 0
    predict(PredictConfig(**flags, out=str(folder / "out.mp4"), observed=5, frames=9))
    assert most[0] == 9


@pytest.mark.parametrize("groups", [1, 2, 5])
def test_a_stream_equals_the_whole(folder, groups):
    vae = load(folder / "vae")
    video = torch.rand(1, 3, 19, 40, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    padded, size = vae.spec.pad_to_valid(video)
    with torch.no_grad():
        whole = crop_to(vae.decode(vae.encode(padded).mode()), size)
        stream, parts, start = Stream(vae), [], 0
        while start < 19:
            stop = start + (vae.spec.frames(groups) if start == 0 else 4 * groups)
            parts.append(stream.reconstruct(video[:, :, start:stop]))
            start = stop
        assert torch.allclose(torch.cat(parts, dim=2), whole, atol=1e-5)  # float32 sums in another order
        tiled = Stream(vae, tile=32, overlap=16)
        expected = decode_tiled(vae, encode_tiled(vae, padded, 32, 16).mode(), 32, 16)
        found = torch.cat([tiled.reconstruct(video[:, :, :9]), tiled.reconstruct(video[:, :, 9:])], dim=2)
        assert torch.allclose(found, crop_to(expected, size), atol=1e-5)


def test_a_stream_keeps_no_graph_of_earlier_parts(folder):
    vae, video = load(folder / "vae").requires_grad_(True), torch.zeros(1, 3, 5, 32, 32)
    assert vae.decode(vae.encode(video).mode()).requires_grad
    assert not Stream(vae).reconstruct(video).requires_grad and not Parts(vae).reconstruct(video).requires_grad


def test_predicting_in_tiles_blends_what_each_tile_predicts(folder):
    vae = load(folder / "vae", stage=None)
    video = torch.rand(1, 3, 5, 48, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        whole = predict_tiled(vae, video, 2)
        assert torch.equal(whole, vae.predict(video, 2))
        tiled = predict_tiled(vae, video, 2, tile=32, overlap=16)
        assert tiled.shape == whole.shape and torch.equal(
            tiled[..., :16, :], vae.predict(video[..., :32, :], 2)[..., :16, :]
        )


def test_predict_writes_observed_and_predicted_frames(folder, clip_file, capsys):
    predict(
        PredictConfig(
            tokenizer=str(folder / "vae"),
            video=str(clip_file),
            out=str(folder / "out.mp4"),
            size=32,
            observed=9,
            device="cpu",
        )
    )
    assert read_video(folder / "out.mp4").shape == (17, 32, 64, 3)
    assert "9 frames observed, 8 predicted" in capsys.readouterr().out


def test_predict_fills_a_gap_from_both_sides_of_it(folder, clip_file, monkeypatch, capsys):
    """What is written is the decoded whole, and nothing of the gap reaches the encoder."""
    import videos

    written = []
    monkeypatch.setattr(videos, "write_video", lambda path, video, fps: written.append(video))
    flags = {"tokenizer": str(folder / "vae"), "video": str(clip_file), "size": 32, "device": "cpu", "dtype": "float32"}
    predict(PredictConfig(**flags, observed=5, after=4))
    both = torch.from_numpy(written.pop()).permute(3, 0, 1, 2)[None]
    left, right = both[..., :32], both[..., 32:]
    vae, video = load(folder / "vae"), to_float(left)
    video[:, :, 5:13] = float("nan")
    seen = torch.cat([video[:, :, :5], video[:, :, 13:]], dim=2)
    assert torch.equal(right, to_uint8(vae.predict(seen, [2, 3]))) and right.shape == left.shape == (1, 3, 17, 32, 32)
    said = capsys.readouterr().out
    assert "9 frames observed, 8 predicted" in said
    assert "repeating the last frame: " in said and "fading from one side to the other: " in said


def test_fading_over_a_gap_mixes_the_frames_around_it():
    video = torch.tensor([0.0, 1.0, 7.0, -7.0, 7.0, 5.0]).view(1, 1, 6, 1, 1)
    assert fade_over(video, 2, 5).flatten().tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"observed": 9, "after": 8}, "--observed 9 and --after 8 leaves nothing of --frames 17"),
        ({"observed": 9, "after": 16}, "leaves nothing of --frames 17"),
        ({"observed": 5, "after": 3}, "--after 3 does not fit .* the nearest are 0 and 4"),
    ],
)
def test_predict_refuses_a_gap_that_is_none(folder, clip_file, flags, message):
    with pytest.raises(InputError, match=message):
        predict(PredictConfig(tokenizer=str(folder / "vae"), video=str(clip_file), size=32, device="cpu", **flags))


def test_predict_refuses_to_observe_everything(folder, clip_file):
    with pytest.raises(InputError, match="nothing of --frames 17"):
        predict(PredictConfig(tokenizer=str(folder / "vae"), video=str(clip_file), observed=17, size=32, device="cpu"))

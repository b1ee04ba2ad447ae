"""Every protocol is what its public code does: setting by setting against a transcript of it, and by behaviour."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import random
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from eval import frechet_distance
from eval.features import FEATURE_NETWORKS
from eval.metrics.published_roots import frechet_by_sqrtm, frechet_by_tfgan
from eval.protocols import presets as words
from eval.protocols.clips import STORAGES, EveryWindow, OneWindow, choose_real, generated_change, plan_clips
from eval.protocols.networks import RESIZES as RESIZES_TO_224
from eval.protocols.presets import PAPER, PROTOCOLS, Protocol, protocol_hash
from runtime.published_weights import PUBLISHED
from videos import ClipSpec, open_dataset, to_uint8, write_video
from videos.clip import resize_and_crop

CLIP = ClipSpec(num_frames=17, size=256, frame_stride=3)

# What the public code does, read there and not in the presets; after each line the file and function.
_STYLEGAN_V = {  # universome/stylegan-v 1f630af
    "generated": 2048,  # src/metrics/metric_main.py, fvd2048_16f: num_gen
    "real": 2048,  # the same: max_real
    "repeats": 1,  # src/scripts/calc_metrics.py: num_runs
    "reference": "the first 2,048 folders in sorted order",  # src/metrics/metric_utils.py: item_subset counts from 0
    "split": "the folder given",  # src/scripts/calc_metrics.py: --data
    "num_frames": 16,  # src/metrics/metric_main.py, fvd2048_16f
    "real_stride": 1,  # src/metrics/frechet_video_distance.py, compute_fvd: subsample_factor
    "generated_stride": 1,  # the same
    "window": "at a random frame",  # src/training/dataset.py, __getitem__: random_offset up to the last that fits
    "short_videos": "discarded",  # the same, __init__: discard_short_videos, fewer than frames times stride
    "resolution": 256,  # src/scripts/calc_metrics.py: img_resolution=256
    "real_resize": "by the shorter side, Lanczos",  # src/scripts/convert_videos_to_frames.py: resize, then center_crop
    "generated_resize": "made at this size",  # src/metrics/metric_utils.py, run_generator
    "real_bytes": "rounding",  # PIL's resize of bytes
    "generated_bytes": "rounding",  # run_generator: times 127.5 plus 128, cut off
    "real_storage": "JPEG frames of quality 75",  # convert_videos_to_frames.py: saved with q=95, which PIL ignores
    "generated_storage": "decoded video",  # run_generator: from the network into I3D
    "features": "400 logits",  # compute_fvd: return_features
    "weights": "i3d_torchscript",  # compute_fvd: detector_url
    "key_layout": "hassony2",  # names in that file
    "bn_eps": 1e-3,  # the graph in that file
    "resize": "straight",  # compute_fvd: resize=True, inside that file
    "input_range": "[-1, 1]",  # compute_fvd: rescale=True, the same
    "ddof": 0,  # metric_utils.py, FeatureStats.get_mean_cov: divided by num_items
    "root": "sqrtm",  # compute_fvd: scipy.linalg.sqrtm, real part
    "kvd": "none",
    "is_network": "c3d_ucf101.pt",  # src/metrics/video_inception_score.py, compute_isv
    "is_frames": 16,  # the same
    "is_splits": (10,),  # metric_main.py, isv2048_ucf
    "is_shuffle_seed": 42,  # compute_isv: RandomState(42)
}
_VIDEOGPT = {  # wilson1yan/VideoGPT 3eee7ec
    "generated": 256,  # scripts/compute_fvd.py, main_worker: batch_size
    "real": 256,  # the same
    "repeats": 4,  # --n_trials
    "reference": "one shuffled batch",  # eval_fvd: next(iter(loader)); videogpt/data.py: shuffle=True
    "split": "test",  # compute_fvd.py: test_dataloader
    "num_frames": 16,  # the released UCF101 model's sequence_length
    "real_stride": 1,  # videogpt/data.py, VideoDataset: torchvision's VideoClips with its default step
    "generated_stride": 1,
    "window": "at every frame",  # VideoClips
    "short_videos": "discarded",  # VideoClips: no window of them
    "resolution": 128,  # the released UCF101 model's
    "real_resize": "by the shorter side, bilinear, then cropped",  # videogpt/data.py, preprocess: no antialias
    "generated_resize": "made at this size",
    "real_bytes": "truncating, once 0.5",  # data.py: minus 0.5; eval_fvd: plus 0.5, times 255, astype uint8
    "generated_bytes": "truncating",  # eval_fvd: fake times 255, astype uint8
    "real_storage": "decoded video",
    "generated_storage": "decoded video",
    "features": "400 logits",  # videogpt/fvd/pytorch_i3d.py
    "weights": "i3d_pretrained_400",  # videogpt/fvd/fvd.py, load_fvd_model
    "key_layout": "piergiaj",
    "bn_eps": 1e-5,  # pytorch_i3d.py, Unit3D
    "resize": "by the shorter side, bilinear, then cropped",  # fvd.py, preprocess: the one of data.py again
    "input_range": "[-1, 1]",
    "ddof": 1,  # fvd.py, cov
    "root": "TF-GAN",  # fvd.py, trace_sqrt_product: torch.svd, float32
    "kvd": "none",
    "is_network": "none",
}
_CD_FVD = {  # songweige/content-debiased-fvd 0919683
    "generated": 2048,  # cdfvd/fvd.py, __init__: n_fake
    "real": None,  # n_real='full'
    "repeats": 1,
    "reference": "every video",  # cdfvd/utils/data_utils.py, VideoDataset.__len__; compute_real_stats: seed 42
    "split": "the folder given",
    "num_frames": 16,  # load_videos: sequence_length
    "real_stride": 1,  # load_videos: sample_every_n_frames
    "generated_stride": 1,
    "window": "at a random frame",  # data_utils.py, get_random_clip_from_video
    "short_videos": "replaced by the next video",  # the same: idx += 1
    "resolution": 256,  # load_videos
    "real_resize": "by the shorter side, bilinear, antialiased, then cropped",  # data_utils.py, preprocess
    "generated_resize": "by the shorter side, bilinear, antialiased, then cropped",  # load_videos, for both
    "real_bytes": "truncating",  # compute_real_stats: times 255, byte()
    "generated_bytes": "truncating",  # compute_fake_stats: the same
    "real_storage": "decoded video",
    "generated_storage": "decoded video",
    "features": "400 logits",
    "weights": "i3d_pretrained_400",  # __init__: model='i3d'; third_party/i3d/utils.py, load_i3d_model
    "key_layout": "piergiaj",
    "bn_eps": 1e-5,  # third_party/i3d/pytorch_i3d.py, Unit3D
    "resize": "straight",  # third_party/i3d/utils.py, preprocess_i3d
    "input_range": "[-1, 1]",  # the same
    "ddof": 0,  # utils/metric_utils.py, get_mean_cov: divided by num_items
    "root": "sqrtm",  # fvd.py, compute_fvd_from_stats
    "kvd": "none",
    "is_network": "none",
}
TRANSCRIPTS = {
    "stylegan-v": _STYLEGAN_V,
    "latte": _STYLEGAN_V  # its tools are StyleGAN-V's, changed; Vchitect/Latte c227056, 03d2bda, 3780cd4
    | {
        "reference": "2,048 folders drawn anew",  # tools/metrics/metric_utils.py: random.sample
        "split": "all of UCF101",  # tools/eval_metrics.sh: one folder of images
        "real_stride": 3,  # tools/metrics/frechet_video_distance.py: realdata_subsample_factor
        "generated_stride": 1,  # the same: gendata_subsample_factor
        "real_resize": "cropped to the square in the centre, then Lanczos",  # tools/convert_videos_to_frames.py
        "generated_storage": "mp4 (H.264, crf 5, which is imageio's quality 9), then JPEG frames of quality 75",
        # sample/sample_ddp.py: mimwrite(quality=9), bytes rounded; then tools/convert_videos_to_frames.py as well
    },
    "videogpt": _VIDEOGPT,
    "tats": _VIDEOGPT  # songweige/TATS 26c33f5, scripts/sample_vqgan_transformer_short_videos.py
    | {
        "generated": 2048,  # --n_sample
        "real": 2048,  # real_embeddings[:2048]
        "repeats": 1,
        "reference": "shuffled without a seed; every window",  # tats/data.py, _dataloader
        "split": "train",  # data.train_dataloader()
        "resize": "straight",  # tats/fvd/fvd.py, preprocess: F.interpolate to (224, 224)
        "kvd": "unbiased, (x·y / d + 1)³",  # tats/fvd/fvd.py, polynomial_mmd with scikit-learn's defaults
    },
    "cd-fvd": _CD_FVD,
    "cd-fvd-videomae": _CD_FVD
    | {
        "features": "1,408 pooled features of VideoMAE-v2",  # cdfvd/fvd.py, get_videomae_features
        "weights": "vit_g_hybrid_pt_1200e_ssv2_ft",  # third_party/VideoMAEv2/utils.py
        "key_layout": "VideoMAE-v2",
        "bn_eps": None,
        "input_range": "[0, 1], not normalised",  # the same, preprocess_videomae
    },
    "v-rae": _STYLEGAN_V  # src/vrae/evaluation/common: "fvd2048_17f"
    | {
        "reference": "random.sample of the videos that are long enough, seeded with 3407",
        # population.py, ucf101_gfvd_real_population
        "split": "train",  # protocol.py, ucf101_gfvd
        "num_frames": 17,  # the same
        "real_stride": 3,  # the same
        "window": "by the sha256 of seed 3407",  # population.py, deterministic_random_offset
        "real_resize": "cropped to the square in the centre, then Lanczos",  # runtime.py, center_square_lanczos
        "real_storage": "decoded video",  # runtime.py, decode_record_clip
        "generated_storage": "mp4 (H.264, crf 5, which is imageio's quality 9)",  # runtime.py: mimwrite(quality=9)
        "ddof": 0,  # protocol.py: covariance "population"
        "root": "sqrtm",  # runtime.py, _score_pair: scipy_sqrtm
        "is_network": "none",
    },
}


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_a_preset_is_what_the_public_code_does(name):
    """Words by what they begin or go on with; numbers as they are."""
    protocol, said = PROTOCOLS[name], TRANSCRIPTS[name]
    unsaid = set(Protocol.settings()) - set(said)
    assert unsaid <= {"is_frames", "is_splits", "is_shuffle_seed"} and (not unsaid or protocol.is_network == "none")
    for setting, expected in said.items():
        found = getattr(protocol, setting)
        if setting.startswith("is_") and said["is_network"] == "none" and setting != "is_network":
            continue
        if isinstance(expected, str):
            assert expected in found, setting
        else:
            assert found == expected and type(found) is type(expected), setting
    # "truncating" and "bilinear" are also the beginnings of other values.
    assert (", once 0.5" in protocol.real_bytes) == (name in ("videogpt", "tats"))
    assert ", once 0.5" not in protocol.generated_bytes
    assert ("then JPEG" in protocol.generated_storage) == (name == "latte")
    assert ("antialiased" in protocol.real_resize) == name.startswith("cd-fvd")


def test_all_protocols_are_there_under_their_own_names_and_have_a_transcript():
    assert list(PROTOCOLS) == ["paper", *TRANSCRIPTS]
    assert all(protocol.name == name for name, protocol in PROTOCOLS.items())
    assert all(protocol.source and protocol.remark for protocol in PROTOCOLS.values())


def test_none_can_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PAPER.generated = 10


def test_ours_is_the_papers():
    assert (PAPER.generated, PAPER.real, PAPER.num_frames, PAPER.resolution, PAPER.repeats) == (2048, 2048, 17, 256, 1)
    assert (PAPER.ddof, PAPER.bn_eps, PAPER.generated_bytes, PAPER.is_splits) == (1, 1e-3, "rounding", (1, 10))
    assert PAPER.differs_from(PAPER) == []


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_the_others_say_in_words_every_setting_that_differs_and_no_other(name):
    protocol = PROTOCOLS[name]
    said = protocol.differs_from(PAPER)
    differing = [key for key in Protocol.settings() if getattr(protocol, key) != getattr(PAPER, key)]
    if protocol.is_network == "none":  # without a score there is nothing to say of how it is made
        differing = [key for key in differing if key not in ("is_splits", "is_shuffle_seed")]
    assert len(said) == len(differing) >= 8
    for line, key in zip(said, differing, strict=True):
        assert line.startswith(Protocol.settings()[key] + ": ") and "(paper: " in line
        assert "None" not in line
    assert len(PAPER.differs_from(protocol)) == len(said)


@pytest.mark.parametrize("setting", Protocol.settings())
def test_any_single_setting_that_changes_is_named_and_changes_the_hash(setting):
    other = dataclasses.replace(PAPER, **{setting: 7})
    (line,) = other.differs_from(PAPER)
    assert line.startswith(Protocol.settings()[setting]) and "7 (paper: " in line
    assert protocol_hash(other) != protocol_hash(PAPER)


def test_a_hash_stands_for_settings_alone_and_stays_what_it_is():
    found = {name: protocol_hash(protocol) for name, protocol in PROTOCOLS.items()}
    assert len(set(found.values())) == len(PROTOCOLS)
    assert all(len(value) == 12 and int(value, 16) >= 0 for value in found.values())
    unlike = dataclasses.replace(PAPER, name="other", source="elsewhere", remark="none")
    assert protocol_hash(unlike) == found["paper"]
    # Rows of results hold it: whoever changes a setting, or its words, changes what old rows can be compared with.
    assert found["paper"] == "37fb894d1fec"


def test_weights_are_files_that_the_project_knows_where_it_has_their_network():
    assert "i3d" in FEATURE_NETWORKS
    for protocol in PROTOCOLS.values():
        assert protocol.weights in PUBLISHED or protocol.name == "cd-fvd-videomae"


# --- by behaviour, against the libraries that the public code calls --------------------------------------------------


@pytest.fixture(scope="module")
def picture():
    """Something to shrink: smooth shapes, edges and a little noise, uint8 `[17, 240, 320, 3]`."""
    rng, y, x = np.random.default_rng(0), *np.mgrid[:240, :320]
    frames = [
        np.stack([128 + 100 * np.sin((x + 3 * t) / 5 + c) * np.cos(y / (7 + c)) for c in range(3)], -1)
        for t in range(17)
    ]
    return np.clip(np.stack(frames) + rng.normal(0, 6, (17, 240, 320, 3)), 0, 255).astype(np.uint8)


class Folder:
    """Stands for a data set of files: videos that are arrays."""

    def __init__(self, videos, clip):
        self.videos, self.clip = videos, clip
        self.sources, self.lengths = list(range(len(videos))), [len(video) for video in videos]
        self.strides = [clip.fitting_stride(length) for length in self.lengths]

    def __len__(self):
        return len(self.videos)

    def read(self, source, frames):
        return self.videos[source][frames]

    def label(self, source):
        return source


def shown(protocol, pictures, **settings):
    """The first real clip of a video as a protocol's network meets it: uint8 `[3, T, S, S]`."""
    protocol = dataclasses.replace(protocol, window=words.EVERY_FRAME, **settings)
    plan = plan_clips(protocol, CLIP, 4096)
    folder = Folder([pictures], ClipSpec(plan.frames, plan.size, 1, "first"))
    item = EveryWindow(folder, protocol, plan).item(0, 0)
    return STORAGES[protocol.real_storage](torch.from_numpy(item["video"])[None])[0]


def decibels(a, b):
    return float(10 * torch.log10(255**2 / (a.float() - b.float()).square().mean()))


def unit(pictures):
    return torch.from_numpy(pictures[:16]).permute(0, 3, 1, 2).float() / 255


@pytest.mark.parametrize("name", ["tats", "videogpt"])
def test_real_clips_of_tats_and_videogpt_are_not_antialiased_and_lose_half_a_level(name, picture):
    resized = F.interpolate(unit(picture), size=(128, 171), mode="bilinear", align_corners=False)
    centred = resized[:, :, :, 21:149] - 0.5
    expected = torch.from_numpy(((centred + 0.5).numpy() * 255).astype("uint8")).transpose(0, 1)
    found = shown(PROTOCOLS[name], picture)
    assert torch.equal(found, expected)
    ours = torch.from_numpy(resize_and_crop(picture[:16], 128)).permute(3, 0, 1, 2)
    assert decibels(found, ours) < 42
    rounded = shown(PROTOCOLS[name], picture, real_bytes=words.ROUNDING)
    assert (rounded.float() - found.float()).mean() == pytest.approx(0.5, abs=0.02)


def test_dark_levels_of_tats_lose_one_even_where_nothing_is_resized():
    levels = np.arange(256, dtype=np.uint8).repeat(64).reshape(1, 128, 128, 1).repeat(16, 0).repeat(3, 3)
    found = shown(PROTOCOLS["tats"], levels)[0, 0].flatten()[::64].int()
    assert (found - torch.arange(256)).tolist() == [0] + [-1] * 63 + [0] * 192
    for name in ("cd-fvd", "v-rae"):
        there = dataclasses.replace(PROTOCOLS[name], resolution=128, num_frames=16)
        assert shown(there, levels)[0, 0].flatten()[::64].tolist() == list(range(256))


def test_real_clips_of_cd_fvd_are_antialiased_and_truncated(picture):
    resized = F.interpolate(unit(picture), size=(128, 171), mode="bilinear", align_corners=False, antialias=True)
    expected = (resized[:, :, :, 21:149] * 255).byte().transpose(0, 1)
    assert torch.equal(shown(PROTOCOLS["cd-fvd"], picture, resolution=128), expected)


def by_pil(pictures, size, crop_first, jpeg):
    """The frames of a clip as `convert_videos_to_frames` leaves them."""
    found = []
    for frame in map(Image.fromarray, pictures):
        if crop_first:
            frame = frame.crop((40, 0, 280, 240)).resize((size, size), Image.Resampling.LANCZOS)
        else:
            wide = int(size * 320 / 240)
            left = round((wide - size) / 2)
            frame = frame.resize((wide, size), Image.Resampling.LANCZOS).crop((left, 0, left + size, size))
        if jpeg:
            file = io.BytesIO()
            frame.save(file, "JPEG", q=95)  # as there: PIL knows no `q`
            frame = Image.open(file)
        found.append(np.asarray(frame))
    return torch.from_numpy(np.stack(found)).permute(3, 0, 1, 2)


@pytest.mark.parametrize(
    ("name", "crop_first", "jpeg"), [("stylegan-v", False, True), ("latte", True, True), ("v-rae", True, False)]
)
def test_real_clips_are_shrunk_by_lanczos_and_read_from_jpeg(name, crop_first, jpeg, picture):
    found = shown(PROTOCOLS[name], picture, resolution=128)
    assert torch.equal(found, by_pil(picture[: found.shape[1]], 128, crop_first, jpeg))
    assert not torch.equal(found, by_pil(picture[: found.shape[1]], 128, crop_first, not jpeg))


def test_real_clips_of_ours_are_those_of_the_data_set(tmp_path, picture):
    write_video(tmp_path / "a.mp4", picture[:, :48, :64], 8)
    dataset = open_dataset("videos", root=str(tmp_path), clip=ClipSpec(num_frames=9, size=32))
    plan = dataclasses.replace(plan_clips(PAPER, CLIP, 10), frames=9, size=32)
    for seed in range(3):
        assert np.array_equal(OneWindow(dataset, PAPER, plan).item(0, seed)["video"], dataset.item(0, seed)["video"])


def generated(protocol, video, clip=CLIP):
    return generated_change(protocol, plan_clips(protocol, clip, 4096))(video)


@pytest.fixture(scope="module")
def floats(picture):
    """A decoded clip, float `[1, 3, 17, 64, 64]`, beyond [-1, 1] in places, and its spec."""
    video = torch.from_numpy(picture[:, :64, :64]).permute(3, 0, 1, 2)[None].float() / 120 - 1.1
    return video + 0.001, ClipSpec(num_frames=17, size=64)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_generated_clips_become_bytes_by_rounding_or_truncating(name, floats):
    protocol = dataclasses.replace(PROTOCOLS[name], generated_storage=words.DECODED)
    found = generated(protocol, *floats)
    levels = (floats[0][:, :, : protocol.num_frames].clamp(-1, 1) * 0.5 + 0.5) * 255
    truncated = name in ("tats", "videogpt", "cd-fvd", "cd-fvd-videomae")
    exact = torch.from_numpy(levels.numpy().astype("uint8")) if truncated else to_uint8(levels / 127.5 - 1)
    assert (found.int() - exact.int()).abs().float().mean() < 1e-3  # a float's last digit apart
    assert (levels - found).mean() == pytest.approx(0.5 if truncated else 0.0, abs=0.05)


def test_generated_clips_of_ours_are_rounded_once(floats):
    assert torch.equal(generated(PAPER, *floats), to_uint8(floats[0]))


def through_pyav(video, crf):
    """A clip as libx264 leaves it, with PyAV's own conversion of colours: uint8 `[1, 3, T, H, W]` like `video`."""
    import av

    file, size = io.BytesIO(), {"height": video.shape[3], "width": video.shape[4]}
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=8, pix_fmt="yuv420p", options={"crf": str(crf)}, **size)
        for frame in video[0].permute(1, 2, 3, 0).contiguous().numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    file.seek(0)
    with av.open(file) as container:
        read = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    return torch.from_numpy(read).permute(3, 0, 1, 2)[None]


def test_generated_clips_of_v_rae_pass_through_h264_of_the_quality_that_imageio_calls_9(floats):
    rounded = to_uint8(floats[0])
    found, other = generated(PROTOCOLS["v-rae"], *floats), through_pyav(rounded, 5)
    assert found.shape == rounded.shape and decibels(found, other) > 40
    assert abs(decibels(found, rounded) - decibels(other, rounded)) < 0.5
    # Without colour, which the format halves, what is left is the loss of the encoder.
    grey = floats[0].mean(1, keepdim=True).expand(-1, 3, -1, -1, -1)
    found, levels = generated(PROTOCOLS["v-rae"], grey, floats[1]), to_uint8(grey)
    assert decibels(found, levels) == pytest.approx(decibels(through_pyav(levels, 5), levels), abs=0.2)
    assert decibels(found, levels) > decibels(through_pyav(levels, 8), levels) + 1


def test_generated_clips_of_stylegan_v_see_no_jpeg_and_those_of_latte_mp4_and_then_jpeg(floats, monkeypatch):
    rounded = to_uint8(floats[0])[:, :, :16]
    assert torch.equal(generated(PROTOCOLS["stylegan-v"], *floats), rounded)
    assert decibels(generated(PROTOCOLS["latte"], *floats), rounded) < decibels(through_pyav(rounded, 5), rounded)
    monkeypatch.setattr("eval.protocols.clips.through_mp4", lambda video: video.flip(-1))  # known, to hold JPEG to PIL
    pictures = []
    for frame in rounded.flip(-1)[0].permute(1, 2, 3, 0).contiguous().numpy():
        Image.fromarray(frame).save(file := io.BytesIO(), "JPEG", quality=75)
        pictures.append(np.asarray(Image.open(file)))
    expected = torch.from_numpy(np.stack(pictures)).permute(3, 0, 1, 2)[None]
    assert torch.equal(generated(PROTOCOLS["latte"], *floats), expected)


def test_every_frame_of_the_stride_counts_and_odd_sizes_are_stored_too(floats):
    video, clip = floats
    strided = dataclasses.replace(PROTOCOLS["tats"], generated_stride=2, generated_bytes=words.ROUNDING)
    assert torch.equal(generated(strided, video, clip), to_uint8(video)[:, :, ::2])
    odd = video[..., :63, :63]
    found = generated(PROTOCOLS["v-rae"], odd, ClipSpec(num_frames=17, size=63))
    assert found.shape == odd.shape and decibels(found, to_uint8(odd)) > 25


def test_larger_generated_clips_are_shrunk_and_that_is_said(picture):
    video, clip = torch.from_numpy(picture[:, :, :240]).permute(3, 0, 1, 2)[None].float() / 127.5 - 1, CLIP
    tats = dataclasses.replace(PROTOCOLS["tats"], generated_bytes=words.ROUNDING)
    shrunk = F.interpolate(video[0].transpose(0, 1)[:16], size=(128, 128), mode="bilinear", antialias=True)
    assert (generated(tats, video)[0].transpose(0, 1).int() - to_uint8(shrunk).int()).abs().max() <= 1
    (line,) = plan_clips(tats, clip, 2048).unmet
    assert line == "generated clips shrunk to 128 pixels, antialiased (tats: made at this size)"
    ours = dataclasses.replace(PAPER, resolution=128)
    expected = resize_and_crop(to_uint8(video)[0].permute(1, 2, 3, 0).numpy(), 128)
    assert np.array_equal(generated(ours, video)[0].permute(1, 2, 3, 0).numpy(), expected)


def test_clips_reach_224_pixels_straight_or_by_their_shorter_side():
    wide = torch.rand(1, 3, 2, 64, 96) * 2 - 1
    frames = wide[0].transpose(0, 1)
    straight = F.interpolate(frames, size=(224, 224), mode="bilinear", align_corners=False)
    shorter = F.interpolate(frames, size=(224, 336), mode="bilinear", align_corners=False)[..., 56:280]
    assert torch.allclose(RESIZES_TO_224[words.SQUASH](wide)[0].transpose(0, 1), straight)
    assert torch.allclose(RESIZES_TO_224[words.CROP](wide)[0].transpose(0, 1), shorter)
    square = torch.rand(1, 3, 2, 64, 64)
    assert torch.allclose(RESIZES_TO_224[words.CROP](square), RESIZES_TO_224[words.SQUASH](square))


def test_roots_and_divisors_are_those_of_the_public_code():
    """Running sums divided by N and scipy's root (StyleGAN-V and those after it); N - 1 and two SVDs (VideoGPT)."""
    import scipy.linalg

    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(300, 12)) @ rng.normal(size=(12, 12)), rng.normal(size=(260, 12)) + 0.3
    moments = [(x.sum(0) / len(x), x.T @ x / len(x) - np.outer(x.sum(0) / len(x), x.sum(0) / len(x))) for x in (a, b)]
    (mean_a, cov_a), (mean_b, cov_b) = moments
    root = scipy.linalg.sqrtm(cov_a @ cov_b)
    expected = np.square(mean_a - mean_b).sum() + np.real(np.trace(cov_a + cov_b - 2 * root))
    assert frechet_by_sqrtm(a, b, PROTOCOLS["stylegan-v"].ddof) == pytest.approx(expected, rel=1e-9)

    def by_svd(matrix):
        u, s, v = torch.linalg.svd(matrix)
        return u @ torch.diag(torch.where(s < 1e-10, s, s.sqrt())) @ v

    c, d = (torch.from_numpy(x).float() for x in (a, b))
    half = by_svd(torch.cov(c.T))
    trace = torch.trace(torch.cov(c.T) + torch.cov(d.T)) - 2 * torch.trace(by_svd(half @ torch.cov(d.T) @ half))
    expected = float(trace + (c.mean(0) - d.mean(0)).square().sum())
    assert frechet_by_tfgan(a, b, PROTOCOLS["tats"].ddof) == pytest.approx(expected, rel=1e-5)
    assert frechet_by_tfgan(a, b, 0) != pytest.approx(expected, rel=1e-4)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-4)


# --- which clips -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """(what judges a generator, the lengths of its videos): two splits of noise, 32 pixels."""
    rng, tmp_path = np.random.default_rng(0), tmp_path_factory.mktemp("films")
    lengths = {"train": (40, 60, 50, 46, 51, 47, 53), "test": (30, 35)}
    for split, counts in lengths.items():
        (tmp_path / split).mkdir()
        for number, length in enumerate(counts):
            video = rng.integers(0, 255, (length, 32, 32, 3)).astype(np.uint8)
            write_video(tmp_path / split / f"{number}.mp4", video, 8)
    clip = ClipSpec(num_frames=17, size=32)
    dataset = open_dataset("videos", root=str(tmp_path), split="train", clip=clip)
    facts = {"data": "videos", "split": "train", "root": str(tmp_path)}
    return SimpleNamespace(facts=facts, dataset=dataset, reference_items=[2, 0]), lengths


def chosen(films, name, samples=8, root=None):
    protocol, (judge, _) = PROTOCOLS[name], films
    return choose_real(protocol, plan_clips(protocol, judge.dataset.clip, samples), judge, root, 0)


def test_real_clips_come_from_the_split_and_window_of_the_protocol(films):
    train, test = films[1].values()
    assert chosen(films, "paper").items == [2, 0] and chosen(films, "stylegan-v").items == list(range(7))
    videogpt, tats = chosen(films, "videogpt"), chosen(films, "tats")
    assert videogpt.split == "test" and len(videogpt.dataset) == sum(test) - 2 * 15 and len(set(videogpt.items)) == 8
    assert tats.split == "train" and len(tats.dataset) == sum(train) - 7 * 15
    cd_fvd = chosen(films, "cd-fvd", 2048)
    assert sorted(cd_fvd.items) == list(range(7)) and not any("real" in line for line in cd_fvd.unmet)


def test_short_videos_are_discarded_where_the_public_code_does_it(films):
    """Latte: 16 frames times 3 are needed, though 46 would do; V-RAE: 51 of 49."""
    latte, v_rae = chosen(films, "latte"), chosen(films, "v-rae")
    assert [latte.dataset.dataset.lengths[i] for i in latte.dataset.videos] == [60, 50, 51, 53]
    assert sorted(latte.items) == [0, 1, 2, 3] and not any("too short" in line for line in latte.unmet)
    assert any("drawn with seed 0" in line for line in latte.unmet)
    assert [v_rae.dataset.dataset.lengths[i] for i in v_rae.dataset.videos] == [60, 51, 53]
    judge, _ = films
    ours = dataclasses.replace(PAPER, real_stride=3)
    found = choose_real(ours, plan_clips(ours, judge.dataset.clip, 8), judge, None, 0)
    assert len(found.dataset) == 7 and any("3 of 7 real videos are too short for stride 3" in u for u in found.unmet)


def test_a_video_that_cd_fvd_would_replace_is_left_out_and_that_is_said(films, tmp_path):
    root = shutil.copytree(films[0].facts["root"], tmp_path / "more")
    write_video(root / "train" / "short.mp4", np.zeros((12, 32, 32, 3), np.uint8), 8)
    found = chosen(films, "cd-fvd", root=str(root))
    line = "1 real videos of fewer than 16 frames left out (cd-fvd: the next)"
    assert len(found.dataset) == 7 and line in found.unmet and line not in chosen(films, "cd-fvd").unmet
    assert line not in chosen(films, "stylegan-v", root=str(root)).unmet


def test_v_rae_takes_the_clips_that_its_seed_gives(films):
    """Its population of 2,048, made here as there from the numbers and lengths of videos alone."""
    real = chosen(films, "v-rae", samples=2048)
    assert real.items == random.Random(3407).sample(range(3), 3)
    for index, length in enumerate([60, 51, 53]):
        digest = hashlib.sha256(f"3407:{index}:consecutive".encode()).digest()
        offset = int.from_bytes(digest[:8], "little") % (length - 17 * 3 + 3 - 1 + 1)
        video, frames = real.dataset.window(index, seed=5)
        assert real.dataset.dataset.lengths[video] == length
        assert frames.tolist() == [offset + 3 * i for i in range(17)]
        expected = real.dataset.dataset.read(real.dataset.dataset.sources[video], frames).transpose(3, 0, 1, 2)
        assert np.array_equal(real.dataset.item(index, 5)["video"], expected)


def test_every_window_is_a_clip_of_its_own(tmp_path):
    rng = np.random.default_rng(0)
    for name, length in (("a", 12), ("b", 9), ("c", 11)):
        write_video(tmp_path / f"{name}.mp4", rng.integers(0, 255, (length, 32, 32, 3)).astype(np.uint8), 8, crf=0)
    dataset = open_dataset("videos", root=str(tmp_path), clip=ClipSpec(num_frames=9, size=32))
    protocol = dataclasses.replace(PROTOCOLS["tats"], real_bytes=words.TRUNCATING)
    plan = dataclasses.replace(plan_clips(protocol, CLIP, 8), frames=9, size=32)
    windows = EveryWindow(dataset, protocol, plan)
    assert len(windows) == 4 + 1 + 3
    for index, (video, start) in enumerate([(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (2, 0), (2, 1), (2, 2)]):
        expected = dataset.read(dataset.sources[video], np.arange(start, start + 9)).transpose(3, 0, 1, 2)
        assert np.array_equal(windows.item(index, 0)["video"], expected)
    shapes = open_dataset("moving_shapes", split="test", clip=ClipSpec(num_frames=9, size=32))
    assert len(EveryWindow(shapes, protocol, plan)) == len(OneWindow(shapes, protocol, plan)) == 2000
    assert np.array_equal(OneWindow(shapes, protocol, plan).item(7, 0)["video"], shapes[7]["video"])

"""Training the tokenizer: stages, exact resume, frozen encoder, the kept checkpoint, refusals, and a short golden
run."""

import dataclasses
import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from runtime import trainer
from runtime.checkpoint import list_checkpoints
from runtime.command import parse
from runtime.errors import InputError
from runtime.run import file_sha256
from tokenizer import presets
from tokenizer.pvvae import PVVAE, PVVAEConfig
from tokenizer.source import source_changed
from tokenizer.stages import Stage, StageTraining, bucket_batches, stage_plan
from tokenizer.train import TrainConfig, preset_defaults, train
from tokenizer.zoo import find_folder, load, run_and_step, video_folder

# What runs have noted since the first of them.
# fmt: off
IDENTITY = {
    "adaptive_gan", "batch_size", "clip_sizes", "data", "data_fingerprint", "discriminator_layers",
    "drop_schedule", "dtype", "ema_decay", "frame_stride", "gan_start", "gan_weight", "gradient_clip",
    "image_sizes", "images", "images_per_clip", "images_root", "init_from", "kl_weight", "learning_rate",
    "lpips_weight", "max_drop_ratio", "model", "num_frames", "optimizer", "padding", "preset", "reverse",
    "root", "seed", "size", "spatial_weight", "stage", "steps", "temporal_weight", "warmup", "weight_decay",
}
# fmt: on
TINY = PVVAEConfig(latent_channels=4, channels=(8, 8, 8), blocks=1, middle_blocks=1, patch=4, norm="layer")


@pytest.fixture(autouse=True)
def tiny_demo(monkeypatch):
    """The demo preset with a network that trains in milliseconds."""
    demo = presets.PRESETS["demo"]
    training = {**demo.training, "optimizer": "adamw", "learning_rate": 1e-3}  # for a network so small
    monkeypatch.setitem(presets.PRESETS, "demo", dataclasses.replace(demo, model=TINY, training=training))
    monkeypatch.setattr("runtime.log._encoded", lambda frames: b"")  # pictures take longer than the training


def config_for(tmp_path, *words: str) -> TrainConfig:
    common = [
        "--runs-dir",
        str(tmp_path),
        "--device",
        "cpu",
        "--dtype",
        "float32",
        "--images-per-clip",
        "2",
        "--validate-every",
        "100",
        "--warmup",
        "2",
    ]
    defaults = {"--batch-size": "2", "--validation-clips": "2", "--num-frames": "5"}
    more = [word for pair in defaults.items() if pair[0] not in words for word in pair]
    return parse([*common, *more, *words], TrainConfig, preset_defaults)


def log_of(run_dir) -> list[dict]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "time"} for line in lines]


def test_stages_divide_the_steps_in_the_presets_proportions():
    plan = stage_plan("all", 100, {"images": 30, "video": 10, "decoder": 10})
    assert plan == [Stage("images", 0, 60), Stage("video", 60, 80), Stage("decoder", 80, 100)]
    assert stage_plan("all", 3, {"images": 300, "video": 1, "decoder": 1})[-1] == Stage("decoder", 2, 3)
    assert stage_plan("video", None, {"video": 50}) == [Stage("video", 0, 50)]
    with pytest.raises(InputError, match="at least 3"):
        stage_plan("all", 2, {"images": 1, "video": 1, "decoder": 1})


def test_without_data_the_demo_preset_trains_on_synthetic_clips_and_with_data_the_paper_preset():
    assert preset_defaults({})["data"] == "moving_shapes" and preset_defaults({})["preset"] == "demo"
    assert preset_defaults({"data": "ucf101"})["preset"] == "paper"
    paper = parse(["--data", "ucf101", "--root", "x"], TrainConfig, preset_defaults)
    assert (paper.learning_rate, paper.max_drop_ratio, paper.reverse, paper.lpips_weight) == (5e-5, 1.0, 0.5, 1.0)
    for words in (["--preset", "paper"], ["--root", "x"], ["--preset", "small", "--root", "x"]):
        with pytest.raises(InputError, match="--data is needed with --root or a preset of the paper"):
            parse(words, TrainConfig, preset_defaults)
    assert parse(["--preset", "small"], TrainConfig, preset_defaults).data == "moving_shapes"


@pytest.mark.parametrize("preset", ["paper", "paper-transformer"])
def test_the_papers_presets_train_at_its_sizes_in_batches_that_divide_over_eight(preset):
    line = ["--data", "ucf101", "--root", "x", "--preset", preset]
    paper = parse(line, TrainConfig, preset_defaults)
    assert paper.image_sizes == (256, 384, 512) and paper.clip_sizes == (256, 512)
    for parts in (1, 2, 4, 8):
        images = bucket_batches(paper.batch_size, paper.image_sizes, per_clip=paper.images_per_clip, parts=parts)
        assert (images, bucket_batches(paper.batch_size, paper.clip_sizes, parts=parts)) == ([128, 56, 32], [32, 8])
    # A size that is asked for is the size of all stages.
    small = parse([*line, "--size", "64"], TrainConfig, preset_defaults)
    assert small.image_sizes == small.clip_sizes == ()
    both = parse([*line, "--size", "64", "--clip-sizes", "64,128"], TrainConfig, preset_defaults)
    assert both.image_sizes == () and both.clip_sizes == (64, 128)


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path, monkeypatch):
    whole = train(config_for(tmp_path, "--steps", "20", "--name", "whole", "--save-every", "100"))

    class Stop(Exception):
        pass

    import runtime.checkpoint as checkpoint

    genuine = checkpoint.save_checkpoint

    def save_then_stop(run_dir, step, **rest):
        path = genuine(run_dir, step, **rest)
        if step == 10:
            raise Stop
        return path

    monkeypatch.setattr(checkpoint, "save_checkpoint", save_then_stop)
    with pytest.raises(Stop):
        train(config_for(tmp_path, "--steps", "20", "--name", "parts", "--save-every", "10"))
    monkeypatch.setattr(checkpoint, "save_checkpoint", genuine)
    parts = train(config_for(tmp_path, "--steps", "20", "--name", "parts", "--save-every", "10"))
    for file in ("model.safetensors", "ema.safetensors"):
        ours, theirs = (load_file(run / "checkpoints" / "step_00000020" / file) for run in (whole, parts))
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert log_of(whole) == log_of(parts)
    identity = json.loads((whole / "manifest.json").read_text())["identity"]
    assert set(identity) == IDENTITY, "a new flag would refuse every older run: give _AS_BEFORE its value of before"


def test_decoder_fine_tuning_leaves_the_encoder_alone_and_the_video_stage_is_kept(tmp_path):
    run = train(config_for(tmp_path, "--steps", "24", "--name", "run", "--save-every", "1"))
    last, video = load(run), load(run, stage="video")
    assert last.encoder_hash == video.encoder_hash and last.decoder_hash != video.decoder_hash
    steps = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert "step_00000024" in steps and len(steps) == 3  # the newest two, and the end of the video stage
    kept = json.loads((run / "checkpoints" / steps[0] / "state.json").read_text())
    assert kept["stage_end"] == "video" and kept["keep"]


def test_checkpoints_stay_as_often_as_asked_and_are_found_by_their_step(tmp_path, monkeypatch):
    words = ("--stage", "images", "--steps", "5", "--name", "run", "--save-every", "100")
    run = train(config_for(tmp_path, *words, "--keep-every", "2"))
    assert [step for step, _ in list_checkpoints(run)] == [2, 4, 5]
    hashes = [load(f"{run}@{step}").encoder_hash for step in (2, 4, 5)]
    assert len(set(hashes)) == 3 and hashes[-1] == load(run).encoder_hash
    assert load(run / "checkpoints" / "step_00000002").encoder_hash == hashes[0]
    assert train(config_for(tmp_path, *words)) == run  # what stays is no part of what is learnt
    with pytest.raises(InputError, match="has no checkpoint of step 3; it has 2, 4, 5"):
        load(f"{run}@3")
    for folder, path in (("run", "checkpoints/step_00000002"), ("run/checkpoints", "step_00000002")):
        monkeypatch.chdir(tmp_path / folder)
        assert run_and_step(path) == (run, 2) and load(path).encoder_hash == hashes[0]


def test_room_is_asked_for_as_many_checkpoints_as_stay(tmp_path, monkeypatch):
    genuine, asked = trainer.require_training, []
    monkeypatch.setattr(trainer, "require_training", lambda *args, **rest: asked.append(rest) or genuine(*args, **rest))
    run = train(config_for(tmp_path, "--steps", "12", "--name", "run", "--save-every", "100", "--keep-every", "5"))
    assert [each["kept"] for each in asked] == [len(list_checkpoints(run))]


def test_weights_of_a_stage_that_are_not_there_are_refused(tmp_path):
    images = train(config_for(tmp_path, "--stage", "images", "--steps", "2", "--name", "images"))
    with pytest.raises(InputError, match="of the video stage, only those in images/checkpoints/step_00000002"):
        load(images, stage="video")
    words = ("--stage", "video", "--steps", "2", "--save-every", "1", "--name", "video", "--init-from", str(images))
    video = train(config_for(tmp_path, *words))
    assert load(video, stage="video").decoder_hash == load(video).decoder_hash
    # Also while the stage goes on; checkpoints that do not name their stage name its end.
    newest = video / "checkpoints" / "step_00000002"
    shutil.rmtree(newest)
    assert find_folder(video, "video") == newest.with_name("step_00000001") == find_folder(video)
    state = newest.with_name("step_00000001") / "state.json"
    for end, found in ((None, None), ("video", state.parent)):
        state.write_text(json.dumps({"step": 1, "stage_end": end}))
        assert video_folder(video) == found
    load(video).save_pretrained(tmp_path / "plain")
    with pytest.raises(InputError, match="plain' has no weights of the video stage, only those in plain;"):
        load(tmp_path / "plain", stage="video")
    load(video).save_pretrained(tmp_path / "plain" / "video")
    assert find_folder(tmp_path / "plain", "video") == tmp_path / "plain" / "video"


def test_the_video_stage_drops_groups_and_the_others_do_not(tmp_path):
    words = ("--steps", "40", "--name", "run", "--num-frames", "17", "--max-drop-ratio", "0.5")
    run = train(config_for(tmp_path, *words))
    dropped = {stage: {line["dropped"] for line in log_of(run) if line["stage"] == stage} for stage in (0, 1, 2)}
    assert dropped == {0: {0}, 1: {0, 1, 2}, 2: {0}}  # at most half of five groups


def test_the_averaged_weights_are_validated_and_the_log_holds_numbers_alone(tmp_path):
    from tokenizer.train import open_clips
    from tokenizer.validation import validate

    config = config_for(tmp_path, "--steps", "12", "--name", "run", "--validation-clips", "3")
    config = dataclasses.replace(config, validate_every=4)
    run = train(config)
    lines = [line for line in log_of(run) if "val_psnr" in line]
    assert [line["step"] for line in lines if line["step"] % 4 == 0] == [4, 8, 12]
    assert all(isinstance(value, (int, float)) for line in lines for value in line.values())
    expected = validate(load(run), open_clips(config, run).validation, torch.device("cpu"), torch.float32).values
    assert {name: value for name, value in lines[-1].items() if name.startswith("val_")} == pytest.approx(expected)


def test_stages_chain_through_init_from(tmp_path):
    first = train(config_for(tmp_path, "--stage", "images", "--steps", "3", "--name", "images"))
    second = train(
        config_for(tmp_path, "--stage", "decoder", "--steps", "3", "--name", "decoder", "--init-from", str(first))
    )
    assert load(first).encoder_hash == load(second).encoder_hash
    with pytest.raises(InputError, match="init-from"):
        train(
            config_for(tmp_path, "--steps", "3", "--name", "other", "--padding", "gaussian", "--init-from", str(first))
        )


def test_a_kept_checkpoint_of_weights_alone_can_be_begun_from(tmp_path):
    words = ("--stage", "images", "--steps", "6", "--save-every", "2", "--keep-every", "2", "--name", "images")
    images = train(config_for(tmp_path, *words))
    old, newest = (path for step, path in list_checkpoints(images) if step in (2, 6))
    assert not (old / "optimizer.pt").exists()

    def following(name: str, step: int):
        words = ("--stage", "video", "--steps", "2", "--name", name, "--init-from", f"{images}@{step}")
        return weights_of(train(config_for(tmp_path, *words)))

    whole, other = following("whole", 6), following("other", 2)
    (newest / "optimizer.pt").unlink()
    alone = following("alone", 6)
    assert all(torch.equal(value, whole[name]) for name, value in alone.items())
    assert any(not torch.equal(value, whole[name]) for name, value in other.items())


@pytest.mark.parametrize("padding", ["gaussian", "conditional"])
def test_the_video_stage_of_another_padding_begins_from_the_same_pictures(padding, tmp_path):
    first = train(config_for(tmp_path, "--stage", "images", "--steps", "3", "--name", "images"))
    # Rate 0: all that happens is that the averaged weights come nearer to the others.
    words = ("--stage", "video", "--init-from", str(first), "--steps", "2", "--learning-rate", "0")
    runs = {
        name: train(config_for(tmp_path, *words, "--name", name, "--padding", name)) for name in ("learnable", padding)
    }
    same, other = load(runs["learnable"]), load(runs[padding])
    assert other.config.padding == padding and other.encoder_hash == same.encoder_hash
    decoder = other.decoder.state_dict()
    assert all(torch.equal(decoder[name], value) for name, value in same.decoder.state_dict().items())
    if padding == "conditional":
        assert set(other.padding.state_dict()) > {"token", "before.weight", "after.bias"}
    # It goes on from its own checkpoint, as any run.
    again = train(config_for(tmp_path, *words, "--name", padding, "--padding", padding))
    assert load(again).decoder_hash == other.decoder_hash


def test_gaussian_padding_trains(tmp_path):
    run = train(config_for(tmp_path, "--stage", "video", "--steps", "4", "--name", "gaussian", "--padding", "gaussian"))
    assert load(run).config.padding == "gaussian"


def test_other_settings_under_the_same_name_are_refused_and_listed(tmp_path):
    train(config_for(tmp_path, "--steps", "3", "--name", "run"))
    with pytest.raises(InputError, match="learning_rate: was 0.001, now 0.003"):
        train(config_for(tmp_path, "--steps", "3", "--name", "run", "--learning-rate", "0.003"))


def test_a_loss_that_is_not_finite_skips_steps_then_stops_and_names_the_run(tmp_path, monkeypatch):
    import tokenizer.losses as losses

    genuine = losses.pixel_loss
    monkeypatch.setattr(losses, "pixel_loss", lambda output, video: genuine(output, video) * float("nan"))
    with pytest.raises(InputError, match="not finite in 10 steps in a row"):
        train(config_for(tmp_path, "--steps", "30", "--name", "run"))


def test_training_learns(tmp_path):
    run = train(
        config_for(
            tmp_path,
            "--stage",
            "images",
            "--steps",
            "60",
            "--name",
            "run",
            "--batch-size",
            "8",
            "--learning-rate",
            "3e-3",
        )
    )
    losses = [line["mse"] for line in log_of(run)]
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])


def begun(tmp_path):
    """(a run of pictures, one of clips that began from it and ended, the command line of that)"""
    images = ("--stage", "images", "--steps", "2", "--save-every", "1", "--name", "images")
    source = train(config_for(tmp_path, *images))
    words = ("--stage", "video", "--steps", "3", "--save-every", "1", "--name", "video", "--init-from", str(source))
    return source, train(config_for(tmp_path, *words)), words


def weights_of(run):
    return load_file(find_folder(run) / "ema.safetensors")


@pytest.mark.parametrize("finished", [True, False])
def test_a_run_whose_source_was_trained_anew_is_refused_in_one_line(finished, tmp_path):
    source, run, words = begun(tmp_path)
    note = json.loads((run / "manifest.json").read_text())["sessions"][0]["source"]
    assert note["sha256"] == file_sha256(find_folder(source) / "ema.safetensors")
    if not finished:
        shutil.rmtree(run / "checkpoints" / "step_00000003")
    shutil.rmtree(source)
    train(config_for(tmp_path, "--stage", "images", "--steps", "2", "--name", "images", "--seed", "1"))
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    message = r"--init-from .*images: .*video began from other weights \(sha256 \w{8}…\) than are in .*step_00000002"
    with pytest.raises(InputError, match=message) as caught:
        train(config_for(tmp_path, *words))
    assert "\n" not in str(caught.value) and source_changed(run, source)
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    # A run that had not come to a checkpoint has nothing of the old ones, and begins from these.
    shutil.rmtree(run / "checkpoints")
    train(config_for(tmp_path, *words))
    assert source_changed(run, source) is None


def test_a_source_that_is_gone_copied_trained_further_or_unknown_does_not_matter(tmp_path):
    source, run, words = begun(tmp_path)
    expected, newest = weights_of(run), find_folder(source)

    def resumed() -> None:
        """The run goes on from its second step to the same weights."""
        shutil.rmtree(run / "checkpoints" / "step_00000003")
        train(config_for(tmp_path, *words))
        assert all(torch.equal(value, expected[name]) for name, value in weights_of(run).items())

    os.utime(newest / "ema.safetensors", ns=(1, 1))  # as copied: only now the file is read, and once
    assert source_changed(run, source)
    resumed()
    assert source_changed(run, source) is None
    further = shutil.copytree(newest, newest.with_name("step_00000009"))
    state = json.loads((further / "state.json").read_text()) | {"step": 9}
    (further / "state.json").write_text(json.dumps(state))
    (further / "ema.safetensors").write_bytes(b"others")
    resumed()
    shutil.rmtree(source)
    resumed()
    # What earlier versions left: nothing is known of the source, so that any is taken.
    train(config_for(tmp_path, "--stage", "images", "--steps", "2", "--name", "images", "--seed", "1"))
    manifest = json.loads((run / "manifest.json").read_text())
    for session in manifest["sessions"]:
        session.pop("source")
    (run / "manifest.json").write_text(json.dumps(manifest))
    resumed()
    assert "source" not in json.loads((run / "manifest.json").read_text())["sessions"][-1]


def test_the_next_stage_of_a_run_does_not_need_its_source(tmp_path, monkeypatch):
    PVVAE(TINY).save_pretrained(tmp_path / "plain")
    genuine = StageTraining.run

    def run(self, *args) -> int:
        shutil.rmtree(tmp_path / "plain", ignore_errors=True)
        return genuine(self, *args)

    monkeypatch.setattr(StageTraining, "run", run)
    found = train(config_for(tmp_path, "--steps", "12", "--name", "all", "--init-from", str(tmp_path / "plain")))
    assert list_checkpoints(found)[-1][0] == 12


def test_other_weights_in_a_folder_are_noticed_too(tmp_path):
    PVVAE(TINY).save_pretrained(tmp_path / "plain")
    words = ("--stage", "video", "--steps", "1", "--name", "video", "--init-from", str(tmp_path / "plain"))
    run = train(config_for(tmp_path, *words))
    train(config_for(tmp_path, *words))
    file = tmp_path / "plain" / "model.safetensors"
    save_file({name: value + 1 for name, value in load_file(file).items()}, file)
    with pytest.raises(InputError, match="other weights .* than are in .*model.safetensors now"):
        train(config_for(tmp_path, *words))
    # A note that somebody has broken is one line, as every record.
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["sessions"][-1]["source"] = {"sha256": 3}
    (run / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="sha256 is 3, expected text"):
        train(config_for(tmp_path, *words))

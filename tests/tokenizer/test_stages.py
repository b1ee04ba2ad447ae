"""What `tokenizer.train` combines: stages, adversary, resolutions, accumulation, recomputing, compilation."""

import dataclasses
import json
import shutil
from copy import deepcopy

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from runtime import checkpoint, parallel, trainer
from runtime.checkpoint import find_checkpoint, list_checkpoints, load_checkpoint
from runtime.command import parse
from runtime.errors import InputError
from runtime.log import MetricsLog
from runtime.processes import World
from runtime.trainer import Trainer
from tokenizer import presets, stages
from tokenizer.adversarial import Adversary
from tokenizer.discriminator import Discriminator, DiscriminatorConfig, SpectralNorm
from tokenizer.layers import ResidualBlock
from tokenizer.pvvae import PVVAE, PVVAEConfig
from tokenizer.stages import Clips, StageTraining, bucket_batches
from tokenizer.train import TrainConfig, preset_defaults, train
from tokenizer.zoo import find_folder, load
from videos import write_video
from videos.folders import VideoFolder

TINY = {
    "cnn": PVVAEConfig(latent_channels=4, channels=(8, 8, 8), blocks=1, middle_blocks=1, patch=4, norm="layer"),
    "transformer": PVVAEConfig(architecture="transformer", latent_channels=4, patch=16, width=24, depth=1, heads=2),
}
GAN = ("--gan-weight", "0.1", "--gan-start", "1")


@pytest.fixture(autouse=True)
def tiny_demo(monkeypatch, request):
    tiny_networks(monkeypatch, getattr(request, "param", "cnn"))


def tiny_networks(monkeypatch, architecture: str = "cnn") -> None:
    """The demo preset with networks that train in milliseconds; three stages of equal length."""
    demo = presets.PRESETS["demo"]
    small = dataclasses.replace(
        demo,
        model=TINY[architecture],
        stage_steps={"images": 1, "video": 1, "decoder": 1},
        training={**demo.training, "optimizer": "adamw", "learning_rate": 1e-3},  # what the bounds below are of
    )
    monkeypatch.setitem(presets.PRESETS, "demo", small)
    monkeypatch.setattr("runtime.log._encoded", lambda frames: b"")  # pictures take longer than the training
    monkeypatch.setattr(stages, "DiscriminatorConfig", lambda layers: DiscriminatorConfig(channels=4, layers=layers))


def config_for(folder, *words: str, **changes) -> TrainConfig:
    common = {
        "--runs-dir": folder,
        "--name": "run",
        "--device": "cpu",
        "--dtype": "float32",
        "--images-per-clip": 1,
        "--batch-size": 2,
        "--num-frames": 5,
        "--validate-every": 100,
        "--validation-clips": 1,
        "--warmup": 1,
        "--save-every": 100,
    }
    given = dict(zip(words[::2], words[1::2], strict=True))
    line = [str(word) for pair in {**common, **given}.items() for word in pair]
    return dataclasses.replace(parse(line, TrainConfig, preset_defaults), **changes)


def log_of(run) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "time"} for line in lines]


def flattened(value: object, name: str = "") -> dict[str, object]:
    """Nested dicts and lists as one dict of paths."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {path: leaf for key, part in items for path, leaf in flattened(part, f"{name}/{key}").items()}
    return {name: value}


def saved(run) -> dict[str, object]:
    """Everything in the newest checkpoint: tensors of all networks, and the state of the optimizers."""
    checkpoint = find_checkpoint(run)
    tensors = {path.stem: load_file(path) for path in checkpoint.glob("*.safetensors")}
    optimizer = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    return flattened({**tensors, "optimizer": optimizer, "state": json.loads((checkpoint / "state.json").read_text())})


def assert_equal(run, reference) -> None:
    """Bit for bit."""
    found, expected = saved(run), saved(reference)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value) if torch.is_tensor(value) else found[name] == value, name
    assert log_of(run) == log_of(reference)


class Interrupted(Exception):
    pass


def train_interrupted(monkeypatch, config: TrainConfig, at: tuple[int, ...]):
    """Train with a crash after the checkpoints of the steps `at`; returns the finished run."""
    genuine, left = checkpoint.save_checkpoint, set(at)

    def save_then_crash(run_dir, step, **rest):
        path = genuine(run_dir, step, **rest)
        if step in left:
            left.remove(step)
            raise Interrupted
        return path

    monkeypatch.setattr(checkpoint, "save_checkpoint", save_then_crash)
    for _ in at:
        with pytest.raises(Interrupted):
            train(config)
    run = train(config)
    monkeypatch.setattr(checkpoint, "save_checkpoint", genuine)
    assert not left
    return run


# -- resume -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        GAN,
        (*GAN, "--adaptive-gan", "true", "--accumulate", "2", "--checkpoint-blocks", "true"),
        (*GAN, "--padding", "conditional", "--drop-schedule", "infill", "--num-frames", "9"),
        (*GAN, "--padding", "gaussian", "--drop-schedule", "infill", "--num-frames", "9"),
        (*GAN, "--image-sizes", "32,48,64", "--clip-sizes", "32,64", "--batch-size", "16"),
    ],
    ids=["gan", "adaptive, accumulated, recomputed", "conditional, infill", "gaussian, infill", "mixed resolutions"],
)
def test_a_run_interrupted_in_the_middle_of_each_stage_equals_the_undisturbed_one(tmp_path, monkeypatch, words):
    whole = train(config_for(tmp_path / "whole", *words, "--steps", "12"))
    config = config_for(tmp_path / "parts", *words, "--steps", "12", "--save-every", "1")
    # In the middle of each stage, and at the end of the first.
    parts = train_interrupted(monkeypatch, config, (2, 4, 6, 10))
    assert_equal(parts, whole)
    assert "discriminator" in {path.stem for path in find_checkpoint(whole).iterdir()}


@pytest.mark.parametrize("tiny_demo", ["transformer"], indirect=True)
def test_the_transformer_resumes_with_the_adversary_too(tmp_path, monkeypatch):
    whole = train(config_for(tmp_path / "whole", *GAN, "--steps", "6"))
    config = config_for(tmp_path / "parts", *GAN, "--steps", "6", "--save-every", "1")
    assert_equal(train_interrupted(monkeypatch, config, (1, 3, 5)), whole)


def test_a_process_that_looks_too_early_begins_the_next_stage_from_what_the_main_one_wrote(tmp_path, monkeypatch):
    """The others reach the next stage while the main process still writes the end of this one."""
    whole = train(config_for(tmp_path / "whole", *GAN, "--steps", "6", "--save-every", "1"))
    look, restore, looking = trainer.list_checkpoints, StageTraining._restore, []

    def restore_early(self, *arguments):
        run_dir = self.run_dir
        for module in (trainer, checkpoint):
            monkeypatch.setattr(module, "list_checkpoints", lambda _: look(run_dir)[:-1])
        monkeypatch.setattr(World, "same", lambda _, value: str(look(run_dir)[-1][1]) if look(run_dir) else None)
        looking.append(trainer.list_checkpoints(run_dir))
        step = restore(self, *arguments)
        monkeypatch.undo()
        tiny_networks(monkeypatch)
        monkeypatch.setattr(StageTraining, "_restore", restore_early)
        return step

    monkeypatch.setattr(StageTraining, "_restore", restore_early)
    assert_equal(train(config_for(tmp_path / "early", *GAN, "--steps", "6", "--save-every", "1")), whole)
    assert len(looking) == 3


# -- flags ------------------------------------------------------------------------------------------------------------


def test_every_flag_of_training_acts(tmp_path):
    base = {"stage": "video", "num-frames": 9, "warmup": 2, "reverse": 0, "steps": 4}
    flags = {
        "learning-rate": 2e-3, "warmup": 0, "weight-decay": 0.5, "gradient-clip": 1e-3, "ema-decay": 0.3,
        "ema-warmup": "false", "optimizer": "muon", "kl-weight": 1, "temporal-weight": 5, "spatial-weight": 5,
        "reverse": 1, "max-drop-ratio": 0, "drop-schedule": "infill",
    }  # fmt: skip

    def average(name: str, **changes) -> bytes:
        words = [word for flag, value in {**base, **changes}.items() for word in (f"--{flag}", str(value))]
        return (find_folder(train(config_for(tmp_path / name, *words))) / "ema.safetensors").read_bytes()

    plain = average("plain")
    assert not [name for name, value in flags.items() if average(name, **{name: value}) == plain]


# -- the adversary ----------------------------------------------------------------------------------------------------


def test_the_adversary_begins_at_its_step_in_each_stage_and_at_once_in_the_decoder_stage(tmp_path):
    run = train(config_for(tmp_path, "--steps", "12", "--gan-weight", "0.1", "--gan-start", "3"))
    with_gan = [line["step"] for line in log_of(run) if "gan" in line]
    assert with_gan == [4, 8, 9, 10, 11, 12]
    assert with_gan == [line["step"] for line in log_of(run) if "discriminator_loss" in line]
    assert all(line["gan_weight"] == pytest.approx(0.1) for line in log_of(run) if "gan" in line)


def test_without_its_weight_there_is_no_adversary(tmp_path):
    run = train(config_for(tmp_path, "--steps", "3"))
    assert not any("gan" in line for line in log_of(run))
    assert not (find_checkpoint(run) / "discriminator.safetensors").exists()


def test_the_adaptive_weight_is_measured_at_the_last_layer_clamped_and_logged(tmp_path, monkeypatch):
    """Against the ratio of gradient norms by autograd of the two losses alone."""
    expected, genuine = [], stages.adaptive_weight

    def spy(loss, adversarial, layer):
        norms = [torch.autograd.grad(each, layer, retain_graph=True)[0].norm() for each in (loss, adversarial)]
        expected.append(0.1 * float(norms[0] / norms[1]))
        return genuine(loss, adversarial, layer)

    monkeypatch.setattr(stages, "adaptive_weight", spy)
    run = train(config_for(tmp_path / "a", *GAN, "--adaptive-gan", "true", "--steps", "6"))
    logged = [line["gan_weight"] for line in log_of(run) if "gan" in line]
    assert logged == pytest.approx(expected, rel=1e-5) and len(logged) == 4 and min(logged) > 0
    assert len(set(logged)) == len(logged)
    # Logits that hear nothing of the output: the ratio would be infinite.
    monkeypatch.setattr(stages, "adaptive_weight", genuine)
    deaf = Adversary.generator_loss
    monkeypatch.setattr(Adversary, "generator_loss", lambda self, output: 0.0 * deaf(self, output))
    run = train(config_for(tmp_path / "b", *GAN, "--adaptive-gan", "true", "--steps", "3"))
    assert [line["gan_weight"] for line in log_of(run) if "gan" in line] == pytest.approx([0.1 * 1e4])


@pytest.mark.parametrize("accumulate", ["1", "2"])
def test_generator_and_discriminator_learn_from_the_same_batch(tmp_path, monkeypatch, accumulate):
    seen = {"inputs": [], "outputs": [], "judged": []}
    loss, step = StageTraining._loss, Adversary.discriminator_step

    def spy_loss(self, video, rows, dropped, adversary):
        found = loss(self, video, rows, dropped, adversary)
        seen["inputs"].append(video.clone())
        seen["outputs"].append(found[0].detach().clone())
        return found

    def spy_step(self, video, output, learning_rate=None, *, parts=1):
        seen["judged"].append((video.clone(), output.clone(), learning_rate))
        assert parts == int(accumulate)
        return step(self, video, output, learning_rate, parts=parts)

    monkeypatch.setattr(StageTraining, "_loss", spy_loss)
    monkeypatch.setattr(Adversary, "discriminator_step", spy_step)
    words = ("--gan-weight", "0.1", "--gan-start", "0", "--accumulate", accumulate)
    run = train(config_for(tmp_path, *words, "--steps", "6", "--reverse", "1"))
    assert len(seen["judged"]) == 6
    parts = int(accumulate)
    for number, (video, output, rate) in enumerate(seen["judged"]):
        here = slice(number * parts, (number + 1) * parts)
        assert torch.equal(video, torch.cat(seen["inputs"][here]))
        assert torch.equal(output, torch.cat(seen["outputs"][here]))
        assert rate == pytest.approx(log_of(run)[number]["learning_rate"])


def test_one_power_iteration_for_each_update_of_the_discriminator(tmp_path, monkeypatch):
    calls, genuine = [], SpectralNorm.iterate
    monkeypatch.setattr(SpectralNorm, "iterate", lambda self, weight: calls.append(self) or genuine(self, weight))
    updates, step = [], Discriminator.iterate_spectral_norms
    monkeypatch.setattr(Discriminator, "iterate_spectral_norms", lambda self: updates.append(len(calls)) or step(self))
    words = ("--gan-weight", "0.1", "--gan-start", "2", "--accumulate", "2", "--validate-every", "1")
    train(config_for(tmp_path, *words, "--steps", "9"))
    assert len(updates) == 1 + 1 + 3
    norms = 2 * (2 + 2)  # two networks of layers + 2 convolutions
    # Between two updates of one stage, each norm has moved once: nothing but an update moves it.
    assert updates[3] - updates[2] == updates[4] - updates[3] == len(calls) - updates[4] == norms


def test_the_discriminator_goes_on_from_stage_to_stage(tmp_path):
    run = train(config_for(tmp_path, *GAN, "--steps", "9"))
    state = load_checkpoint(find_checkpoint(run), names=("discriminator",), optimizer=True).optimizer["discriminator"]
    counts = {int(entry["step"]) for entry in state["adamw"]["state"].values()}
    assert counts == {2 + 2 + 3}  # updates of all stages


def test_decoder_fine_tuning_with_the_adversary_leaves_the_encoder_alone(tmp_path):
    run = train(config_for(tmp_path, *GAN, "--adaptive-gan", "true", "--steps", "9", "--save-every", "1"))
    last, video = load(run), load(run, stage="video")
    assert last.encoder_hash == video.encoder_hash and last.decoder_hash != video.decoder_hash
    assert all(torch.equal(a, b) for a, b in zip(last.padding.parameters(), video.padding.parameters(), strict=True))


# -- memory savers ----------------------------------------------------------------------------------------------------

# AdamW makes of a gradient near zero a step of the whole rate, of either sign, so weights agree to the rate times the
# number of steps at worst; losses of the first steps agree to the rounding of float32 sums.
RATE = 1e-3


def assert_like(run, reference, steps: int) -> None:
    for found, expected in zip(log_of(run), log_of(reference), strict=True):
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-4)
        assert found["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-2)
    for name in ("model", "ema"):
        ours, theirs = (load_file(find_checkpoint(each) / f"{name}.safetensors") for each in (run, reference))
        for key, value in theirs.items():
            torch.testing.assert_close(ours[key], value, rtol=0, atol=2 * steps * RATE)
            assert (ours[key] - value).abs().mean() < 0.05 * RATE, key


@pytest.mark.parametrize("words", [(), GAN], ids=["plain", "gan"])
@pytest.mark.parametrize("more", [("--accumulate", "4"), ("--checkpoint-blocks", "true")], ids=lambda more: more[0])
def test_parts_and_recomputing_change_nothing_but_rounding(tmp_path, words, more):
    common = (*words, "--steps", "6", "--batch-size", "4")
    plain = train(config_for(tmp_path / "plain", *common))
    assert_like(train(config_for(tmp_path / "saving", *common, *more)), plain, steps=6)


def test_only_models_of_the_papers_size_on_a_gpu_are_compiled_unasked(monkeypatch):
    compiled = []
    monkeypatch.setattr(parallel, "compile_blocks", compiled.append)
    monkeypatch.setattr(parallel.importlib.util, "find_spec", lambda name: True if name == "triton" else None)
    monkeypatch.setenv("CC", "cc")
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert parse([], TrainConfig, preset_defaults).compile == "auto"
    with torch.device("meta"):
        models = {name: PVVAE(preset.model) for name, preset in presets.PRESETS.items()}
    for name, model in models.items():
        assert parallel.compile_as_asked(model, "auto", gpu) == name.startswith("paper")
        assert not parallel.compile_as_asked(model, "auto", cpu) and not parallel.compile_as_asked(model, "false", gpu)
    assert len(compiled) == 2 and parallel.compile_as_asked(models["demo"], "true", cpu) and len(compiled) == 3
    monkeypatch.setattr(parallel.importlib.util, "find_spec", lambda name: None)  # Inductor could build no kernel
    assert not parallel.compile_as_asked(models["paper"], "auto", gpu)


# Dynamo looks at the .grad of what goes into a block.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_compiled_blocks_give_the_same_loss(tmp_path, monkeypatch):
    genuine = parallel.compile_blocks
    monkeypatch.setattr(parallel, "compile_blocks", lambda model: genuine(model, backend="eager"))
    common = (*GAN, "--checkpoint-blocks", "true", "--steps", "6")
    plain = train(config_for(tmp_path / "plain", *common))
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    assert_like(train(config_for(tmp_path / "compiled", *common, "--compile", "true")), plain, steps=6)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 3
    torch.compiler.reset()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_no_block_is_left_uncompiled_for_its_width_resolution_or_number_of_frames():
    """Dynamo gives up silently at a number of variants that the paper's five levels exceed."""
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    torch.manual_seed(0)
    vae = PVVAE(PVVAEConfig(latent_channels=4, channels=(4, 6, 8, 10, 10), blocks=1, middle_blocks=1)).train()
    parallel.compile_blocks(vae, backend="eager")
    for frames, size, dropped in ((1, 32, 0), (9, 32, 0), (9, 32, 1), (9, 48, 2)):
        vae(torch.zeros(1, 3, frames, size, size), dropped=dropped)[0].mean().backward()
    assert not torch._dynamo.utils.counters["unimplemented"]
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_a_block_that_inductor_compiled_gives_the_same_result_and_gradients():
    """One block and one shape: compiling takes ten seconds and more."""
    if not any(shutil.which(compiler) for compiler in ("g++", "clang++", "c++")):
        pytest.skip("Inductor needs a C++ compiler for the CPU")
    torch.compiler.reset()
    torch.manual_seed(0)
    plain = nn.ModuleList([ResidualBlock(8, "rms")])
    nn.init.normal_(plain[0].conv1.weight, std=0.1)
    compiled = deepcopy(plain)
    parallel.compile_blocks(compiled)
    x, past = torch.randn(1, 8, 4, 8, 8), [torch.randn(1, 8, 2, 8, 8) for _ in range(2)]
    results = []
    for blocks in (plain, compiled):
        y, kept = blocks[0](x, past)
        results.append([y, *kept, *torch.autograd.grad(y.square().sum(), list(blocks.parameters()))])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    torch.compiler.reset()


# -- resolutions ------------------------------------------------------------------------------------------------------


def test_batches_shrink_by_the_pixel_budget():
    assert bucket_batches(16, [256, 384, 512]) == [16, 7, 4]
    assert bucket_batches(8, [256, 384, 512], per_clip=4, parts=2) == [32, 14, 8]
    assert bucket_batches(4, [256, 512]) == [4, 1] and bucket_batches(2, [512, 256]) == [2, 8]


@pytest.mark.parametrize("parts", [1, 2, 8])
@pytest.mark.parametrize("per_clip", [1, 4, 6])
@pytest.mark.parametrize("sizes", [[256], [256, 512], [256, 384, 512]])
def test_the_suggested_batch_size_is_the_smallest_that_fits(sizes, per_clip, parts):
    def fits(batch_size: int) -> bool:
        try:
            batches = bucket_batches(batch_size, sizes, per_clip=per_clip, parts=parts)
        except InputError as error:
            suggested.add(int(str(error).rsplit(" ", 1)[1]))
            return False
        return all(batch > 0 and batch % parts == 0 for batch in batches)

    suggested: set[int] = set()
    fitting = [batch_size for batch_size in range(1, 257) if fits(batch_size)]
    assert suggested <= {fitting[0]} and fitting == list(range(fitting[0], 257, fitting[0]))


def test_batches_that_do_not_divide_are_refused_with_the_flag_that_helps(tmp_path):
    words = ("--image-sizes", "32,48", "--batch-size", "8")
    with pytest.raises(InputError, match="batches of 8 at 32, 3.5 at 48 pixels.* give a multiple of 16"):
        train(config_for(tmp_path, *words))
    with pytest.raises(InputError, match="320 pixels are too many beside 32"):
        train(config_for(tmp_path, "--clip-sizes", "32,320", "--batch-size", "16"))
    assert not list(tmp_path.iterdir())


class OfSize:
    """Clips that carry their index and size."""

    def __init__(self, size: int):
        self.size = size

    def __len__(self) -> int:
        return 50

    def item(self, index: int, seed: int) -> dict:
        video = torch.full((3, 1, self.size, self.size), index, dtype=torch.uint8)
        return {"video": video.numpy(), "label": 0, "name": f"{index} {seed}"}


def test_every_process_reads_its_rows_of_the_same_bucket_at_each_step(tmp_path):
    config = config_for(tmp_path, "--batch-size", "32")
    by_size = {size: OfSize(size) for size in (256, 384, 512)}
    clips, cpu = Clips(by_size, {256: by_size[256]}, []), torch.device("cpu")
    loaders = [iter(clips.loader(config, "images", World(rank, 2, cpu), 7)) for rank in range(2)]
    alone = iter(clips.loader(config, "images", World(0, 1, cpu), 7))
    sizes = set()
    for _ in range(12):
        (step, first), (same_step, second), (_, whole) = (next(each) for each in (*loaders, alone))
        size = first["video"].shape[-1]
        assert step == same_step and second["video"].shape == first["video"].shape
        assert len(first["rows"]) == {256: 16, 384: 7, 512: 4}[size]
        assert first["rows"] + second["rows"] == whole["rows"] == list(range(len(whole["rows"])))
        assert first["names"] + second["names"] == whole["names"]
        sizes.add(size)
    assert sizes == {256, 384, 512}
    for each in (*loaders, alone):
        each.close()


def test_images_from_videos_are_several_frames_of_each_video_that_is_read(tmp_path, monkeypatch):
    generator = np.random.default_rng(0)
    for number in range(3):
        write_video(tmp_path / f"{number}.mp4", generator.integers(0, 255, (30, 32, 32, 3), np.uint8), 10)
    reads, seen = [], []
    read, loss = VideoFolder.read, StageTraining._loss

    def counted(self, source, frames):
        reads.append(frames.tolist())
        return read(self, source, frames)

    def watched(self, video, rows, *rest):
        seen.append((tuple(video.shape), rows))
        return loss(self, video, rows, *rest)

    monkeypatch.setattr(VideoFolder, "read", counted)
    monkeypatch.setattr(StageTraining, "_loss", watched)
    words = ("--data", "videos", "--root", str(tmp_path), "--preset", "demo", "--images-per-clip", "4")
    train(config_for(tmp_path / "runs", *words, "--stage", "images", "--steps", "1"))
    assert seen == [((8, 3, 1, 32, 32), list(range(8)))]
    scattered = [frames for frames in reads if len(frames) == 4]
    assert len(scattered) >= 2 and all(len(set(frames)) == 4 for frames in scattered)


def test_a_run_sees_every_size_of_its_stage(tmp_path):
    words = ("--image-sizes", "32,48,64", "--clip-sizes", "32,64", "--batch-size", "16")
    run = train(config_for(tmp_path, *words, "--steps", "18", "--seed", "1"))
    sizes = {stage: {line["size"] for line in log_of(run) if line["stage"] == stage} for stage in (0, 1, 2)}
    assert sizes == {0: {32, 48, 64}, 1: {32, 64}, 2: {32, 64}}


# -- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tiny_demo", TINY, indirect=True)
@pytest.mark.parametrize("padding", ["learnable", "conditional"])
@pytest.mark.parametrize("frames", ["1", "5"])
def test_every_trained_parameter_has_a_gradient_at_every_step(tmp_path, monkeypatch, padding, frames):
    """Also where nothing is dropped (k = 0) and from single frames (T = 0)."""
    seen, genuine = [], trainer.Trainer.clip

    def spy(self):
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        trained = {name for parameter, name in names.items() if parameter.requires_grad}
        seen.append((trained, {name for parameter, name in names.items() if parameter.grad is not None}))
        return genuine(self)

    monkeypatch.setattr(trainer.Trainer, "clip", spy)
    run = train(config_for(tmp_path, *GAN, "--padding", padding, "--num-frames", frames, "--steps", "12"))
    for (trained, got), line in zip(seen, log_of(run), strict=True):
        assert trained == got, line
        assert any(name.startswith("encoder.") for name in trained) == (line["stage"] < 2)
        assert any(name.startswith("padding.") for name in trained) == (line["stage"] == 1)
    assert {line["dropped"] for line in log_of(run) if line["stage"] == 1} == ({0, 1} if frames == "5" else {0})


# -- chains -----------------------------------------------------------------------------------------------------------


def starts_of(monkeypatch) -> list[dict[str, torch.Tensor]]:
    """Fills with the weights that every stage begins with."""
    found, genuine = [], StageTraining.run

    def spy(self, log, progress):
        networks = {"model": self.trainer.model.state_dict(), "ema": self.trainer.ema.state_dict()}
        if self.adversary:
            networks["discriminator"] = self.adversary.state_dict()
        tensors = {name: value for name, value in flattened(networks).items() if torch.is_tensor(value)}
        found.append({name: value.clone() for name, value in tensors.items()})
        return genuine(self, log, progress)

    monkeypatch.setattr(StageTraining, "run", spy)
    return found


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_stage_begins_from_another_run_as_it_does_within_one(tmp_path, monkeypatch):
    starts = starts_of(monkeypatch)
    one = train(config_for(tmp_path / "one", *GAN, "--steps", "9", "--save-every", "1"))
    images = train(config_for(tmp_path / "images", *GAN, "--stage", "images", "--steps", "3"))
    words = ("--stage", "video", "--steps", "3", "--init-from", str(images))
    video = train(config_for(tmp_path / "video", *GAN, *words))
    assert same(starts[3], starts[0]) and same(starts[4], starts[1])
    assert any("exp_avg" in name for name in starts[4])  # the discriminator brings its momentum
    # Decoder fine-tuning begins from the averages of the run's last checkpoint.
    words = ("--stage", "decoder", "--steps", "3", "--init-from", str(video))
    decoder = train(config_for(tmp_path / "decoder", *GAN, *words))
    checkpoint = load_checkpoint(find_checkpoint(video), names=("ema", "discriminator"))
    for network in ("model", "ema"):
        assert all(torch.equal(starts[5][f"/{network}/{n}"], v) for n, v in checkpoint.tensors["ema"].items())
    for name, value in checkpoint.tensors["discriminator"].items():
        assert torch.equal(starts[5][f"/discriminator/tensors/{name}"], value)
    kept = [path for _, path in list_checkpoints(one) if json.loads((path / "state.json").read_text())["keep"]]
    assert all(torch.equal(starts[2][f"/model/{n}"], v) for n, v in load_file(kept[0] / "ema.safetensors").items())
    assert load(decoder).encoder_hash == load(video).encoder_hash


@pytest.mark.parametrize(
    "words",
    [
        (*GAN, "--num-frames", "9", "--reverse", "0.5"),
        (*GAN, "--padding", "gaussian", "--num-frames", "9", "--image-sizes", "32,64", "--batch-size", "4"),
    ],
    ids=["plain", "gaussian, mixed resolutions"],
)
def test_three_runs_in_a_chain_end_with_the_weights_of_one_run_of_all_stages(tmp_path, words):
    whole = train(config_for(tmp_path / "whole", *words, "--steps", "12"))
    before: tuple[str, ...] = ()
    for stage in stages.STAGES:
        stage_words = (*words, "--stage", stage, "--steps", "4", *before)
        run = train(config_for(tmp_path / stage, *stage_words))
        before = ("--init-from", str(run))
    one, last = (
        {name: value for name, value in saved(run).items() if not name.startswith("/state")} for run in (whole, run)
    )
    assert {"/model", "/ema", "/discriminator", "/optimizer"} == {name[: name.index("/", 1)] for name in one}
    assert one.keys() == last.keys()
    assert all(torch.equal(last[name], value) if torch.is_tensor(value) else last[name] == value
               for name, value in one.items())  # fmt: skip
    ours = [{**line, "step": line["step"] + 8} for line in log_of(run)]
    assert ours == log_of(whole)[8:]


def test_a_chain_goes_on_after_an_interruption_like_an_undisturbed_one(tmp_path, monkeypatch):
    images = train(config_for(tmp_path / "images", *GAN, "--stage", "images", "--steps", "3"))
    words = (*GAN, "--stage", "video", "--steps", "4", "--init-from", str(images))
    whole = train(config_for(tmp_path / "whole", *words))
    parts = train_interrupted(monkeypatch, config_for(tmp_path / "parts", *words, "--save-every", "1"), (2,))
    assert_equal(parts, whole)
    assert saved(whole)["/state/origin"] == 3 and saved(whole)["/state/ema_updates"] == 7


def test_a_run_without_adversary_can_be_followed_by_one_with_it(tmp_path, monkeypatch):
    images = train(config_for(tmp_path / "images", "--stage", "images", "--steps", "2"))
    starts = starts_of(monkeypatch)
    train(config_for(tmp_path / "a", *GAN, "--stage", "video", "--steps", "2", "--init-from", str(images)))
    fresh = Adversary(DiscriminatorConfig(channels=4, layers=2), seed=0).state_dict()["tensors"]
    assert all(torch.equal(starts[0][f"/discriminator/tensors/{name}"], value) for name, value in fresh.items())


def test_a_discriminator_of_another_size_is_refused_before_anything_is_written(tmp_path):
    images = train(config_for(tmp_path / "images", *GAN, "--stage", "images", "--steps", "2"))
    words = ("--stage", "video", "--steps", "2", "--init-from", str(images), "--discriminator-layers", "3")
    with pytest.raises(InputError, match="--discriminator-layers"):
        train(config_for(tmp_path / "other", *GAN, *words))
    (find_folder(images) / "optimizer.pt").unlink()  # as of a kept checkpoint when there are newer ones
    with pytest.raises(InputError, match="holds weights alone, with which its discriminator cannot go on"):
        train(config_for(tmp_path / "other", *GAN, *words[:-2]))
    assert not (tmp_path / "other").exists()


def test_the_log_is_on_the_disk_before_a_checkpoint_is(tmp_path, monkeypatch):
    order = []
    for one, name in ((MetricsLog, "sync"), (Trainer, "save")):
        genuine = getattr(one, name)
        monkeypatch.setattr(one, name, lambda *a, name=name, f=genuine, **k: order.append(name) or f(*a, **k))
    train(config_for(tmp_path, "--steps", "3"))
    assert order == ["sync", "save"] * (len(order) // 2) and len(order) >= 2

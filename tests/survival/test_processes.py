"""The number of processes is a matter of speed only; checkpoints of every kind load in each other."""

import json
import shlex
import shutil
from pathlib import Path

import chain
import pytest
import torch
from safetensors.torch import load_file

from runtime.checkpoint import find_checkpoint
from runtime.processes import World

TRAIN = {
    "tokenizer": (chain.CHAIN["tokenizer"].replace("--save-every 2", "--save-every 3"), "runs/vae"),
    "generator": (chain.CHAIN["generator"].replace("--save-every 1", "--save-every 3"), "runs/gen"),
}
RATE, GAN_WEIGHT = 1e-3, 0.05
# Sums of float32 in another order. A loss is a mean behind some 100 roundings that follow one another in the network:
# 100 * 2^-24 = 6e-6 of it. That the weights differ matters to first order by gradient times difference, and AdamW moves
# a weight whose gradient g is known to d by the rate, give or take rate * d / |g|: with d = 10 * 2^-24 * |g| and
# 58,000 weights under a gradient of norm 5 at most (so that |g| sums to 1,200 at most) that is 7e-7 a step, 4e-6 in six
# steps, 1.2e-5 of the smallest loss.
LOSS_BOUND = 2e-5
# Logits are sums of some hundred products around 1.
LOGIT_BOUND = 1e-5
JUDGED = ("gan", "discriminator_loss", "real_logits", "fake_logits")


def metrics(run) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_like(run, reference) -> None:
    """The same but for rounding.

    Weights: AdamW makes of a gradient that is nothing but rounding a step of up to the whole rate, of either sign, so
    they agree to twice the rate times the number of steps, and on average much better.

    Logits: the gradient of the last bias is such a one while no logit has passed its margin, since what real patches
    ask of it is minus what decoded ones do. So all logits may be apart by twice the rate for each update of the
    discriminator so far, and the loss by as much times the weight of the adversary.
    """
    updates = 0
    for found, expected in zip(metrics(run), metrics(reference), strict=True):
        apart = 2 * RATE * updates
        assert found["loss"] == pytest.approx(expected["loss"], rel=LOSS_BOUND, abs=GAN_WEIGHT * apart)
        for key in JUDGED:
            assert (key in found) == (key in expected)
            if key in expected:
                assert found[key] == pytest.approx(expected[key], rel=0, abs=LOGIT_BOUND + apart), key
        updates += "discriminator_loss" in expected
    for name in ("model", "ema"):
        found, expected = (load_file(find_checkpoint(each) / f"{name}.safetensors") for each in (run, reference))
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=0, atol=6 * 2 * RATE)
            assert (found[key] - value).abs().mean() < 0.05 * RATE, key


@pytest.mark.parametrize("name", TRAIN)
@pytest.mark.parametrize(
    ("processes", "more"),
    [(2, ""), (4, ""), (1, "--accumulate 4"), (2, "--accumulate 2"), (2, "--parallel fsdp")],
    ids=["2", "4", "accumulate 4", "2, accumulate 2", "2, sharded"],
)
def test_training_is_the_same(name, processes, more, begin, launcher, snapshots):
    folder = begin(name)
    line, run = TRAIN[name]
    line = f"{line} --dtype float32 {more}"
    assert launcher.run(line, folder, processes=processes) == 0, (folder / "log.txt").read_text()[-3000:]
    alone = folder.parent / "alone"
    alone.mkdir()
    if name == "generator":
        (alone / "latents.h5").write_bytes((folder / "latents.h5").read_bytes())
    assert launcher.run(line.replace(more, "").strip(), alone) == 0
    assert_like(folder / run, alone / run)


@pytest.mark.parametrize("name", TRAIN)
def test_muon_is_the_same_where_weights_are_sharded(name, begin, launcher):
    line, run = TRAIN[name]
    line = f"{line} --dtype float32 --optimizer muon"
    folder = begin(name)
    alone = folder.parent / "alone"
    shutil.copytree(folder, alone)
    # Stopped in the middle, and gone on with alone: the momentum is saved whole.
    processes = launcher.start(f"{line} --parallel fsdp", folder, processes=2, fault="checkpoint.renamed:1")
    processes[0].join(chain.PATIENCE)
    chain.kill(processes)
    assert launcher.run(line, folder) == 0, (folder / "log.txt").read_text()[-3000:]
    assert launcher.run(line, alone) == 0
    assert_like(folder / run, alone / run)


@pytest.mark.parametrize("name", TRAIN)
def test_a_run_may_change_its_processes_in_the_middle(name, begin, launcher):
    line, run = TRAIN[name]
    line = f"{line} --dtype float32 --save-every 1".replace("--save-every 3 ", "")
    alone = begin(name)
    folder = alone.parent / "moving"
    shutil.copytree(alone, folder)
    assert launcher.run(line, alone) == 0
    # Checkpoints of FSDP2, one process, DDP and accumulation follow each other.
    for how, fault in (
        ({"processes": 2, "more": {}}, "checkpoint.renamed:2"),
        ({}, "checkpoint.renamed:2"),
        ({"processes": 2}, "checkpoint.renamed:1"),
    ):
        sharded = " --parallel fsdp" if "more" in how else ""
        processes = launcher.start(line + sharded, folder, fault=fault, **how)
        processes[0].join(chain.PATIENCE)
        chain.kill(processes)
        assert processes[0].exitcode == -9, (folder / "log.txt").read_text()[-2000:]
    assert launcher.run(f"{line} --accumulate 2", folder) == 0, (folder / "log.txt").read_text()[-2000:]
    assert_like(folder / run, alone / run)
    sessions = json.loads((folder / run / "manifest.json").read_text())["sessions"]
    assert [session["processes"] for session in sessions] == [2, 1, 2, 1]
    assert [session["parallel"] for session in sessions] == ["fsdp", "ddp", "ddp", "ddp"]


@pytest.mark.parametrize(
    "more", ["", "--parallel fsdp --checkpoint-blocks true"], ids=["copies", "sharded, recomputed"]
)
def test_the_adversary_and_mixed_resolutions_are_the_same_on_two_processes(more, tmp_path, launcher):
    line = (
        f"{TRAIN['tokenizer'][0]} --dtype float32 --gan-weight {GAN_WEIGHT} --gan-start 1 --batch-size 8 "
        "--image-sizes 32,64 --padding conditional --drop-schedule infill"
    ).replace("--batch-size 4 ", "")
    found = {}
    for processes, words in ((1, ""), (2, more)):
        folder = tmp_path / str(processes)
        folder.mkdir()
        assert launcher.run(f"{line} {words}", folder, processes=processes) == 0, (folder / "log.txt").read_text()[
            -3000:
        ]
        found[processes] = folder / "runs/vae"
    assert_like(found[2], found[1])
    ours, theirs = metrics(found[2]), metrics(found[1])
    assert [line["size"] for line in ours] == [line["size"] for line in theirs]
    assert sum(set(JUDGED) <= line.keys() for line in theirs) >= 4
    networks = [load_file(find_checkpoint(run) / "discriminator.safetensors") for run in found.values()]
    for key, value in networks[0].items():
        torch.testing.assert_close(networks[1][key], value, rtol=0, atol=6 * 2 * RATE)


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("name", ["encode", "sample", "grow", "fvd"])
def test_encoding_sampling_and_evaluation_give_the_same_bytes(name, processes, begin, launcher, snapshots):
    folder = begin(name)
    assert launcher.run(chain.CHAIN[name], folder, processes=processes) == 0, (folder / "log.txt").read_text()[-3000:]
    assert chain.content(folder) == chain.content(snapshots[name])
    assert chain.leftovers(folder) == []


@pytest.mark.parametrize("name", ["encode", "sample"])
def test_a_launch_that_lost_a_process_is_finished_by_one(name, begin, launcher, snapshots):
    folder = begin(name)
    processes = launcher.start(chain.CHAIN[name], folder, processes=2, fault="latents.row:3")
    processes[0].join(chain.PATIENCE)
    chain.kill(processes)
    assert launcher.run(chain.CHAIN[name], folder) == 0
    assert chain.content(folder) == chain.content(snapshots[name])


def test_a_batch_that_does_not_divide_is_refused(begin, launcher):
    folder = begin("tokenizer")
    assert launcher.run(chain.CHAIN["tokenizer"] + " --accumulate 3", folder) == 2
    assert "give a multiple of 3" in (folder / "log.txt").read_text()


def test_blocks_cover_every_row_once_for_any_number_of_processes():
    cpu = torch.device("cpu")
    for size in (1, 2, 5):
        blocks = [block for rank in range(size) for block in World(rank, size, cpu).blocks(23, 4)]
        assert sorted(row for block in blocks for row in block) == list(range(23))
        assert sorted(block.start for block in blocks) == list(range(0, 23, 4))


WITHOUT_KERNELS = shlex.quote(str(Path(__file__).parent / "without_kernels.py"))
EVERY_OPTION = (
    "--qk-norm true --time-density logit-normal --time-shift 2 --ema-warmup true --optimizer muon --schedule cosine "
    "--warmup 2 --weight-decay 0.01 --betas 0.9,0.95 --deterministic true --accumulate 2"
)


@pytest.mark.parametrize(
    "more", ["--compile true", "--parallel fsdp --checkpoint-blocks true", "--parallel fsdp --compile true"]
)
def test_two_processes_resume_exactly_with_every_option_on(more, begin, launcher):
    line = f"{WITHOUT_KERNELS} {chain.CHAIN['generator']} --dtype float32 {EVERY_OPTION} {more}"
    whole = begin("generator")
    killed = whole.parent / "killed"
    shutil.copytree(whole, killed)
    assert launcher.run(line, whole, processes=2) == 0, (whole / "log.txt").read_text()[-3000:]
    graphs = 2 if "--compile" in more else 0  # a spatial and a temporal block
    assert f"compiled graphs: {graphs}" in (whole / "log.txt").read_text()
    processes = launcher.start(line, killed, processes=2, fault="checkpoint.renamed:3")
    processes[0].join(chain.PATIENCE)
    chain.kill(processes)
    assert processes[0].exitcode == -9, (killed / "log.txt").read_text()[-2000:]
    assert launcher.run(line, killed, processes=2) == 0, (killed / "log.txt").read_text()[-2000:]
    assert chain.content(killed) == chain.content(whole)
    assert [line["step"] for line in metrics(whole / "runs/gen")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.bf16
def test_parameters_that_are_sent_in_bfloat16_train_as_those_that_autocast_rounds(begin, launcher):
    line = f"{chain.CHAIN['generator']} --dtype bfloat16 --parallel fsdp"
    whole = begin("generator")
    halved = whole.parent / "halved"
    shutil.copytree(whole, halved)
    for folder, more in ((whole, ""), (halved, " --shard-dtype bfloat16")):
        assert launcher.run(line + more, folder, processes=2) == 0, (folder / "log.txt").read_text()[-3000:]
    for found, expected in zip(metrics(halved / "runs/gen"), metrics(whole / "runs/gen"), strict=True):
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-3)
        assert found["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-2)
    weights = [load_file(find_checkpoint(folder / "runs/gen") / "model.safetensors") for folder in (whole, halved)]
    assert all(value.dtype == torch.float32 for value in weights[1].values())  # each process's part
    assert any((value != value.bfloat16()).any() for value in weights[1].values())

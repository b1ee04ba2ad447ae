"""EMA, schedules, seeds, processes, logging: small functions, each with its law."""

import io
import json
import math
import os
import random
import socket
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime import measuring, processes
from runtime.ema import EMA, share_of_newest
from runtime.errors import InputError
from runtime.files import replacing
from runtime.log import MetricsLog, Progress
from runtime.processes import World, autocast, resolve_device, resolve_dtype, start_processes
from runtime.schedule import is_due, learning_rate
from runtime.seeds import key, normal_rows, numpy_generator, seed_everything, seeded, uniform_rows


def test_ema_of_constant_weights_is_those_weights_whatever_it_started_from():
    for warmup in (False, True):
        model = torch.nn.Linear(2, 2)
        ema = EMA(model, 0.9999, warmup)
        with torch.no_grad():
            model.weight.fill_(3.0)
        for _ in range(1, 200):
            ema.update()
        assert torch.allclose(ema.state_dict()["weight"], torch.full((2, 2), 3.0), atol=1e-4)


def test_averages_decay_by_age_alone_and_initial_weights_have_no_part():
    decay, count = 0.9, 7
    model = torch.nn.Linear(1, 1, bias=False)
    ema, values = EMA(model, decay), [float(2**step) for step in range(count)]
    for value in values:
        with torch.no_grad():
            model.weight.fill_(value)
        ema.update()
    weights = [decay**age for age in reversed(range(count))]
    expected = sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)
    assert float(ema.average["weight"]) == pytest.approx(expected, rel=1e-6) and ema.updates == count


def share(update, decay, warmup=False):
    return float(share_of_newest(torch.tensor(float(update), dtype=torch.float64), decay, warmup))


def test_the_newest_weights_have_the_part_of_the_nominal_decay_in_the_end():
    for warmup in (False, True):
        assert share(10**7, 0.9999, warmup) == pytest.approx(1e-4)
        shares = [share(step, 0.999, warmup) for step in range(1, 5000)]
        assert all(a >= b for a, b in zip(shares, shares[1:], strict=False))
    assert share(25_000, 0.9999, True) == pytest.approx(9 / 25_010)  # what a warm-up makes of 0.9999
    assert share(25_000, 0.9999) == pytest.approx(1.09e-4, rel=1e-3)
    assert [share(step, 1.0) for step in (1, 4)] == [1.0, 0.25] and share(3, 0.0) == 1.0


def test_ema_follows_its_recursion_and_is_applied_and_taken_back():
    model = torch.nn.Linear(1, 1, bias=False)
    ema, expected = EMA(model, 0.5, warmup=True), float(model.weight.detach())
    for step in range(1, 6):
        with torch.no_grad():
            model.weight.fill_(float(step))
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
        ema.update()
    with ema.applied():
        assert float(model.weight.detach()) == pytest.approx(expected, rel=1e-6)
    assert float(model.weight.detach()) == 5.0
    other = EMA(torch.nn.Linear(1, 1, bias=False), 0.5)
    other.load_state_dict(ema.state_dict())
    assert torch.equal(other.state_dict()["weight"], ema.state_dict()["weight"])


def test_the_cosine_schedule_rises_linearly_and_ends_at_its_ratio():
    rates = [learning_rate(s, base=1.0, total=100, warmup=10, kind="cosine", final_ratio=0.1) for s in range(101)]
    assert rates[:10] == pytest.approx([(s + 1) / 10 for s in range(10)])
    assert rates[10] == 1.0 and rates[100] == pytest.approx(0.1)
    assert all(a >= b for a, b in zip(rates[10:], rates[11:], strict=False))
    assert learning_rate(5000, base=0.3, total=10) == 0.3


@settings(deadline=None, database=None)
@given(
    base=st.floats(1e-8, 10.0),
    total=st.integers(1, 10**6),
    warmup=st.integers(0, 1000),
    kind=st.sampled_from(["constant", "cosine"]),
    ratio=st.floats(0.0, 1.0),
    step=st.integers(0, 2 * 10**6),
)
def test_a_rate_is_positive_and_at_most_the_peak_and_never_below_the_end(base, total, warmup, kind, ratio, step):
    rate = learning_rate(step, base=base, total=total, warmup=warmup, kind=kind, final_ratio=ratio)
    assert 0 <= rate <= base * (1 + 1e-12)
    if step >= warmup:
        assert rate >= base * ratio * (1 - 1e-12)


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="known: constant, cosine"):
        learning_rate(5, base=1.0, total=10, kind="linear")


@settings(deadline=None, database=None)
@given(every=st.integers(1, 50), total=st.integers(1, 500))
def test_the_last_step_is_always_due_and_the_first_moment_never(every, total):
    due = [step for step in range(total + 1) if is_due(step, every, total)]
    assert due[-1] == total and due[0] > 0 and len(due) == -(-total // every)


def test_what_is_due_follows_from_the_step_alone():
    assert [s for s in range(11) if is_due(s, 4, 10)] == [4, 8, 10]


def test_rows_of_noise_do_not_depend_on_who_draws_them():
    whole = normal_rows(1, "noise", 5, range(8), (3, 2))
    parts = torch.cat([normal_rows(1, "noise", 5, rows, (3, 2)) for rows in (range(3), range(3, 8))])
    assert torch.equal(whole, parts) and whole.dtype == torch.float32
    assert not torch.equal(whole, normal_rows(1, "noise", 6, range(8), (3, 2)))
    assert not torch.equal(whole, normal_rows(1, "time", 5, range(8), (3, 2)))
    assert torch.equal(uniform_rows(1, "t", 0, range(4))[2:], uniform_rows(1, "t", 0, [2, 3]))


def test_drawn_rows_follow_their_laws():
    normal = normal_rows(0, "law", 0, range(1000), (50,))
    assert abs(float(normal.mean())) < 0.02 and abs(float(normal.std()) - 1) < 0.02  # > 4 standard errors of 50,000
    uniform = uniform_rows(0, "law", 0, range(20_000))
    assert float(uniform.min()) >= 0 and float(uniform.max()) < 1 and abs(float(uniform.mean()) - 0.5) < 0.01


def test_keys_are_stable_and_tell_their_parts_apart():
    assert (
        key(0, "a", 1) == key(0, "a", 1)
        and len({key(0, "a", 11), key(0, "a1", 1), key(0, "a", 1, 1), key(1, "a", 1)}) == 4
    )


def test_processes_share_the_rows_of_a_batch():
    shares = [list(World(rank, 4, torch.device("cpu")).rows(8)) for rank in range(4)]
    assert sum(shares, []) == list(range(8))
    with pytest.raises(InputError, match="does not divide over 4 processes"):
        World(0, 4, torch.device("cpu")).rows(6)
    assert start_processes("cpu") == World(0, 1, torch.device("cpu"))


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta", "cpu:x"])
def test_devices_that_are_not_there_are_refused(device):
    with pytest.raises(InputError, match="--device"):
        resolve_device(device)
    assert resolve_dtype("bfloat16", torch.device("cpu")) == torch.bfloat16


def test_a_gpu_that_was_asked_for_is_the_current_one(monkeypatch):
    """Streams and events that name no device are that one's."""
    calls = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", calls.append)
    assert start_processes("cuda:1").device == torch.device("cuda:1") and calls == [torch.device("cuda:1")]
    start_processes("cuda"), start_processes("cpu")
    assert len(calls) == 1


def test_processes_wait_for_each_other_for_hours(monkeypatch):
    """NCCL by itself ends a launch whose processes are ten minutes apart."""
    given = {}
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend, **more: given.update(more))
    monkeypatch.setattr(World, "same", lambda self, value: value)
    assert start_processes("cpu").size == 2 and given["timeout"].total_seconds() >= 3600


def test_auto_is_bfloat16_only_on_gpus_that_have_its_products(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert resolve_dtype("auto", torch.device("cuda")) == torch.float32
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    assert resolve_dtype("auto", torch.device("cuda")) == torch.bfloat16


@pytest.mark.parametrize(("name", "is_stated"), [("NVIDIA H100 80GB HBM3", True), ("NVIDIA H100 PCIe", False),
                                                 ("NVIDIA H100 NVL", False), ("NVIDIA A10", False)])  # fmt: skip
def test_the_peak_of_a_gpu_is_what_its_maker_states_of_it_or_measured(name, is_stated, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    monkeypatch.setattr(measuring, "matmul_flops", lambda device, dtype: 1.0)
    assert (measuring.stated_peak(torch.device("cuda"), torch.bfloat16) > 1) is is_stated


def test_weights_come_back_when_the_block_under_ema_fails():
    model = torch.nn.Linear(2, 2)
    ema, before = EMA(model), model.weight.detach().clone()
    ema.average["weight"].zero_()
    with pytest.raises(ZeroDivisionError), ema.applied():
        assert not model.weight.any()
        raise ZeroDivisionError
    assert torch.equal(model.weight, before)


def test_ema_is_kept_in_float32_beside_half_precision_weights_and_passes_buffers_through():
    model = torch.nn.BatchNorm1d(3).bfloat16()
    ema = EMA(model)
    ema.update()
    state = ema.state_dict()
    assert state["weight"].dtype == torch.float32 and "running_mean" in state and set(state) == set(model.state_dict())


def test_mixed_precision_is_off_for_float32():
    device = torch.device("cpu")
    for dtype in (torch.float32, torch.bfloat16):
        with autocast(device, dtype):
            assert torch.nn.functional.linear(torch.ones(2, 2), torch.ones(2, 2)).dtype == dtype
    assert resolve_dtype("auto", device) in (torch.float32, torch.bfloat16)
    assert resolve_dtype("float32", device) == torch.float32


def test_auto_is_bfloat16_only_where_the_cpu_has_its_products_and_nothing_forbids_them(monkeypatch):
    capability, supported, products = ["AVX512"], [True], [True]
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability[0])
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported[0])
    monkeypatch.setattr(processes, "_has_bfloat16_products", lambda: products[0])
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    cpu = torch.device("cpu")
    assert resolve_dtype("auto", cpu) == torch.bfloat16
    for box, value in ((capability, "AVX2"), (supported, False), (products, False)):
        before, box[0] = box[0], value
        assert resolve_dtype("auto", cpu) == torch.float32
        box[0] = before
    for isa, native in (("AVX512_CORE", False), ("avx512_core_vnni", False), ("AVX512_CORE_BF16", True), ("ALL", True)):
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", isa)
        assert processes.native_bfloat16() == native


def test_everything_seeded_draws_the_same_again():
    def draw():
        seed_everything(3)
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    assert draw() == draw()
    assert numpy_generator(1, "a").random() == numpy_generator(1, "a").random() != numpy_generator(1, "b").random()


def test_a_network_is_built_alike_and_leaves_the_generators_of_every_device_alone(monkeypatch):
    def build():
        return torch.nn.Linear(3, 3)

    torch.manual_seed(7)
    expected = build().weight
    of_gpus = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", of_gpus.append)
    state = torch.get_rng_state()
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(seeded(build, 7).weight, expected)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.get_rng_state(), state) and of_gpus == []


def test_the_log_is_cut_back_to_the_checkpoint_on_resume(tmp_path):
    log = MetricsLog(tmp_path)
    for step in range(1, 6):
        log.write(step, {"loss": 1.0 / step if step != 2 else math.nan})
    log.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "lo')  # a kill in the middle of a line
    MetricsLog(tmp_path, resume_step=3).close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3] and lines[1]["loss"] is None


def test_a_log_is_brought_to_the_disk(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_ino))
    log = MetricsLog(tmp_path)
    log.write(1, {"loss": 0.5})
    file = (tmp_path / "metrics.jsonl").stat().st_ino
    assert file not in synced
    log.sync()
    assert synced[-1] == file
    log.close()


def test_where_fsync_ends_at_the_drives_memory_the_disk_itself_is_asked(tmp_path, monkeypatch):
    """As of macOS, whose own call other systems do not have."""
    asked = []
    monkeypatch.setattr("fcntl.F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr("fcntl.fcntl", lambda file, call: asked.append((os.fstat(file).st_ino, call)))
    with replacing(tmp_path / "a", "results") as partial:
        partial.write_text("whole")
    assert asked == [((tmp_path / "a").stat().st_ino, 51), (tmp_path.stat().st_ino, 51)]


@pytest.mark.parametrize(("system", "unit"), [("darwin", 1), ("linux", 1024)])
def test_the_peak_of_memory_is_in_gibibytes_whatever_the_system_counts_in(system, unit, monkeypatch):
    monkeypatch.setattr("sys.platform", system)
    monkeypatch.setattr("resource.getrusage", lambda who: SimpleNamespace(ru_maxrss=2**30 // unit))
    assert measuring.peak_memory_gib(torch.device("cpu")) == 1.0


def test_windows_is_refused_in_one_line():
    done = subprocess.run(
        [sys.executable, "-c", "import os; os.name = 'nt'; import runtime"], check=False, capture_output=True, text=True
    )
    assert (
        done.returncode == 1
        and done.stderr.startswith("error: this needs Linux or macOS")
        and "Trace" not in done.stderr
    )


def test_pictures_go_to_tensorboard_as_stills_or_playing_and_not_into_the_numbers(tmp_path):
    pytest.importorskip("tensorboard")
    from PIL import Image
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    frames = np.random.default_rng(0).integers(0, 255, (3, 8, 12, 3)).astype(np.uint8)
    log = MetricsLog(tmp_path)
    log.write(1, {"loss": 0.5})
    log.write_pictures(2, {"still": frames[:1], "playing": frames})
    log.close()
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    found = {name: events.Images(name) for name in events.Tags()["images"]}
    assert found.keys() == {"still", "playing"} and all(each[0].step == 2 for each in found.values())
    still, playing = (Image.open(io.BytesIO(found[name][0].encoded_image_string)) for name in ("still", "playing"))
    assert np.array_equal(np.asarray(still), frames[0]) and still.format == "PNG"
    assert (playing.format, playing.n_frames, playing.size) == ("GIF", 3, (12, 8))


def test_progress_prints_step_values_waiting_and_time_left(capsys):
    progress = Progress(10, label="job")
    with progress.wait():
        pass
    progress.update(10, {"loss": 0.5, "stage": "video"})
    progress.close()
    line = capsys.readouterr().err
    assert "job 10/10" in line and "loss 0.5 stage video" in line and "data wait" in line and "left 0:00:00" in line


def test_a_log_is_opened_once_and_closed(tmp_path, monkeypatch):
    from runtime import log

    opened = []
    monkeypatch.setattr(log, "open_end", lambda path, genuine=log.open_end: opened.append(genuine(path)) or opened[-1])
    metrics = MetricsLog(tmp_path)
    for step in (1, 2, 3):
        metrics.write(step, {"loss": 1.0})
    assert len(opened) == 1 and len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3
    metrics.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened[0])


def test_speed_waiting_memory_and_mfu_are_of_the_last_hundred_steps(monkeypatch):
    from runtime import log

    clock = [0.0]
    monkeypatch.setattr(log.time, "monotonic", lambda: clock[0])
    progress = Progress(1000, start=50, flops=2e12, peak=8e12)
    assert [progress.measured(step, 3.5) for step in (51, 99, 101)] == [{}] * 3
    for step, seconds, waited in ((100, 25.0, 5.0), (200, 100.0, 1.0)):
        with progress.wait():
            clock[0] += waited
        clock[0] += seconds - waited
        speed = (50 if step == 100 else 100) / seconds
        expected = {"steps_per_second": speed, "data_wait": waited / seconds, "peak_memory_gib": 3.5}
        assert progress.measured(step, 3.5) == expected | {"tflops": 2 * speed, "mfu": 2 * speed / 8}
    assert set(expected) | {"tflops", "mfu"} == set(log.MEASURED)
    assert "mfu" not in Progress(10, flops=1.0).measured(100, 1.0) and "tflops" not in Progress(10).measured(100, 1.0)


# -- files -------------------------------------------------------------------------------------------------------------


def test_two_machines_that_write_one_name_leave_each_others_unfinished_file_alone(tmp_path, monkeypatch):
    path, gone = tmp_path / "tables.md", 2**22 + 1  # no process here can have that number
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(socket, "gethostname", lambda: "elsewhere")
        elsewhere.setattr(os, "getpid", lambda: gone)
        theirs = replacing(path, "report")
        theirs.__enter__().write_text("theirs")
    with monkeypatch.context() as killed:
        killed.setattr(os, "getpid", lambda: gone)
        left = replacing(path, "report")
        left.__enter__().write_text("left behind")
    with replacing(path, "report") as partial:
        partial.write_text("ours")
    assert path.read_text() == "ours" and len(list(tmp_path.iterdir())) == 2  # what was left behind here is gone
    theirs.__exit__(None, None, None)
    assert path.read_text() == "theirs"
    with pytest.raises(FileNotFoundError):
        left.__exit__(None, None, None)

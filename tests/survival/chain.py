"""The whole chain at its tiniest, run by child processes that can be killed, and what of a folder must be equal.

Children are forked from a server that has imported torch once, so that a run costs a fraction of a second. Used by the
tests of this folder and by `soak.py`.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import runpy
import shlex
import shutil
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

import crashes

from runtime.log import MEASURED

ROOT = Path(__file__).parents[2]
# Seconds after which a process hangs, on a machine that is slow and busy with other things too.
PATIENCE = 600.0
HEAVY = ("torch", "torch.distributed.fsdp", "torchdiffeq", "timm", "scipy.stats", "h5py", "decord",
         "torch.utils.tensorboard", "tokenizer.stages", "generator.loading", "generator.batches", "eval.clip_sets",
         "eval.page.clips", "eval.page.document", "eval.page.figures",
         "diffusers.models.autoencoders.autoencoder_kl_wan")  # fmt: skip

# Each command sees what the ones before it left. The sampling that is there twice lets a finished file grow.
CHAIN = {
    "tokenizer": "tokenizer.train --name vae --steps 6 --batch-size 4 --images-per-clip 1 --save-every 2 "
    "--validate-every 3 --validation-clips 2 --warmup 1",
    "encode": "tokenizer.encode --tokenizer runs/vae --max-clips 26 --batch-size 4 --out latents.h5",
    "export": "tokenizer.export --run runs/vae --out exported",
    "generator": "generator.train --latents latents.h5 --preset demo --name gen --steps 6 --batch-size 4 "
    "--save-every 1 --keep-every 3",
    "sample": "generator.sample --run runs/gen --samples 4 --steps 2 --batch-size 4",
    "grow": "generator.sample --run runs/gen --samples 8 --steps 2 --batch-size 4",
    "reconstruction": "eval.reconstruction --tokenizer runs/vae --samples 6 --features shapes",
    "fvd": "eval.fvd --run runs/gen --samples 6 --steps 2 --batch-size 4 --guidance-scales 1,2",
    "convergence": "eval.convergence --runs runs/gen --samples 6 --steps 2 --batch-size 4",
    "decode": "eval.decode --run runs/gen --count 2 --steps 2 --out clips",
    "report": "eval.report --run runs/gen --clips 2 --steps 2 --no-shipped --out report.html",
}  # fmt: skip


def points(name: str) -> list[str]:
    """The fault points of a file that is replaced whole."""
    return [f"{name}.{moment}" for moment in ("begin", "written", "renamed")]


# Which command passes which fault point, the how manyth time it is visited.
VISITS = {
    "tokenizer": [*points("manifest"), "manifest.written:2", "log.append:2", "log.append:5", "checkpoint.begin",
                  "checkpoint.tensors", "checkpoint.tensors:2", "checkpoint.written", "checkpoint.replace",
                  "checkpoint.renamed", "checkpoint.begin:3", "checkpoint.renamed:3"],
    "encode": ["latents.draft", "latents.created", "latents.row", "latents.row:9", "latents.synced", "latents.marked",
               "latents.statistics", "latents.finished", *points("statistics")],
    "export": [*points("weights"), "weights.begin:2"],
    "generator": [*points("manifest"), "log.append:3", "checkpoint.written:2", "checkpoint.renamed:3",
                  "checkpoint.prune"],
    "sample": ["latents.draft", "latents.row:3", "latents.synced", "latents.marked", "latents.finished"],
    "grow": ["latents.created", "samples.copied", "latents.row:5", "latents.marked:2", "latents.finished",
             "samples.grown"],
    "reconstruction": ["features.begin", "features.batch", "features.renamed", *points("results")],
    "fvd": [*points("features"), "features.batch", "features.batch:5", *points("results"), "latents.row:7"],
    "convergence": ["features.begin", "latents.synced", *points("results")],
    "decode": [*points("video"), "video.written:2"],
    "report": points("report"),
}  # fmt: skip
# Where a plan of the commands above, `eval.compare` or `eval.ablation`, is killed; see test_compare.
PLAN_VISITS = [*points("stage"), "results.written", *points("report")]
# What tells when, where and how, but not what.
VOLATILE = {
    "created",
    "seconds",
    "started",
    "ended",
    "time",
    "command",
    "sessions",
    "git_commit",
    "machine",
    "versions",
    *MEASURED,
    "in_one_go",
}
IGNORED_FOLDERS = {"tensorboard", "logs", "locks"}


def shrink_presets() -> None:
    """Models so small that a step takes milliseconds; for the length of the process."""
    from dataclasses import replace

    import generator.presets as generator_presets
    import tokenizer.presets as tokenizer_presets
    from generator.config import LatteConfig
    from runtime import log
    from tokenizer import stages
    from tokenizer.discriminator import DiscriminatorConfig
    from tokenizer.pvvae import PVVAEConfig

    tiny = PVVAEConfig(latent_channels=4, channels=(8, 8, 8), blocks=1, middle_blocks=1, patch=4, norm="layer")
    # The bounds of the tests are those of AdamW at this rate and of these losses; what is about Muon asks for it.
    published = {"optimizer": "adamw", "learning_rate": 1e-3}
    demo, each = tokenizer_presets.PRESETS["demo"], {"images": 1, "video": 1, "decoder": 1}
    tokenizer_presets.PRESETS["demo"] = replace(
        demo, model=tiny, stage_steps=each, training={**demo.training, **published, "spatial_weight": 0.0}
    )
    stages.DiscriminatorConfig = lambda layers: DiscriminatorConfig(channels=4, layers=layers)
    log._encoded = lambda frames: b""  # pictures take longer than the training
    demo, latte = generator_presets.PRESETS["demo"], LatteConfig(hidden_size=16, depth=2, num_heads=2)
    constant = {"schedule": "constant", "warmup": 100}
    generator_presets.PRESETS["demo"] = replace(demo, model=latte, training={**demo.training, **published, **constant})


PLANNERS = ("eval.compare", "eval.ablation")  # commands that start others


def command_of(line: str) -> str:
    """The command of a line."""
    return line.partition(" ")[0]


def _child(line: str, folder: str, environment: dict[str, str], log: str) -> None:
    os.chdir(folder)
    os.environ.update(environment)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    import torch

    torch.set_num_threads(1)
    shrink_presets()
    if command_of(line) in PLANNERS:
        sys.path.insert(0, folder)
        fork_stages()
    crashes.install()
    command, *words = shlex.split(line)
    sys.argv = [command, *words]
    if command.endswith(".py"):
        runpy.run_path(command, run_name="__main__")
    else:
        runpy.run_module(command, run_name="__main__", alter_sys=True)


class Forked:
    """What `subprocess.Popen` is to a stage of a plan, forked from a process that has imported everything already."""

    def __init__(self, argv: tuple[str, ...], log, environment: dict[str, str]):
        self.returncode = None
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                os.setpgid(0, 0)
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
                os.environ.update(environment)
                crashes.install()
                sys.argv = [*argv]
                runpy.run_module(argv[0], run_name="__main__", alter_sys=True)
            except SystemExit as end:
                code = end.code or 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)

    def poll(self) -> int | None:
        if self.returncode is None:
            found, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if found else None
        return self.returncode

    def wait(self) -> None:
        while self.poll() is None:
            time.sleep(0.01)

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def fork_stages() -> None:
    """Let plans fork their commands, for the length of the process. `STAGE_FAULTS` says what befalls which of them, as
    "stage=point", by commas."""
    from eval.arms import engine

    faults_of = dict(word.split("=") for word in os.environ.get("STAGE_FAULTS", "").split(",") if word)

    def start(stage, log, lock, processes=1) -> Forked:
        return Forked(stage.argv, log, {"PVVAE_FAULT": faults_of.get(stage.name, "")})

    engine.start, engine.POLL, engine.WAIT = start, 0.02, 0.1


class Launcher:
    """Starts commands as processes of their own, quickly."""

    def __init__(self):
        # The server inherits this: threads that were started before a fork would be missing after it.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([*HEAVY, __name__])

    def start(self, line: str, folder: Path, *, fault: str = "", processes: int = 1, more: dict | None = None) -> list:
        """Start a command; returns its processes, one or (as torchrun would) several."""
        log = folder / "log.txt"
        common = {crashes.VARIABLE: fault, "CUDA_VISIBLE_DEVICES": "", **(more or {})}
        if processes > 1:
            with socket.socket() as free:
                free.bind(("localhost", 0))
                port = free.getsockname()[1]
            common |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
        started = []
        for rank in range(processes):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(processes)}
            environment = common | (own if processes > 1 else {})
            process = self._context.Process(target=_child, args=(line, str(folder), environment, str(log)))
            process.start()
            started.append(process)
        return started

    def call(self, function, *arguments):
        """Run a function of an importable module in a process of its own; returns the process."""
        process = self._context.Process(target=function, args=arguments)
        process.start()
        return process

    def run(self, line: str, folder: Path, **how) -> int:
        """Run a command to its end; returns the exit status of its first process (-9: killed)."""
        processes = self.start(line, folder, **how)
        for process in processes:
            process.join(PATIENCE)
            if process.is_alive():
                process.kill()
                process.join()
                raise TimeoutError(f"{line} hung; see {folder / 'log.txt'}")
        return processes[0].exitcode


def wait_for(condition, seconds: float = PATIENCE) -> None:
    """Wait until `condition()` is true."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError("waited in vain")
        time.sleep(0.002)


def kill(processes: list, number: int = signal.SIGKILL) -> None:
    """Send a signal to live processes and wait for their end."""
    for process in processes:
        if process.is_alive():
            os.kill(process.pid, number)
    for process in processes:
        process.join(PATIENCE)


def undisturbed(launcher: Launcher, place: Path) -> dict[str, Path]:
    """Run the chain in peace; folders below `place`: "" is empty, the others are as they were after that command."""
    work = place / "work"
    work.mkdir(parents=True)
    found = {"": place / "start"}
    shutil.copytree(work, found[""])
    for name, line in CHAIN.items():
        if launcher.run(line, work) != 0:
            raise RuntimeError(f"{line} failed: {(work / 'log.txt').read_text()[-2000:]}")
        found[name] = place / name
        shutil.copytree(work, found[name])
    return found


def before(name: str) -> str:
    """The command of the chain before `name`; "" before the first."""
    names = ["", *CHAIN]
    return names[names.index(name) - 1]


def content(folder: Path) -> dict[str, str]:
    """What must be equal between an undisturbed and a disturbed run: digest by path, without times and places.

    Leftovers of a kill (hidden or partial names) and locks are no content.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not path.is_file() or hidden or name == "log.txt" or IGNORED_FOLDERS & set(path.parts):
            continue
        found[name] = _digest(path)
    return found


def leftovers(folder: Path) -> list[str]:
    """Files that no finished command should leave behind."""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return [name for name in names if "partial" in name or ".new" in name or "growing" in name or ".removed" in name]


def assert_sound(folder: Path) -> None:
    """Whatever has its final name can be read."""
    from safetensors.torch import load_file

    from eval.features.store import load_feature_set
    from latents_cache import open_latents
    from runtime.checkpoint import list_checkpoints, load_checkpoint
    from videos import read_video

    for path in folder.rglob("*"):
        if not path.is_file() or any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        if path.name.startswith("set-"):
            load_feature_set(path)
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".h5" and path.name.startswith("segment-"):
            load_feature_set(path)
        elif path.suffix == ".h5" and "growing" not in path.name:
            with open_latents(path) as reader:
                assert reader.damaged_rows() == [], path
        elif path.suffix == ".html":
            assert path.read_text().rstrip().endswith("</html>"), path
        elif path.suffix == ".mp4":
            assert len(read_video(path)) == 17, path
        elif path.suffix == ".safetensors":
            load_file(path)
    for run in folder.glob("runs/*"):
        found = list_checkpoints(run)
        for number, (_, checkpoint) in enumerate(found):
            load_checkpoint(checkpoint, optimizer=number >= len(found) - 2)  # the newest two can be gone on from


def _digest(path: Path) -> str:
    if path.suffix == ".json":
        return _hash(json.dumps(_timeless(json.loads(path.read_text())), sort_keys=True).encode())
    if path.name == "metrics.jsonl":
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        return _hash(json.dumps([_timeless(line) for line in lines]).encode())
    if path.name == "parts.jsonl":
        return "times only"
    if path.suffix == ".html":
        return "whole" if path.read_text().rstrip().endswith("</html>") else "cut"
    return _hash(path.read_bytes())


def _timeless(value: object) -> object:
    if isinstance(value, dict):
        return {name: _timeless(each) for name, each in value.items() if name not in VOLATILE}
    return [_timeless(each) for each in value] if isinstance(value, list) else value


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]

"""Kill, fill the disk or break it at every place where something becomes durable: nothing is lost, nothing differs."""

import json

import chain
import pytest
from safetensors.torch import load_file

from eval.feature_store import load_feature_set
from latents_cache import open_latents
from runtime.checkpoint import list_checkpoints, load_checkpoint
from runtime.faults import ACTIONS, POINTS
from videos import read_video

FILE = ("begin", "written", "renamed")


def points(name: str) -> list[str]:
    return [f"{name}.{moment}" for moment in FILE]


# Which command of the chain passes which point, the how manyth time it is visited.
VISITS = {
    "tokenizer": [*points("manifest"), "manifest.written:2", "log.append:2", "log.append:5", "checkpoint.begin",
                  "checkpoint.tensors", "checkpoint.tensors:2", "checkpoint.written", "checkpoint.replace",
                  "checkpoint.renamed", "checkpoint.begin:3", "checkpoint.renamed:3"],
    "encode": ["latents.draft", "latents.created", "latents.row", "latents.row:9", "latents.synced", "latents.marked",
               "latents.statistics", "latents.finished", *points("statistics")],
    "generator": [*points("manifest"), "log.append:3", "checkpoint.written:2", "checkpoint.renamed:3",
                  "checkpoint.prune"],
    "sample": ["latents.draft", "latents.row:3", "latents.synced", "latents.marked", "latents.finished"],
    "grow": ["latents.created", "samples.copied", "latents.row:5", "latents.marked:2", "latents.finished",
             "samples.grown"],
    "reconstruction": points("results"),
    "fvd": [*points("features"), "features.batch", "features.batch:5", *points("results"), "latents.row:7"],
    "convergence": ["features.begin", "latents.synced", *points("results")],
    "decode": [*points("video"), "video.written:2"],
    "report": points("report"),
}  # fmt: skip
CASES = [(name, point) for name, visited in VISITS.items() for point in visited]


def full(point: str, action: str) -> str:
    return f"{point if ':' in point else point + ':1'}:{action}"


def assert_sound(folder) -> None:
    """Whatever has its final name can be read."""
    for path in folder.rglob("*"):
        if not path.is_file() or any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".h5" and path.parent.name == "features":
            load_feature_set(path)
        elif path.suffix == ".h5" and "growing" not in path.name:
            with open_latents(path) as reader:
                assert reader.damaged_rows() == []
        elif path.suffix == ".html":
            assert path.read_text().rstrip().endswith("</html>")
        elif path.suffix == ".mp4":
            assert len(read_video(path)) == 17
        elif path.suffix == ".safetensors":
            load_file(path)
    for run in folder.glob("runs/*"):
        for _, checkpoint in list_checkpoints(run):
            load_checkpoint(checkpoint, optimizer=True)


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize(("name", "point"), CASES, ids=[f"{name}-{point}" for name, point in CASES])
def test_the_same_command_again_gives_the_same_result(name, point, action, begin, launcher, snapshots):
    folder = begin(name)
    status = launcher.run(chain.CHAIN[name], folder, fault=full(point, action))
    said = (folder / "log.txt").read_text()
    if action == "KILL":
        assert status == -9, f"{name} never reached {point}"
    else:
        assert status in (1, 2), f"{name} never reached {point}"
        assert "Traceback" not in said and said.count("error: ") == 1
    assert_sound(folder)
    assert launcher.run(chain.CHAIN[name], folder) == 0, (folder / "log.txt").read_text()[-2000:]
    assert chain.content(folder) == chain.content(snapshots[name])
    assert chain.leftovers(folder) == []


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("moment", FILE)
def test_a_log_that_is_being_cut_back_survives_too(moment, action, begin, launcher, snapshots):
    folder = begin("tokenizer")
    assert launcher.run(chain.CHAIN["tokenizer"], folder, fault="log.append:5") == -9
    assert launcher.run(chain.CHAIN["tokenizer"], folder, fault=f"log.cut.{moment}:1:{action}") != 0
    assert launcher.run(chain.CHAIN["tokenizer"], folder) == 0
    assert chain.content(folder) == chain.content(snapshots["tokenizer"])


def test_every_fault_point_is_visited():
    visited = {point.split(":")[0] for _, point in CASES} | {f"log.cut.{moment}" for moment in FILE}
    assert visited == set(POINTS)

"""Kill, fill the disk or break it at every place where something becomes durable: nothing is lost, nothing differs."""

import chain
import pytest
from crashes import ERRORS, POINTS

PLACES = [(name, point) for name, visited in chain.VISITS.items() for point in visited]
# Which number a failing disk gives matters to nobody but those who say what is wrong, and to the library in between.
OTHER_NUMBERS = {
    "EIO": ("checkpoint.written", "latents.created", "latents.row", "features.written", "video.written"),
    "EDQUOT": ("log.append:2", "latents.draft", "results.written"),
}
CASES = [(name, point, action) for name, point in PLACES for action in ("KILL", "ENOSPC")]
CASES += [(name, point, action) for name, point in PLACES for action, those in OTHER_NUMBERS.items() if point in those]


def full(point: str, action: str) -> str:
    return f"{point if ':' in point else point + ':1'}:{action}"


@pytest.mark.parametrize(("name", "point", "action"), CASES, ids=["-".join(case) for case in CASES])
def test_the_same_command_again_gives_the_same_result(name, point, action, begin, launcher, snapshots):
    folder = begin(name)
    status = launcher.run(chain.CHAIN[name], folder, fault=full(point, action))
    said = (folder / "log.txt").read_text()
    if action == "KILL":
        assert status == -9, f"{name} never reached {point}"
    else:
        assert status in (1, 2), f"{name} never reached {point}"
        assert "Traceback" not in said and said.count("error: ") == 1
    chain.assert_sound(folder)
    assert launcher.run(chain.CHAIN[name], folder) == 0, (folder / "log.txt").read_text()[-2000:]
    assert chain.content(folder) == chain.content(snapshots[name])
    assert chain.leftovers(folder) == []


@pytest.mark.parametrize("action", ["KILL", "ENOSPC"])
@pytest.mark.parametrize("moment", ["begin", "written", "renamed"])
def test_a_log_that_is_being_cut_back_survives_too(moment, action, begin, launcher, snapshots):
    folder = begin("tokenizer")
    assert launcher.run(chain.CHAIN["tokenizer"], folder, fault="log.append:5") == -9
    assert launcher.run(chain.CHAIN["tokenizer"], folder, fault=f"log.cut.{moment}:1:{action}") != 0
    assert launcher.run(chain.CHAIN["tokenizer"], folder) == 0
    assert chain.content(folder) == chain.content(snapshots["tokenizer"])


def test_every_fault_point_is_visited():
    visited = {point.split(":")[0] for point in [*(point for _, point in PLACES), *chain.PLAN_VISITS]}
    visited |= set(chain.points("log.cut"))
    assert visited == set(POINTS) and {action for *_, action in CASES} == {"KILL", *ERRORS}

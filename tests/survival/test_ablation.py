"""`eval.ablation` with the smallest study: killed, shared by two processes, and the same files in the end."""

import json
import re
import shutil

import chain
import h5py
import pytest
from pages import assert_readable

STUDY = chain.ROOT / "studies" / "smoke.toml"
LINE = f"eval.ablation --plan {STUDY} --seeds 0 --device cpu --dtype float32"
ARMS = ["A", "C", "D", "C-longer", "gaussian"]
FAULTS = (
    "images-moving_shapes-s0=checkpoint.written",
    "video-A-s0=log.append:2",
    "video-gaussian-s0=checkpoint.renamed",
    "decoder-D-s0=checkpoint.tensors",
    "encode-C-s0=latents.row:9",
    "generator-A-s0=log.append",
)


def said(folder) -> str:
    """What the commands printed last."""
    logs = [folder / "log.txt", *folder.glob("runs/smoke/logs/*.log")]
    return "\n".join(f"{log.name}: {log.read_text()[-1500:]}" for log in logs)


@pytest.fixture(scope="module")
def undisturbed(launcher, tmp_path_factory):
    """A folder after the study in peace."""
    folder = tmp_path_factory.mktemp("ablation")
    assert launcher.run(LINE, folder) == 0, said(folder)
    return folder


def test_killed_and_shared_by_two_processes_it_ends_with_the_same_files(undisturbed, launcher, tmp_path):
    assert launcher.run(LINE, tmp_path, more={"STAGE_FAULTS": FAULTS[0]}) == 1  # nothing can go on without pictures
    assert launcher.run(LINE, tmp_path, fault="stage.written") == -9
    started = launcher.start(LINE, tmp_path, more={"STAGE_FAULTS": ",".join(FAULTS)})
    started += launcher.start(LINE, tmp_path)
    for process in started:
        process.join(chain.PATIENCE)
    # What was killed in the one, the other takes up.
    assert started[0].exitcode in (0, 1) and started[1].exitcode == 0, said(tmp_path)
    assert launcher.run(LINE, tmp_path) == 0, said(tmp_path)
    assert "Traceback" not in (tmp_path / "log.txt").read_text()
    chain.assert_sound(tmp_path)
    assert chain.content(tmp_path) == chain.content(undisturbed)


def test_arms_share_the_pictures_of_a_seed_and_what_they_have_of_another_arm(undisturbed):
    runs = {path.parent.name for path in undisturbed.glob("runs/*/manifest.json")}
    arms = [f"smoke-{arm}-s0" for arm in ("A", "C", "gaussian")]
    expected = {f"{arm}-{kind}" for arm in arms for kind in ("video", "generator")}
    assert runs == expected | {"smoke-moving_shapes-s0-images", "smoke-D-s0-decoder", "smoke-C-longer-s0-generator"}
    lengths = {path.name for path in undisturbed.glob("runs/smoke-C-longer-s0-generator/checkpoints/step_*")}
    assert max(lengths) == "step_00000003"
    facts = {arm: json.loads((undisturbed / f"runs/smoke/results/fvd-{arm}-s0.json").read_text()) for arm in "CD"}
    assert facts["C"]["encoder_hash"] == facts["D"]["encoder_hash"]
    assert facts["C"]["decoder_hash"] != facts["D"]["decoder_hash"]


def test_tables_have_the_papers_lines_and_ours_and_say_what_does_not_count(undisturbed):
    tables = {
        table["name"]: table for table in json.loads((undisturbed / "runs/smoke/tables.json").read_text())["tables"]
    }
    assert {"measured", "differences", "components", "dropping", "padding", "padding-here"} <= tables.keys()
    assert [line["name"] for line in tables["measured"]["lines"]] == ARMS
    assert [line["name"] for line in tables["differences"]["lines"]] == ARMS[1:]
    lines = {line["name"]: line for line in tables["padding"]["lines"]}
    assert lines["gaussian"]["cells"]["UCF101 FVD"]["value"] == 150.68
    assert lines["gaussian: gaussian"]["cells"] == {}  # FD-shapes is no FVD
    here = {line["name"]: line for line in tables["padding-here"]["lines"]}
    assert here["gaussian: gaussian"]["cells"]["FD-shapes"]["n"] == 4
    notes = " ".join(here["gaussian: gaussian"]["notes"])
    assert "1 of 2 seeds" in notes and "one seed: the interval covers clips alone" in notes
    assert "does not count: change explained of reconstructions is" in notes
    page = (undisturbed / "runs/smoke/study.html").read_text()
    assert "<svg" in page and "gaussian: C with a Gaussian padding" in page
    rows = re.findall(r"<tr><th scope=row>(.*?)</th>(.*?)</tr>", page)
    shown = [(name, clips) for name, clips in rows if "<img" in clips]
    assert [name for name, _ in shown] == ["the clip itself", *ARMS, *ARMS]
    assert all(clips.count("<img") == 4 for _, clips in shown)
    # Two arms have one generator and another decoder, two one decoder and another generator.
    assert len({tuple(re.findall('src="([^"]+)"', clips)) for _, clips in shown}) == 10


def test_the_page_of_a_study_can_be_read(undisturbed, browser):
    assert_readable(browser, undisturbed / "runs/smoke/study.html")


def test_tables_and_page_are_there_at_any_time(undisturbed, launcher, tmp_path):
    """Of nothing, of a part, and of all of it; nothing is run for them."""
    assert launcher.run(f"{LINE} --tables-only", tmp_path) == 0, said(tmp_path)
    assert "; 0 of " in (tmp_path / "runs/smoke/study.html").read_text()
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["smoke"]
    shutil.copytree(undisturbed, tmp_path / "part")
    (tmp_path / "part/runs/smoke/results/fvd-C-s0.json").unlink()
    (samples,) = (tmp_path / "part").glob("runs/smoke-A-s0-generator/samples/step_00000002_*.h5")
    with h5py.File(samples, "a") as file:  # as where the page is made on a machine of another compute type
        file.attrs["dtype"] = "torch.bfloat16"
    for folder in (tmp_path / "part", shutil.copytree(undisturbed, tmp_path / "whole")):
        (folder / "log.txt").write_text("")
        (folder / "runs/smoke/tables.md").unlink()
        assert launcher.run(f"{LINE} --tables-only", folder) == 0, said(folder)
        assert " done in " not in (folder / "log.txt").read_text()
    whole, before = ((folder / "runs/smoke/tables.md").read_text() for folder in (tmp_path / "whole", undisturbed))
    assert whole == before
    lines = json.loads((tmp_path / "part/runs/smoke/tables.json").read_text())["tables"]
    assert "Not shown: " in (tmp_path / "part/runs/smoke/study.html").read_text()
    cells = {line["name"]: line["cells"] for table in lines if table["name"] == "measured" for line in table["lines"]}
    assert "FD-shapes" in cells["A"] and "FD-shapes" not in cells["C"]


def test_a_changed_arm_is_refused_by_its_own_run_and_the_others_stay(undisturbed, launcher, tmp_path):
    folder = shutil.copytree(undisturbed, tmp_path / "work")
    (folder / "log.txt").write_text("")
    changed = STUDY.read_text().replace('video = { padding = "gaussian" }', 'video = { padding = "conditional" }')
    (folder / "smoke.toml").write_text(changed)
    assert launcher.run(LINE.replace(str(STUDY), "smoke.toml"), folder) == 1
    log = (folder / "log.txt").read_text()
    assert "arm gaussian, seed 0 ended early: video-gaussian-s0" in log and "was made with other settings" in log
    assert " done in " not in log


def test_arms_whose_pictures_were_trained_anew_are_not_silently_stale(undisturbed, launcher, tmp_path):
    folder = shutil.copytree(undisturbed, tmp_path / "work")
    (folder / "log.txt").write_text("")
    weights = max(folder.glob("runs/smoke-moving_shapes-s0-images/checkpoints/step_*/ema.safetensors"))
    weights.write_bytes(weights.read_bytes() + b" ")
    assert launcher.run(LINE, folder) == 1
    log = (folder / "log.txt").read_text()
    assert "video-A-s0 failed" in log and "began from other weights" in log and " done in " not in log
    shutil.rmtree(weights.parents[2])
    shutil.copytree(undisturbed / "runs" / weights.parents[2].name, weights.parents[2])
    assert launcher.run(LINE, folder) == 0

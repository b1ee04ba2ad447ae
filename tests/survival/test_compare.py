"""`eval.compare` from end to end at the smallest scale, killed at every stage and shared by two processes: every file
is the same, bit by bit."""

import json
import shutil
import textwrap

import chain
import pytest
from pages import assert_readable

from runtime.stopping import REQUEUE

LINE = (
    "eval.compare --tokenizers moving-shapes,wan=diffusers:wan,lean=mine:Lean --weights own,random,random --name cmp "
    "--max-clips 26 --encode-batch-size 13 --train-steps 4 --batch-size 4 --checkpoints 2 --samples 6 "
    "--curve-samples 4 --steps 2 --no-controls --reconstruction --clips 2 --device cpu --dtype float32"
)
MINE = """
    from tokenizer.baselines.base import BaselineTokenizer
    from tokenizer.baselines.registry import BASELINES


    class Lean(BaselineTokenizer):
        def __init__(self, weights=None):
            super().__init__(BASELINES["leanvae"], BASELINES["leanvae"].tiny())
"""
NAMES = ("moving-shapes", "wan (random weights)", "lean (random weights)")
OURS, WAN, LEAN = "moving-shapes", "wan-random-weights", "lean-random-weights"
# What happens at each start in turn: to commands, to the comparison itself, and its exit code. A killed command ends
# its arm alone; a killed comparison loses what it was about to note.
STARTS = (
    ({f"encode-{OURS}": "latents.row:9", f"reconstruction-{OURS}-32": "features.batch:1:TERM"}, "", REQUEUE),
    (
        {
            f"encode-{OURS}": "latents.marked",
            f"reconstruction-{OURS}-32": "features.renamed",
            f"encode-{WAN}": "latents.row:9",
            f"reconstruction-{WAN}-32": "features.begin",
            f"fvd-{LEAN}": "features.batch",
        },
        "",
        1,
    ),
    (
        {
            f"train-{OURS}": "log.append:3",
            f"train-{WAN}": "checkpoint.written",
            f"reconstruction-{WAN}-32": "results.begin",
            f"fvd-{LEAN}": "results.written",
            f"difference-reconstruction-{LEAN}-32": "results.renamed",
        },
        "",
        1,
    ),
    ({}, "stage.begin", -9),
    ({f"fvd-{OURS}": "features.batch", f"convergence-{WAN}": "latents.synced"}, "", 1),
    ({}, "stage.written", -9),
    ({f"convergence-{OURS}": "results.written", f"difference-fvd-{WAN}": "results.begin"}, "", 1),
    ({}, "stage.renamed", -9),
    ({}, "results.written", -9),
    *(({}, point, -9) for point in chain.points("report")),
)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A folder with an autoencoder of diffusers and a class of a port, both small."""
    pytest.importorskip("diffusers")
    from safetensors.torch import save_file

    from runtime.seeds import seeded
    from tokenizer.baselines.registry import BASELINES

    folder = tmp_path_factory.mktemp("compare") / "begun"
    (folder / "wan").mkdir(parents=True)
    network = seeded(BASELINES["wan2.1"].tiny)
    config = {**network.config, "_class_name": type(network).__name__}
    (folder / "wan" / "config.json").write_text(json.dumps(config))
    tensors = {name: value.contiguous() for name, value in network.state_dict().items()}
    save_file(tensors, folder / "wan" / "diffusion_pytorch_model.safetensors")
    (folder / "mine.py").write_text(textwrap.dedent(MINE))
    return folder


@pytest.fixture(scope="module")
def undisturbed(begun, launcher):
    """The same after a comparison in peace, shared by two processes."""
    folder = shutil.copytree(begun, begun.with_name("undisturbed"))
    started = [*launcher.start(LINE, folder), *launcher.start(LINE, folder)]
    for process in started:
        process.join(chain.PATIENCE)
    assert [process.exitcode for process in started] == [0, 0], said(folder)
    return folder


def said(folder, name: str = "cmp") -> str:
    """What the commands printed last."""
    logs = [folder / "log.txt", *folder.glob(f"runs/{name}/logs/*.log")]
    return "\n".join(f"{log.name}: {log.read_text()[-1500:]}" for log in logs)


def test_killed_at_every_stage_it_ends_with_the_same_files(begun, undisturbed, launcher, tmp_path):
    folder = shutil.copytree(begun, tmp_path / "work")
    for faults, fault, code in STARTS:
        words = ",".join(f"{stage}={point}" for stage, point in faults.items())
        found = launcher.run(LINE, folder, fault=fault, more={"STAGE_FAULTS": words})
        assert found == code, f"{words} {fault}: {said(folder)}"
        chain.assert_sound(folder)
    assert launcher.run(LINE, folder) == 0, said(folder)
    assert chain.content(folder) == chain.content(undisturbed)
    assert chain.leftovers(folder) == []
    told = (folder / "log.txt").read_text()
    assert "Traceback" not in told
    assert "arm moving-shapes ended early: encode-moving-shapes: its process was ended by SIGKILL" in told
    assert "arm lean (random weights) ended early: it needs" in told  # the difference to the first


def test_two_processes_share_the_stages(undisturbed):
    records = [json.loads(path.read_text()) for path in (undisturbed / "runs/cmp/done").glob("*.json")]
    log = (undisturbed / "log.txt").read_text()
    assert log.count(" done in ") == len(records) == 19 and all(record["in_one_go"] for record in records)


def test_tables_have_a_line_for_every_tokenizer_and_say_what_is_random_or_was_not_run(undisturbed):
    tables = {
        table["name"]: table for table in json.loads((undisturbed / "runs/cmp/tables.json").read_text())["tables"]
    }
    assert [*tables] == ["measured", "differences", "learning", "generation", "reconstruction"]
    for name, expected in (("measured", NAMES), ("learning", NAMES), ("differences", NAMES[1:])):
        assert tuple(line["name"] for line in tables[name]["lines"]) == expected
    cells = {line["name"]: line["cells"] for line in tables["measured"]["lines"]}
    for label, latent in zip(NAMES, ("t4s8c12", "t4s8c16", "t4s8c16"), strict=True):
        assert cells[label]["latent"]["value"] == latent
        slug = label.replace(" (", "-").replace(" ", "-").rstrip(")")
        (file,) = undisturbed.glob(f"runs/cmp-{slug}/eval/fvd-*.json")
        found = {(row["metric"], row["subject"]): row["value"] for row in json.loads(file.read_text())["rows"]}
        assert cells[label]["FD-shapes"]["value"] == found["FD-shapes", "generated"]
        assert (
            cells[label]["FD-shapes"]["n"] == 6 and cells[label]["PSNR reconstructed, moving_shapes at 32"]["value"] > 0
        )
    generation = tables["generation"]["lines"]
    ours = [line for line in generation if line["origin"] == "measured here"]
    assert [line["name"] for line in ours] == [*NAMES] and len(generation) == 8 + 3
    assert all(set(line["cells"]) == {"latent"} for line in ours)  # no number is an FVD: these cells stay empty
    differences = {line["name"]: line for line in tables["differences"]["lines"]}
    wan = differences["wan (random weights)"]
    one, two = (cells[name]["PSNR reconstructed, moving_shapes at 32"]["value"] for name in (NAMES[1], NAMES[0]))
    assert wan["cells"]["PSNR reconstructed"]["value"] == pytest.approx(one - two)
    assert any("PSNR reconstructed: moving-shapes is better" in note for note in wan["notes"])
    page = (undisturbed / "runs/cmp/compare.html").read_text()
    assert (
        page.index("class=finding") < page.index('id="generated"') < page.index('id="measured-here-on-moving-shapes"')
    )
    assert page.count("<img") == 2 * (1 + 3) + 2 * 3 and page.count(NAMES[1]) > 5 and "<svg" in page


def test_the_page_of_a_comparison_can_be_read(undisturbed, browser):
    assert_readable(browser, undisturbed / "runs/cmp/compare.html")


def test_a_changed_flag_goes_on_from_what_is_done(undisturbed, launcher, tmp_path):
    folder = shutil.copytree(undisturbed, tmp_path / "work")
    (folder / "log.txt").write_text("")
    assert launcher.run(LINE.replace("--samples 6", "--samples 8"), folder) == 0, said(folder)
    log = (folder / "log.txt").read_text()
    # Judged, curves, reconstructions, and pairs of both; latents and generators stay.
    assert log.count(" done in ") == 3 + 3 + 3 + 4 and "; encode-" not in log and "; train-" not in log


@pytest.fixture(scope="module")
def cards(begun, launcher):
    """The same after a comparison by cards alone."""
    folder = shutil.copytree(begun, begun.with_name("cards"))
    line = "eval.compare --card --tokenizers moving-shapes,lean=mine:Lean --weights own,random --samples 6 --name cards"
    assert launcher.run(f"{line} --device cpu --dtype float32", folder) == 0, said(folder, "cards")
    return folder


def test_cards_alone_stand_side_by_side_and_need_no_generator(cards):
    folder = cards
    (table,) = json.loads((folder / "runs/cards/tables.json").read_text())["tables"]
    assert table["columns"] == ["moving-shapes", "lean (random weights)"]
    cells = {line["name"]: line["cells"] for line in table["lines"]}
    assert set(cells["PSNR, reconstructed ↑"]) == set(table["columns"])
    page = (folder / "runs/cards/compare.html").read_text()
    assert 'href="cards/moving-shapes.html"' in page and (folder / "runs/cards/cards/moving-shapes.html").is_file()
    assert not list(folder.glob("runs/*/checkpoints"))


def test_the_page_of_cards_side_by_side_can_be_read(cards, browser):
    assert_readable(browser, cards / "runs/cards/compare.html")
    first = browser.run("document.querySelector('.lead a').href")
    assert first == (cards / "runs/cards/cards/moving-shapes.html").as_uri()

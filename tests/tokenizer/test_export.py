"""A run's folder to pass on: weights bit for bit, a card with the numbers of exactly these weights, and refusals."""

import dataclasses
import json
import shutil

import huggingface_hub
import pytest
import torch

from eval.results.rows import Row, write_results
from runtime.command import parse
from runtime.errors import InputError
from runtime.records import write_json
from runtime.run import file_sha256
from tokenizer import PVVAE, PVVAEConfig, load, presets
from tokenizer.export import ExportConfig, export
from tokenizer.train import TrainConfig, preset_defaults, train

TINY = PVVAEConfig(latent_channels=4, channels=(8, 8, 8), blocks=1, middle_blocks=1, patch=4, norm="layer")
STEPS = 12
FILES = ["README.md", "config.json", "model.safetensors", "video/config.json", "video/model.safetensors"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run of all three stages."""
    folder = tmp_path_factory.mktemp("runs")
    words = f"--device cpu --dtype float32 --images-per-clip 1 --batch-size 1 --validation-clips 2 --steps {STEPS}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(presets.PRESETS, "demo", dataclasses.replace(presets.PRESETS["demo"], model=TINY))
        return train(parse(["--runs-dir", str(folder), "--name", "mine", *words.split()], TrainConfig, preset_defaults))


@pytest.fixture
def run(trained, tmp_path):
    """A copy of it, to change."""
    return shutil.copytree(trained, tmp_path / "runs" / "mine")


def export_with(run, out, **flags):
    return export(ExportConfig(run=str(run), out=str(out), **flags))


def names_in(folder) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def bits(vae) -> list[bytes]:
    return [value.detach().numpy().tobytes() for value in vae.state_dict().values()]


def write_evaluation(run, name: str, vae, value: float, **facts) -> None:
    rows = [
        Row(metric="PSNR", subject="reconstructed", value=value, low=value - 1, high=value + 1, n=7),
        Row(metric="LPIPS (alex)", subject="reconstructed", value=None, note="not measured: no | weights"),
    ]
    hashes = {"encoder_hash": vae.encoder_hash, "decoder_hash": vae.decoder_hash, "data": "moving_shapes"}
    write_results(run / "eval" / name, kind="reconstruction", rows=rows, **{**hashes, "split": "test", **facts})


def test_the_folder_holds_the_last_weights_and_those_of_the_video_stage(run, tmp_path):
    out = export_with(run, tmp_path / "new" / "out")
    assert names_in(out) == FILES
    last, video = load(run), load(run, stage="video")
    assert bits(PVVAE.from_pretrained(out)) == bits(last) == bits(load(out))
    assert bits(PVVAE.from_pretrained(out, subfolder="video")) == bits(video) == bits(load(out, stage="video"))
    assert bits(last) != bits(video)


def test_a_run_of_the_video_stage_alone_keeps_its_weights_for_prediction_and_one_without_it_has_none(run, tmp_path):
    last = max((run / "checkpoints").iterdir())
    for path in (run / "checkpoints").iterdir():
        if path != last:
            shutil.rmtree(path)
    out = export_with(run, tmp_path / "without")
    assert names_in(out) == FILES[:3]
    with pytest.raises(InputError, match="no weights of the video stage"):
        load(out, stage="video")
    state = json.loads((last / "state.json").read_text())
    write_json(last / "state.json", {**state, "stage": "video", "stage_end": "video"})
    assert bits(load(export_with(run, tmp_path / "with"), stage="video")) == bits(load(run))


def test_the_card_tells_training_and_files(run, tmp_path):
    out = export_with(run, tmp_path / "out", license="cc-by-4.0")
    card, manifest = (out / "README.md").read_text(), json.loads((run / "manifest.json").read_text())
    assert card.startswith("---\nlicense: cc-by-4.0\n") and "\n# mine\n" in card
    identity = manifest["identity"]
    assert f"optimizer {identity['optimizer']}" in card and f"spatial_weight {identity['spatial_weight']}" in card
    assert f"| steps | {STEPS} of 400,000 in the paper |" in card and "not finished" not in card
    assert manifest["identity"]["data_fingerprint"] in card and manifest["git_commit"] in card
    for name in ("model.safetensors", "video/model.safetensors"):
        assert f"| sha256 of `{name}` | `{file_sha256(out / name)}` |" in card
    assert load(run).encoder_hash in card and load(run, stage="video").decoder_hash in card


def test_an_unfinished_run_is_called_so(run, tmp_path):
    checkpoint = max((run / "checkpoints").iterdir())
    state = json.loads((checkpoint / "state.json").read_text())
    write_json(checkpoint / "state.json", {**state, "step": STEPS - 1})
    assert f"**not finished**: {STEPS} were planned" in (export_with(run, tmp_path / "out") / "README.md").read_text()


def test_numbers_of_the_card_are_those_of_the_runs_files(run, tmp_path):
    card = (export_with(run, tmp_path / "out") / "README.md").read_text()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (values,) = [line for line in lines if line["step"] == STEPS and "val_psnr" in line]
    assert f"| `val_psnr` | {values['val_psnr']:.4g} |" in card and "on at most 2 clips of moving_shapes" in card
    assert "Nothing was measured of these weights yet" in card
    write_evaluation(run, "a.json", load(run), 23.456, seed=5, differences=["7 clips instead of 2,048"])
    card = (export_with(run, tmp_path / "out") / "README.md").read_text()
    assert "| PSNR | reconstructed | 23.46 | 22.46 … 24.46 | 7 |  |" in card
    assert "| LPIPS (alex) | reconstructed | – | – | 0 | not measured: no \\| weights |" in card
    assert "reconstruction on moving_shapes (test), seed 5" in card and "7 clips instead of 2,048." in card
    assert "Nothing was measured" not in card


def test_numbers_of_other_weights_or_earlier_evaluations_are_left_out(run, tmp_path):
    last, video = load(run), load(run, stage="video")
    write_evaluation(run, "a.json", last, 11.25, created="2026-01-02")
    write_evaluation(run, "b.json", last, 22.25, created="2026-01-03")
    write_evaluation(run, "c.json", video, 33.25)  # another decoder
    write_evaluation(run, "d.json", last, 44.25, encoder_hash="0" * 16)
    write_json(run / "eval" / "e.json", {"kind": "else", "encoder_hash": last.encoder_hash, "rows": [55.25]})
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    with open(run / "metrics.jsonl", "w") as file:
        for line in metrics:
            if "val_psnr" not in line:
                file.write(json.dumps(line) + "\n")
        file.write(json.dumps({"step": STEPS - 1, "val_psnr": 66.25}) + '\n{"step": 12, "val_ps')
    card = (export_with(run, tmp_path / "out") / "README.md").read_text()
    assert "| 22.25 |" in card
    assert not [number for number in ("11.25", "33.25", "44.25", "55.25", "66.25", "val_psnr") if number in card]


def test_latent_statistics_travel_when_they_are_of_this_encoder(run, tmp_path):
    notes = {"mean": [0.5, 1.0, 1.5, 2.0], "std": [1.0, 2.0, 3.0, 4.0], "latents": "shapes.h5", "rows": 9}
    write_json(run / "latent_statistics.json", {**notes, "encoder_hash": load(run).encoder_hash})
    out = export_with(run, tmp_path / "out")
    for vae in (load(run), PVVAE.from_pretrained(out), PVVAE.from_pretrained(out / "video")):
        assert vae.latents_mean.tolist() == notes["mean"] and vae.latents_std.tolist() == notes["std"]
    assert "of shapes.h5 (9 rows)" in (out / "README.md").read_text()
    write_json(run / "latent_statistics.json", {**notes, "encoder_hash": "0" * 16})
    assert load(run).latents_std.tolist() == [1.0] * 4
    out = export_with(run, tmp_path / "other")
    assert PVVAE.from_pretrained(out).latents_std.tolist() == [1.0] * 4
    assert "not computed: `normalize` changes nothing" in (out / "README.md").read_text()


@pytest.mark.parametrize("mean", [None, [1.0], "text", [[1.0, 2.0], [3.0]], [10**400, 0, 0, 0]])
def test_damaged_latent_statistics_are_refused_and_nothing_is_written(mean, run, tmp_path):
    notes = {"mean": mean, "std": [1.0] * 4, "encoder_hash": load(run).encoder_hash}
    write_json(run / "latent_statistics.json", notes)
    with pytest.raises(InputError, match="latent_statistics.json.*run tokenizer.encode again"):
        export_with(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_with_anything_else_is_left_alone(run, tmp_path):
    def refuses(out, words):
        before = {name: (out / name).read_bytes() for name in names_in(out)}
        with pytest.raises(InputError, match=words):
            export_with(run, out)
        assert {name: (out / name).read_bytes() for name in names_in(out)} == before

    (tmp_path / "readme").mkdir()
    (tmp_path / "readme" / "README.md").write_text("mine")
    refuses(tmp_path / "readme", "holds README.md")
    refuses(run, "holds checkpoints")
    torch.manual_seed(1)
    PVVAE(TINY).save_pretrained(tmp_path / "vae")
    refuses(tmp_path / "vae", "holds another tokenizer")
    with pytest.raises(InputError, match="is a file, not a folder"):
        export_with(run, tmp_path / "readme" / "README.md" / "x")


def test_an_export_that_was_cut_short_is_completed(run, tmp_path, monkeypatch):
    import tokenizer.pvvae as pvvae

    genuine = pvvae.PVVAE.save_pretrained

    def cut(vae, directory):
        if directory.name == "out":
            raise OSError(28, "No space left on device")
        genuine(vae, directory)

    monkeypatch.setattr(pvvae.PVVAE, "save_pretrained", cut)
    with pytest.raises(OSError, match="No space"):
        export_with(run, tmp_path / "out")
    assert names_in(tmp_path / "out") == FILES[3:]
    monkeypatch.undo()
    assert names_in(export_with(run, tmp_path / "out")) == FILES


def test_push_sends_the_whole_folder(run, tmp_path, monkeypatch, capsys):
    sent = {}

    class Api:
        def __init__(self, token):
            assert token is None

        def create_repo(self, repo_id, *, private, exist_ok):
            return f"https://hub.invalid/{repo_id}"

        def upload_folder(self, *, repo_id, folder_path, allow_patterns, **_):
            sent[repo_id] = (folder_path, sorted(allow_patterns))

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    export_with(run, tmp_path / "out", push_to="someone/mine")
    assert sent == {"someone/mine": (str(tmp_path / "out"), FILES)}
    assert "sent it to https://hub.invalid/someone/mine" in capsys.readouterr().out


def test_nothing_is_sent_unless_asked_for(run, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "HfApi", None)
    export_with(run, tmp_path / "out")

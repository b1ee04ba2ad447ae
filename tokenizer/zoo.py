"""Find a tokenizer by name or path."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from runtime.errors import InputError
from tokenizer.baselines import registry
from tokenizer.baselines.diffusers_folder import class_of
from tokenizer.baselines.user_class import OwnTokenizer
from tokenizer.spec import TokenizerSpec

# Names of tokenizers that come with the package, and where.
SHIPPED = {"moving-shapes": Path(__file__).parent / "pretrained" / "moving-shapes"}
TOKENIZER_NAMES = (*SHIPPED, *registry.BASELINES)
# What the shipped tokenizers were trained on, in the words of `tokenizer.train`'s flags.
_SHIPPED_CLIPS = {"moving-shapes": {"data": "moving_shapes", "num_frames": 17, "size": 32, "frame_stride": 1}}

_TRAINED_ON = {**dict.fromkeys(("data", "root"), str | None), **dict.fromkeys(("num_frames", "size"), int)}
_TRAINED_ON |= {"frame_stride": int | list[int] | None}


def load(
    name_or_path: str | Path,
    weights: str | Path | None = None,
    *,
    stage: str | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    compile: bool = False,
    download: bool = False,
) -> nn.Module:
    """Load a tokenizer, ready to encode and decode.

    Args:
        name_or_path: A shipped name ("moving-shapes"), a run directory of `tokenizer.train` (EMA weights of its newest
            checkpoint; of another one by RUN@STEP, or its own folder), or a directory with config.json and
            model.safetensors (`save_pretrained`). Or a tokenizer of others: a baseline ("wan2.2"), "diffusers:FOLDER"
            with an autoencoder of that library, "diffusers:USER/NAME" or "diffusers:USER/NAME@REVISION" with one of the
            Hugging Face Hub, or "module:CLASS".
        weights: A weight file to read instead, or "random" for seeded random weights, which a baseline's name then
            says. A baseline needs it where its published file is not in `$PVVAE_WEIGHTS`.
        stage: "video" takes the last weights of the predictive stage, which are the ones to predict with; None: the
            last of all.
        device: Where to put it.
        dtype: To hold the weights in, so that nothing is cast at every call as under autocast; None: float32.
        compile: Compile every block (torch.compile) when it is first called; for GPUs. Not for tokenizers of others.
        download: Fetch a repository of the Hub that is not in its cache here; without it the network is not used.

    Returns:
        A `VideoTokenizer` module in evaluation mode, with gradients off; of a PV-VAE, in channels-last memory.

    Raises:
        InputError: If there is no such tokenizer, it has no weights of that stage, or its files do not fit together.
    """
    from runtime.parallel import compile_blocks

    if registry.is_baseline(name_or_path):
        if stage is not None or compile:
            what = "predicts nothing and has no stages" if stage is not None else "is not compiled"
            raise InputError(f"tokenizer {str(name_or_path)!r} is no PV-VAE: it {what}")
        vae = registry.load(str(name_or_path), weights, download=download).to(device)
    else:
        vae = _load_pvvae(find_folder(name_or_path, stage), weights)
        if weights is None:
            take_statistics(run_and_step(name_or_path)[0], vae)
        vae = vae.to(device, memory_format=torch.channels_last_3d)
    vae = vae.eval().requires_grad_(False)
    if dtype not in (None, torch.float32):
        vae.cast(dtype) if hasattr(vae, "cast") else vae.to(dtype)
    if compile:
        compile_blocks(vae)
    return vae


def _load_pvvae(directory: Path, weights: str | Path | None) -> nn.Module:
    from runtime.records import read_json
    from runtime.seeds import seeded
    from runtime.weights import load_model
    from tokenizer.pvvae import PVVAE, STATISTICS, PVVAEConfig

    if weights is None and not (directory / "ema.safetensors").is_file():
        return PVVAE.from_pretrained(directory)
    config = PVVAEConfig.from_dict(read_json(directory / "config.json"), directory / "config.json")
    if weights == "random":
        return seeded(lambda: PVVAE(config))
    source = Path(weights) if weights is not None else directory / "ema.safetensors"
    return load_model(lambda: PVVAE(config), source, optional=STATISTICS)[0]


def take_statistics(run_dir: Path, *models) -> str | None:
    """Give models the latent statistics that tokenizer.encode has noted in their run, if they are of their encoder.

    Returns:
        The latents file that they were computed on; None where there are none.
    """
    from runtime.records import read_json

    path = run_dir / "latent_statistics.json"
    values = read_json(path) if path.is_file() else {}
    taken = None
    for vae in models:
        if vae is not None and values.get("encoder_hash") == vae.encoder_hash:
            try:
                vae.set_latent_statistics(values.get("mean"), values.get("std"))
            except (TypeError, ValueError, RuntimeError, OverflowError) as error:
                raise InputError(f"{path}: {error}; remove it and run tokenizer.encode again") from error
            taken = f"{values.get('latents')} ({values.get('rows')} rows)"
    return taken


def load_predictor(name_or_path: str | Path, *, device: str | torch.device = "cpu") -> nn.Module | None:
    """`load` of the weights of the video stage, which are the ones to predict with; None where there are none."""
    folder = video_folder(name_or_path)
    return None if folder is None else load(folder, device=device)


def pinned(name_or_path: str | Path, weights: str | Path | None = None, *, download: bool = False) -> str:
    """The name under which results remember a tokenizer: of one of the Hugging Face Hub, with the commit that is here,
    or with `download` was fetched; of any other, as it was given.

    Raises:
        InputError: If a repository is not here and may not, or cannot, be fetched.
    """
    return registry.pinned(str(name_or_path), weights, download=download)


def check_known(name_or_path: str | Path, weights: str | Path | None = None) -> None:
    """InputError unless there is such a tokenizer, and its weights are here; nothing is built."""
    if registry.is_baseline(name_or_path):
        registry.check(str(name_or_path), weights)
    else:
        find_folder(name_or_path)


def check_named_by_file(name: str, source: object) -> None:
    """InputError if a tokenizer that a file names is code in a folder that is no package, as code that came with the
    file would be; nothing is imported."""
    if registry.lies_in_bare_folder(name):
        raise InputError(
            f"{source}: its tokenizer is code in a folder, {name}, and not run; "
            f"if you trust it, give --tokenizer {name}, or put an __init__.py into the folder"
        )


def spec_of(name_or_path: str | Path, weights: str | Path | None = None) -> TokenizerSpec:
    """The spec of `load(name_or_path, weights)`; only a class, or a folder of diffusers, is built to find it out.

    Raises:
        InputError: Also if somebody's own class returns other shapes than its spec says.
    """
    from runtime.records import read_json
    from tokenizer.baselines.base import said_to_be_random
    from tokenizer.pvvae import PVVAEConfig

    if str(name_or_path) in registry.BASELINES:
        spec = registry.BASELINES[str(name_or_path)].spec
        return said_to_be_random(spec) if weights == "random" else spec
    if registry.is_baseline(name_or_path):
        vae = load(name_or_path, weights)
        if isinstance(vae, OwnTokenizer):
            vae.try_out()
        return vae.spec
    path = find_folder(name_or_path) / "config.json"
    return PVVAEConfig.from_dict(read_json(path), path).spec


def state_of(name_or_path: str | Path, weights: str | Path | None = None) -> str:
    """In words, which weights, and of somebody's own class which code, `load(name_or_path, weights)` reads now; they
    change when the files do."""
    code = registry.code_hash(str(name_or_path))
    if weights == "random":
        return "; ".join(filter(None, ["random", code]))
    if weights is not None:
        files = [Path(weights)]
    elif registry.is_on_hub(str(name_or_path)):
        return pinned(name_or_path)
    elif registry.is_baseline(name_or_path):
        folder = registry.folder_of(str(name_or_path))
        files = [] if folder is None else sorted(folder.glob("*.safetensors"))
    else:
        files = sorted(find_folder(name_or_path).glob("*.safetensors"))
    words = [f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files]
    return "; ".join(filter(None, [*words, code]))


def trained_on(name_or_path: str | Path) -> dict:
    """The flags of the run that trained a tokenizer, or what is known of a shipped one: `data`, `root`, `num_frames`,
    `size`, `frame_stride` and more; empty for tokenizers of others and for a bare folder of weights."""
    from runtime.records import check_fields
    from runtime.run import read_run

    if str(name_or_path) in SHIPPED:
        return dict(_SHIPPED_CLIPS[str(name_or_path)])
    run, _ = run_and_step(name_or_path)
    if not (run / "manifest.json").is_file():
        return {}
    config = read_run(run).config
    check_fields(config, _TRAINED_ON, run / "config.json", needed=False)
    return config


def run_and_step(name_or_path: str | Path) -> tuple[Path, int | None]:
    """The run, and the step of the checkpoint that RUN@STEP or a checkpoint's own folder asks for; of anything else the
    path as it is, and None."""
    from runtime.checkpoint import step_named

    path = Path(name_or_path)
    step = step_named(path)
    if step is not None and path.is_dir():
        checkpoint = path if len(path.parents) > 2 else path.absolute()  # as where the current folder is the run's
        if (checkpoint.parents[1] / "manifest.json").is_file():
            return checkpoint.parents[1], step
    run, _, digits = str(name_or_path).rpartition("@")
    if run and digits.isdecimal() and digits.isascii() and not path.exists() and Path(run).is_dir():
        return Path(run), int(digits)
    return path, None


def find_folder(name_or_path: str | Path, stage: str | None = None) -> Path:
    """The folder that holds a PV-VAE's config.json and weights; InputError when there is none (see `load`)."""
    if stage not in (None, "video"):
        raise InputError(f"stage {stage!r} is not known; known: video")
    last = _last_folder(name_or_path)
    if stage is None:
        return last
    found = video_folder(name_or_path)
    if found is None:
        run = last.parent.parent if last.parent.name == "checkpoints" else last
        raise InputError(
            f"tokenizer {str(name_or_path)!r} has no weights of the video stage, only those in "
            f"{last.relative_to(run.parent)}; leave the stage out for them, or give a run that has trained that stage"
        )
    return found


def video_folder(name_or_path: str | Path) -> Path | None:
    """The folder of a tokenizer's last weights of the video stage: kept at its end, or newer while it goes on, and of a
    checkpoint that is named itself no other; None where there are none, as of every tokenizer that is no PV-VAE."""
    from runtime.checkpoint import list_checkpoints
    from runtime.records import read_json

    if registry.is_baseline(name_or_path):
        return None
    last = _last_folder(name_or_path)
    if last.parent.name != "checkpoints":
        return last / "video" if (last / "video").is_dir() else None
    named = run_and_step(name_or_path)[1] is not None
    folders = [last] if named else [folder for _, folder in list_checkpoints(last.parent.parent)]
    states = [(folder, read_json(folder / "state.json")) for folder in folders]
    found = [folder for folder, state in states if "video" in (state.get("stage"), state.get("stage_end"))]
    return found[-1] if found else None


def _last_folder(name_or_path: str | Path) -> Path:
    from runtime.checkpoint import find_checkpoint, list_checkpoints

    if registry.is_baseline(name_or_path):
        raise InputError(f"tokenizer {str(name_or_path)!r} is no PV-VAE, and has no folder of one")
    run, step = run_and_step(name_or_path)
    if step is not None:
        return find_checkpoint(run, step)
    path = SHIPPED.get(str(name_or_path), run)
    if str(name_or_path) in SHIPPED or ((path / "config.json").is_file() and (path / "model.safetensors").is_file()):
        return path
    checkpoints = list_checkpoints(path) if path.is_dir() else []
    if not checkpoints:
        if (path / "config.json").is_file() and class_of(path / "config.json"):
            raise InputError(f"tokenizer {str(name_or_path)!r} is a folder of diffusers; give diffusers:{path}")
        known = ", ".join(TOKENIZER_NAMES)
        what = "has no checkpoint yet" if path.is_dir() else "is neither a folder nor a known name"
        raise InputError(
            f"tokenizer {str(name_or_path)!r} {what}; give a run of tokenizer.train, one of {known}, or your own: "
            "module:CLASS, diffusers:FOLDER"
        )
    return checkpoints[-1][1]

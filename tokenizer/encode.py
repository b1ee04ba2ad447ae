"""Encode a data set into one latents file: `python -m tokenizer.encode --tokenizer RUN --data ucf101 --root DIR --out
ucf101.h5`.

Row r of the file holds item r // (windows * flips): first its windows, and of each window the plain clip, then (with
`--flip`) the mirrored one, encoded for itself, since mirroring latents is not mirroring pixels. A killed run goes on
where it stopped.

A row whose clip cannot be decoded is left out, never replaced: the finished file is shorter by it, which its attribute
`left_out` counts, and the file and the reason stand in `<out>.unreadable.jsonl`. More than one file in a hundred ends
the work with the list. A file that leaves the data set after the work has begun is such a one: `<out>.files.json` keeps
what the data set held then, so that every row stays in its place.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from runtime.command import flag, run_command
from runtime.errors import InputError
from runtime.output import check_file
from runtime.stopping import orderly, stop_asked
from tokenizer.hub import DownloadFlags

BLOCKS_AHEAD = 2  # read while one is encoded
UCF101_STRIDE = 3  # source frames between two that the paper's generator sees


@dataclass(frozen=True, kw_only=True)
class EncodeConfig(DownloadFlags):
    """Flags of `python -m tokenizer.encode`."""

    tokenizer: str | None = flag(
        None, "run of tokenizer.train, folder, known name, module:CLASS or diffusers:FOLDER; default: the newest run"
    )
    weights: str | None = flag(None, "weight file to use instead of the tokenizer's own, or 'random'")
    data: str | None = flag(None, "data set; default: the one that the tokenizer's run was trained on")
    root: str | None = flag(None, "folder of the data set; default: likewise")
    split: str = flag("train", "which part of the data set", choices=("all", "train", "test"))
    num_frames: int | None = flag(None, "frames of a clip; default: the tokenizer run's, else 17", low=1, high=4097)
    size: int | None = flag(
        None, "height and width in pixels; default: the tokenizer run's, else 256", low=8, high=8192
    )
    frame_stride: int | None = flag(
        None,
        "source frames between two kept ones; default: the run's on the same data if that is one number; else 3 for "
        "ucf101, and the lowest of the run's or 1 for others",
        low=1,
    )
    windows: int = flag(1, "random windows of each video", low=1, high=10_000)
    flip: bool = flag(False, "also encode each window mirrored left to right")
    max_clips: int | None = flag(None, "encode only the first so many items; ucf101 is in order of classes", low=1)
    batch_size: int = flag(16, "clips in one forward pass", low=1, high=65_536)
    compile: str = flag(
        "auto",
        "compile every block (torch.compile); auto: models of the paper's size, on a GPU",
        choices=("auto", "true", "false"),
    )
    workers: int | None = flag(
        None, "threads of each process that decode clips; default: one a core, at most 8", low=1, high=1024
    )
    out: str | None = flag(None, "file to write; default: <data>.h5", check=check_file)


@dataclass(frozen=True)
class Source:
    """What to encode, with the tokenizer run's settings filled in."""

    tokenizer: str
    data: str
    root: str | None
    num_frames: int
    size: int
    frame_stride: int


def resolve(config: EncodeConfig) -> Source:
    """Fill in what the flags leave open from the tokenizer's run."""
    from runtime.run import newest_run
    from tokenizer.zoo import check_known, pinned, trained_on
    from videos.clip import lowest_stride

    tokenizer = config.tokenizer or str(newest_run(config.runs_dir, "tokenizer"))
    tokenizer = pinned(tokenizer, config.weights, download=config.download)
    trained = trained_on(tokenizer)
    check_known(tokenizer, config.weights)  # refuse an unknown one before asking for anything else
    data = config.data or trained.get("data")
    if data is None:
        raise InputError(f"--data is needed: {tokenizer!r} is no training run that could name a data set")
    same_data = data == trained.get("data")
    own = trained.get("frame_stride") if same_data else None
    # One stride, also where the tokenizer was trained on a range of them.
    usual = UCF101_STRIDE if data == "ucf101" else lowest_stride(own)
    stride = config.frame_stride or (own if isinstance(own, int) else usual)
    return Source(
        tokenizer=tokenizer,
        data=data,
        root=config.root or (trained.get("root") if same_data else None),
        num_frames=config.num_frames or trained.get("num_frames", 17),
        size=config.size or trained.get("size", 256),
        frame_stride=stride,
    )


def encode(config: EncodeConfig) -> Path:
    """Encode, or go on encoding; returns the file's path."""
    from latents_cache import open_latents
    from runtime import parallel, processes
    from tokenizer.baselines.registry import is_baseline
    from tokenizer.zoo import load
    from videos import ClipSpec, open_dataset
    from videos.datasets import left_out_words

    source = resolve(config)
    out = Path(config.out or f"{source.data}.h5")
    world = processes.start_processes(config.device)
    device, dtype = world.device, processes.resolve_dtype(config.dtype, world.device)
    vae = load(source.tokenizer, config.weights, device=device)
    if not (is_baseline(source.tokenizer) and config.compile == "auto"):  # which are not for compiling
        parallel.compile_as_asked(vae, config.compile, device)
    shape = vae.spec.latent_shape(source.num_frames, source.size, source.size)
    clip = ClipSpec(num_frames=source.num_frames, size=source.size, frame_stride=source.frame_stride, window="random")
    dataset = open_dataset(source.data, root=source.root, split=config.split, clip=clip)
    dataset = with_files_begun_with(dataset, out, world.is_main)
    if world.is_main and (words := left_out_words(dataset, source.root)):
        print(f"tokenizer.encode: {words}", file=sys.stderr)
    if world.is_main and dataset.num_enlarged:
        print(
            f"tokenizer.encode: {dataset.num_enlarged} of {len(dataset)} files are smaller than {source.size} pixels, "
            "and enlarged",
            file=sys.stderr,
        )
    items = min(len(dataset), config.max_clips or len(dataset))
    copies = config.windows * (2 if config.flip else 1)
    attributes = {
        "tokenizer": source.tokenizer,
        "tokenizer_name": vae.spec.name,
        **({"weights": config.weights} if config.weights else {}),
        "spec": json.dumps(vae.spec.to_dict()),
        "encoder_hash": vae.encoder_hash,
        "decoder_hash": vae.decoder_hash,
        "data": source.data,
        "root": source.root or "",
        "split": config.split,
        "clip": json.dumps(asdict(clip)),
        "num_classes": dataset.num_classes,
        "class_names": json.dumps(list(dataset.class_names)),
        "seed": config.seed,
        "windows": config.windows,
        "flip": int(config.flip),
        "kind": "latents",
        "dtype": str(dtype),
        "data_fingerprint": dataset.fingerprint(),
    }
    if out.is_file():
        existing = open_latents(out)
        # Of the weights, the hashes tell: a file that has moved, or was named by no flag, is the same one.
        same = all(existing.attributes.get(k) == value for k, value in attributes.items() if k != "weights")
        same = same and len(existing) + existing.attributes.get("left_out", 0) == items * copies
        if not same:
            raise InputError(f"{out} exists and holds other latents; move it away or give another --out")
        if world.is_main:
            print(f"tokenizer.encode: {out} is complete ({len(existing)} rows)")
            keep_statistics(Path(source.tokenizer), out)  # a kill may have come between the file and this note
        return out
    if world.is_main and items < len(dataset) and (seen := len({*dataset.labels()[:items]})) < dataset.num_classes:
        words = f"the first {items} of {len(dataset)} clips are of {seen} of {dataset.num_classes} classes alone"
        print(f"tokenizer.encode: {words}", file=sys.stderr)
    with orderly():  # to the end: a process that left early would let the others wait
        fill(config, source, out, attributes, vae=vae, dataset=dataset, rows=items * copies, world=world, dtype=dtype)
        if world.is_main:
            keep_statistics(Path(source.tokenizer), out)
            with open_latents(out) as reader:
                left_out = items * copies - len(reader)
            more = f"; {left_out} left out, see {unreadable_record(out)}" if left_out else ""
            print(f"tokenizer.encode: wrote {out} ({items * copies - left_out} rows of {list(shape)}{more})")
        world.barrier()
    return out


def fill(config: EncodeConfig, source: Source, out: Path, attributes: dict, *, vae, dataset, rows, world, dtype):
    """Encode the rows that are missing; the processes of a launch take turns by blocks of `batch_size` rows.

    A block is always computed whole, even for one missing row, since another batch size may round differently: so the
    file's bytes do not depend on how often the work was interrupted, nor on the number of processes.

    Raises:
        Stopped: When a signal or the time limit asks for it; what is encoded stays.
    """
    from latents_cache import create_latents
    from runtime.log import Progress
    from runtime.resources import readable
    from videos.unreadable import UnreadableClip, UnreadableFiles

    shape = vae.spec.latent_shape(source.num_frames, source.size, source.size)
    deterministic = has_no_logvar(vae, world.device)
    open_file = partial(create_latents, out, rows, shape, attributes, has_logvar=not deterministic, launch=world.launch)
    writer = world.first(open_file) or open_file()  # the main process creates the file
    with writer:
        missing = set(writer.missing())
        world.barrier()  # all have seen what is missing before anyone writes
        if world.is_main:
            size = math.prod(shape) * 2 * (1 if deterministic else 2) * rows
            print(
                f"tokenizer.encode: {out}: {rows} rows (split {config.split}) of {list(shape)}, {readable(size)}; "
                f"{len(missing)} to encode",
                file=sys.stderr,
            )
        progress = Progress(rows, start=rows - len(missing), label=f"encode {source.data}")
        blocks = [block for block in world.blocks(rows, config.batch_size) if missing.intersection(block)]
        unreadable = UnreadableFiles(unreadable_record(out), len(dataset))
        with closing(read_blocks(dataset, blocks, config, progress, world.device.type == "cuda")) as batches:
            for block, video, found in batches:
                mean, logvar = encode_block(vae, video, world.device, dtype)
                for i, (row, item) in enumerate(zip(block, found, strict=True)):
                    if row not in missing:
                        continue
                    if isinstance(item, UnreadableClip):
                        unreadable.record(item)
                        writer.leave_out(row)
                        continue
                    half = None if logvar is None else logvar[i]
                    writer.write(row, mean[i], half, label=int(item["label"]), name=item["name"])
                if world.is_main:
                    progress.update(min(rows, progress.step + world.size * len(missing.intersection(block))), {})
                if stop_asked():
                    break
        writer.flush()
        world.check_stop()
        if world.is_main:
            progress.close()
        counts = count_together(writer, world)
        if world.is_main:
            writer.finish(counts)


def count_together(writer, world):
    """The counts of all rows, for their statistics: each process reads its share, so that none waits long for another.

    All must have flushed before.
    """
    import torch

    from runtime.log import Progress

    share = range(world.rank * writer.rows // world.size, (world.rank + 1) * writer.rows // world.size)
    progress = Progress(len(share), label="statistics")
    counts = writer.counts(share, (lambda row: progress.update(row, {})) if world.is_main else None)
    if world.size > 1:
        shared = torch.from_numpy(counts).to(world.device)
        torch.distributed.all_reduce(shared)
        counts = shared.cpu().numpy()
    if world.is_main:
        progress.close()
    return counts


def with_files_begun_with(dataset, out: Path, is_main: bool):
    """The data set with the files that it had when `out` was begun, whose list the main process keeps beside it.

    Raises:
        InputError: If files are new or have changed since, or more than one in a hundred has gone.
    """
    from latents_cache.row_file import partial_path
    from videos.listing import read_listing, write_listing

    if not hasattr(dataset, "files"):
        return dataset
    record = out.with_name(f"{out.name}.files.json")
    whose = f"{dataset.name} {dataset.split} {dataset.root}"  # of another data set, the settings will tell
    if not out.exists() and not partial_path(out).exists():  # a list without them is a forgotten one
        if is_main:
            record.parent.mkdir(parents=True, exist_ok=True)
            write_listing(record, {whose: dataset.files})
    elif whose in (kept := read_listing(record)):
        dataset = dataset.as_listed(kept[whose], "--out")
        if is_main and dataset.gone:
            print(
                f"tokenizer.encode: {len(dataset.gone)} of {len(dataset.files)} files of {dataset.root} are gone; "
                "what was not encoded of them is left out",
                file=sys.stderr,
            )
    return dataset


def unreadable_record(out: Path) -> Path:
    """Where the files are listed whose rows were left out."""
    return out.with_name(f"{out.name}.unreadable.jsonl")


def has_no_logvar(vae, device) -> bool:
    """Whether a tokenizer is deterministic, found out with the smallest picture that it takes."""
    import torch

    side = vae.spec.spatial
    with torch.no_grad():
        return vae.encode(torch.zeros(1, 3, 1, side, side, device=device)).logvar is None


def keep_statistics(run_dir: Path, out: Path) -> None:
    """Note in the tokenizer's run, if it is one, the statistics of its latents, for `normalize`."""
    from latents_cache import open_latents
    from runtime.records import write_json

    if not (run_dir / "manifest.json").is_file():
        return
    with open_latents(out) as reader:
        values = {
            "mean": reader.mean.tolist(),
            "std": reader.std.tolist(),
            "latents": out.name,
            "encoder_hash": reader.attributes["encoder_hash"],
            "rows": len(reader),
        }
    write_json(run_dir / "latent_statistics.json", values, point="statistics")


def encode_block(vae, video, device, dtype):
    """float32 numpy mean and logvar (or None) of uint8 clips `[b, 3, 1+T, H, W]`."""
    import torch

    from runtime.processes import autocast
    from videos import to_float

    with torch.no_grad(), autocast(device, dtype):
        inputs = to_float(video.to(device, non_blocking=True)).contiguous(memory_format=torch.channels_last_3d)
        posterior = vae.encode(inputs)
    logvar = None if posterior.logvar is None else posterior.logvar.float().cpu().numpy()
    return posterior.mean.float().cpu().numpy(), logvar


def read_blocks(dataset, blocks: Sequence[range], config, progress, pin: bool) -> Iterator[tuple]:
    """(rows, uint8 video `[b, 3, 1+T, H, W]`, items) of blocks of rows, read while the blocks before are encoded.

    An item is {"label", "name"}, or the UnreadableClip of a row that cannot be decoded, whose video is black.
    """
    import numpy as np
    import torch

    from videos.batches import default_workers, read_ahead, window_seed
    from videos.unreadable import UnreadableClip

    flips = 2 if config.flip else 1
    copies = config.windows * flips
    black = np.zeros((3, dataset.clip.num_frames, dataset.clip.height, dataset.clip.width), np.uint8)

    def read(row: int):
        window = row % copies // flips
        try:
            item = dataset.item(row // copies, window_seed(config.seed, window, row // copies))
        except UnreadableClip as error:
            return black, error
        video = np.asarray(item["video"])
        mirrored = config.flip and row % 2 == 1
        return (video[..., ::-1].copy() if mirrored else video), item

    found = read_ahead(read, blocks, config.workers or default_workers(), BLOCKS_AHEAD)
    with closing(found):
        for rows in blocks:
            with progress.wait():
                clips = next(found)
            video = torch.from_numpy(np.stack([video for video, _ in clips]))
            yield rows, (video.pin_memory() if pin else video), [item for _, item in clips]


if __name__ == "__main__":
    run_command(
        encode,
        EncodeConfig,
        example="python -m tokenizer.encode --tokenizer runs/my-vae --data ucf101 --root UCF-101 --out ucf101.h5",
    )

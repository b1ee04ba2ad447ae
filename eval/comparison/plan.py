"""The plan of `eval.compare`: an arm for each tokenizer, and what its stages cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eval.arms.plan import Arm, Plan, Stage
from eval.comparison.facts import MEASURE, Facts, elements, facts_of, generator_run, parameters, plan_folder, speed_file
from runtime.errors import InputError
from tokenizer.encode import UCF101_STRIDE

BYTES_LATENT = 2  # float16


def generator_plan(config) -> Plan:
    """Encode, train, judge, draw the curve; of others than the first, the difference to it."""
    everyone, arms = facts_of(config), []
    rows = rows_of(config)
    shared = [speed_stage(config, everyone)] if config.speed == MEASURE else []
    for facts in everyone:
        stages = [*shared, encoding(config, facts, rows), training(config, facts), judging(config, facts)]
        stages += [curve(config, facts)] if config.curve_samples else []
        stages += reconstructions(config, facts) if config.reconstruction else []
        first = everyone[0]
        if facts is not first:
            pairs = [(judging(config, facts), judging(config, first))]
            if config.reconstruction:
                pairs += zip(reconstructions(config, facts), reconstructions(config, first), strict=True)
            # The first arm comes before, so that its stages are there.
            stages += [difference(config, ours, theirs) for ours, theirs in pairs]
        arms.append(Arm(facts.entry.label, config.seed, tuple(stages)))
    return Plan(plan_folder(config), tuple(arms))


def card_plan(config) -> Plan:
    """The card of each tokenizer."""
    everyone = facts_of(config)
    arms = (Arm(facts.entry.label, config.seed, (card(config, facts),)) for facts in everyone)
    return Plan(plan_folder(config), tuple(arms))


def card(config, facts: Facts) -> Stage:
    """One page and one file about a tokenizer."""
    out = plan_folder(config) / "cards" / f"{facts.slug}.json"
    words = [*chosen(facts), *data_words(config.data, config.root), "--samples", config.samples]
    words += ["--size", config.size, "--num-frames", config.num_frames, "--out", out]
    words += [] if config.speed == MEASURE else ["--no-speed"]
    results = (out, out.with_suffix(".html"))
    return made("card", facts.slug, "eval.card", config, words, results=results, reads=facts.state, work=config.samples)


def made(kind: str, slug: str, command: str, config, words: list, **about) -> Stage:
    """A stage of a command with these words and the flags that all have in common; its seconds, of one process, are
    shared by all."""
    common = ["--runs-dir", config.runs_dir, "--seed", config.seed, "--device", config.device, "--dtype", config.dtype]
    argv = (command, *(str(word) for word in [*words, *common]))
    if about.get("seconds"):
        about["seconds"] /= config.processes
    return Stage(name=f"{kind}-{slug}" if slug else kind, kind=kind, argv=argv, **about)


def chosen(facts: Facts) -> list[str]:
    """The flags that name a tokenizer."""
    weights = facts.entry.weights
    return ["--tokenizer", facts.entry.tokenizer, *(["--weights", weights] if weights else [])]


def data_words(data: str, root: str | None) -> list[str]:
    """The flags that name a data set."""
    return ["--data", data, *(["--root", root] if root else [])]


def rows_of(config) -> int:
    """Rows of a latents file.

    Raises:
        InputError: If there is no such data set, it is too small to be judged by, or the judge is not here.
    """
    import torch

    from eval.clip_sets import load_chosen, stratified_halves
    from videos import ClipSpec, open_dataset

    spec = ClipSpec(num_frames=config.num_frames, size=config.size, frame_stride=config.frame_stride or 1)
    dataset = open_dataset(config.data, root=config.root, split=config.split, clip=spec)
    judge = load_chosen(config.features, config.data, "cpu")
    judge.features(torch.zeros(1, 3, config.num_frames, config.size, config.size))  # refuses what it cannot see
    items = min(len(dataset), config.max_clips or len(dataset))
    halves = stratified_halves(dataset.labels()[:items], config.samples, config.seed)
    if min(map(len, halves)) < 2:
        raise InputError(f"{items} clips of {config.data} are too few to compare with: every class needs two of them")
    return items * config.windows


def speed_stage(config, everyone: Sequence[Facts]) -> Stage:
    """Speeds of all tokenizers, in turns."""
    out = speed_file(config)
    words = ["--tokenizers", ",".join(config.tokenizers), "--weights", ",".join(config.weights), "--out", out]
    words += ["--num-frames", config.num_frames, "--size", config.size, "--generator", config.preset]
    state = "; ".join(facts.state for facts in everyone)
    return made("speed", "", "eval.speed", config, words, results=(out,), reads=state)


def latents_file(config, facts: Facts) -> Path:
    """Where a tokenizer's latents are."""
    return plan_folder(config) / "latents" / f"{facts.slug}.h5"


def encoding(config, facts: Facts, rows: int) -> Stage:
    """One latents file."""
    out = latents_file(config, facts)
    words = [*chosen(facts), *data_words(config.data, config.root), "--split", config.split]
    words += ["--num-frames", config.num_frames, "--size", config.size, "--windows", config.windows]
    # Said, so that all see the same frames: a run may have been trained at a stride of its own.
    words += ["--frame-stride", config.frame_stride or (UCF101_STRIDE if config.data == "ucf101" else 1)]
    words += ["--max-clips", config.max_clips] if config.max_clips else []
    words += ["--batch-size", config.encode_batch_size, "--out", out]
    return made(
        "encode",
        facts.slug,
        "tokenizer.encode",
        config,
        words,
        results=(out,),
        reads=facts.state,
        work=rows,
        seconds=facts.speeds and rows * facts.speeds.clip,
        bytes=rows * elements(facts) * BYTES_LATENT * 2,  # mean and log-variance
    )


def training(config, facts: Facts) -> Stage:
    """One generator."""
    from runtime.checkpoint import checkpoint_room

    run, every = generator_run(config, facts), max(1, config.train_steps // config.checkpoints)
    words = ["--latents", latents_file(config, facts), "--preset", config.preset, "--steps", config.train_steps]
    words += ["--batch-size", config.batch_size] if config.batch_size else []
    words += ["--keep-every", every, "--name", run.name]
    _, groups, height, width = facts.shape
    clips = config.train_steps * batch_size(config)
    return made(
        "train",
        facts.slug,
        "generator.train",
        config,
        words,
        needs=(f"encode-{facts.slug}",),
        results=(run / "checkpoints" / f"step_{config.train_steps:08d}" / "state.json",),
        work=clips * groups * height * width,
        seconds=facts.speeds and clips * facts.speeds.step,
        bytes=checkpoint_room(
            parameters(config.preset, facts.shape), run, steps=config.train_steps, kept=len(kept_steps(config))
        ).whole,
    )


def judging(config, facts: Facts) -> Stage:
    """gFVD, KVD and IS, of samples that it makes."""
    run, count = generator_run(config, facts), config.samples
    out = run / "eval" / "fvd-compare.json"  # which no call by hand writes to
    words = ["--run", run, "--step", config.train_steps, "--samples", count, *judge_words(config), "--out", out]
    words += ["--guidance-scales", ",".join(f"{scale:g}" for scale in config.guidance_scales)]
    words += [] if config.controls else ["--no-controls"]
    calls = sum(1 if scale == 1.0 else 2 for scale in config.guidance_scales) + config.controls  # an untrained one
    seconds = facts.speeds and count * (
        calls * config.steps * facts.speeds.sample_step
        + (len(config.guidance_scales) / 2 + (2.5 if config.controls else 0)) * facts.speeds.clip
    )
    return made(
        "fvd",
        facts.slug,
        "eval.fvd",
        config,
        words,
        needs=(f"train-{facts.slug}",),
        results=(out,),
        work=count * len(config.guidance_scales),
        seconds=seconds,
        bytes=count * (len(config.guidance_scales) + config.controls) * elements(facts) * BYTES_LATENT,
    )


def curve(config, facts: Facts) -> Stage:
    """Distance at every kept checkpoint."""
    run, count, number = generator_run(config, facts), config.curve_samples, len(kept_steps(config))
    out = run / "eval" / "convergence-compare.json"
    words = ["--runs", run, "--samples", count, *judge_words(config), "--out", out]
    seconds = facts.speeds and count * (
        (number + 1) * (config.steps * facts.speeds.sample_step + facts.speeds.clip / 2) + 1.5 * facts.speeds.clip
    )  # with an untrained generator
    return made(
        "convergence",
        facts.slug,
        "eval.convergence",
        config,
        words,
        needs=(f"fvd-{facts.slug}",),
        results=(out,),
        work=count * number,
        seconds=seconds,
        bytes=count * (number + 1) * elements(facts) * BYTES_LATENT,
    )


def reconstructions(config, facts: Facts) -> list[Stage]:
    """rFVD, PSNR, SSIM and LPIPS, at every size."""
    data = config.reconstruction_data or config.data
    root = config.reconstruction_root or (config.root if data == config.data else None)
    found = []
    for size in config.reconstruction_sizes or (config.size,):
        out = plan_folder(config) / "reconstruction" / f"{facts.slug}-{size}.json"
        words = [*chosen(facts), *data_words(data, root), "--samples", config.samples, "--size", size]
        words += ["--num-frames", config.num_frames, "--out", out]
        stage = made(
            "reconstruction",
            f"{facts.slug}-{size}",
            "eval.reconstruction",
            config,
            words,
            results=(out,),
            reads=facts.state,
            work=config.samples * size * size,
            seconds=facts.speeds and config.samples * facts.speeds.clip * (size / config.size) ** 2,
        )
        found.append(stage)
    return found


def difference(config, ours: Stage, theirs: Stage) -> Stage:
    """What one stage measured less what another did, on the same clips."""
    out = plan_folder(config) / "differences" / f"{ours.name}.json"
    words = ["--a", ours.results[0], "--b", theirs.results[0], "--out", out]
    needs = (ours.name, theirs.name)
    return made("difference", ours.name, "eval.difference", config, words, needs=needs, results=(out,))


def judge_words(config) -> list:
    """The flags that eval.fvd and eval.convergence have in common."""
    root = ["--root", config.root] if config.root else []
    return ["--steps", config.steps, "--features", config.features, "--batch-size", min(64, config.samples), *root]


def kept_steps(config) -> list[int]:
    """Steps of the checkpoints that stay."""
    every = max(1, config.train_steps // config.checkpoints)
    return sorted({*range(every, config.train_steps + 1, every), config.train_steps})


def batch_size(config) -> int:
    """Of the generators' training."""
    from generator.presets import PRESETS

    return config.batch_size or PRESETS[config.preset].training["batch_size"]

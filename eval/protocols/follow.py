"""One set of clips through published protocols: the same samples and the same data set, each time as that code does it.

`python -m eval.fvd --protocol all` shows how far numbers move that all go by the name of FVD. What of a protocol cannot
be followed here stands in words under its numbers, and a protocol without its network is a row that says so.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from eval.clip_sets import IS_DATA_SETS, Judge, Watcher, choose_features, load_classifier, scales_of
from eval.features.store import FeatureSet
from eval.protocols import presets as words
from eval.protocols.clips import (
    FOLLOWED_IN_CLIPS,
    STORAGES,
    ClipPlan,
    RealClips,
    choose_real,
    generated_change,
    plan_clips,
)
from eval.protocols.distances import ROOTS
from eval.protocols.networks import FOLLOWED_BY_I3D, load_network
from eval.protocols.presets import PAPER, PROTOCOLS, Protocol, protocol_hash
from eval.quantities import distance_rows, score_rows
from eval.results.rows import Row
from generator.presets import PRESETS
from runtime.errors import InputError
from tokenizer.encode import UCF101_STRIDE

# What each setting may be, where code here follows it; numbers speak for themselves.
FOLLOWED = {**FOLLOWED_IN_CLIPS, "root": tuple(ROOTS), "kvd": (words.CUBIC, words.NONE)}
JUDGES_FEATURES = (
    "features are those of the project's own judge of synthetic clips: a Fréchet distance on them is no FVD"
)


@dataclass(frozen=True)
class Prepared:
    """A protocol that can be followed: its clips, its networks, and in words what differs.

    Attributes:
        own: Whether clips are the generator's training clips as they are, which need no preparation.
        no_score: Why the Inception Score is not measured, "" where it is or is not asked for.
        differences: From the paper's protocol, and from the protocol itself.
    """

    protocol: Protocol
    plan: ClipPlan
    real: RealClips
    watchers: dict[str, Watcher]
    own: bool
    no_score: str
    differences: list[str]


def follow(judge: Judge, config) -> tuple[dict[str, list[Row]], dict[str, list[str]]]:
    """Measure by every protocol that was asked for.

    Returns:
        By protocol its rows, and in words how its numbers differ from the paper's protocol.

    Raises:
        InputError: When a protocol that was asked for by name cannot be followed; under "all" it becomes a row.
    """
    # All of them before hours go into the first.
    prepared: dict[str, Prepared] = {}
    rows: dict[str, list[Row]] = {}
    said = {name: PROTOCOLS[name].differs_from(PAPER) for name in config.protocols}
    for name in config.protocols:
        rows[name] = []
        try:
            prepared[name] = prepare(PROTOCOLS[name], judge, config)
            said[name] = prepared[name].differences
        except InputError as error:
            if "all" not in config.protocol:
                raise InputError(f"protocol {name}: {error}") from error
            rows[name] = [Row(metric="FVD", subject=f"generated, {name}", value=None, note=f"not measured: {error}")]
    references = {name: real_set(found, judge) for name, found in prepared.items()}
    for scale in config.guidance_scales if prepared else ():
        # Every protocol sees the same decoded clips.
        watchers = {(name, part): w for name, found in prepared.items() for part, w in found.watchers.items()}
        counts = {name: found.plan.generated * found.plan.repeats for name, found in prepared.items()}
        seen = judge.generated(
            watchers,
            counts={key: counts[key[0]] for key in watchers},
            guidance_scale=scale,
            label=f"generated clips, guidance {scale:g}",
        )
        for name, found in prepared.items():
            headline = scale == config.guidance_scales[0]
            subject = f"generated, {name}" + ("" if headline else f" (guidance {scale:g})")
            own = {part: seen[name, part] for part in found.watchers}
            rows[name] += measure(found, own, references[name], subject, f"guidance {scale:g}" if headline else "")
    return rows, said


def prepare(protocol: Protocol, judge: Judge, config) -> Prepared:
    """Find out, before anything is sampled, whether and how a protocol can be followed.

    Raises:
        InputError: If weights are absent, clips too few or too short, or nothing here follows one of its settings.
    """
    data = judge.facts["data"]
    shapes = choose_features(config.features, data) == "shapes"
    for name, values in FOLLOWED.items() if shapes else {**FOLLOWED, **FOLLOWED_BY_I3D}.items():
        if getattr(protocol, name) not in values:
            raise InputError(f"{getattr(protocol, name)} (weights {protocol.weights}): not built here")
    plan = plan_clips(protocol, judge.dataset.clip, config.samples)
    network = load_network(protocol, shapes, str(judge.device))
    real = choose_real(protocol, plan, judge, config.root, config.seed)
    classifier, no_score = None, ""
    if not shapes and protocol.is_network == words.TORCHSCRIPT_C3D and data in IS_DATA_SETS:
        no_score = "StyleGAN-V's port of C3D, c3d_ucf101.pt, is not built here"
    elif not shapes and protocol.is_network == words.TGAN2_C3D:
        classifier, no_score = load_classifier(judge.facts, judge.device)
    clip, settings = judge.dataset.clip, {}
    own = protocol == PAPER and (plan.frames, plan.size, plan.size) == (clip.num_frames, clip.height, clip.width)
    if not own:
        settings = {
            "real": STORAGES[protocol.real_storage],
            "generated": generated_change(protocol, plan),
            "key": {"protocol": f"{protocol.name}@{protocol_hash(protocol)}", "frames": plan.frames, "size": plan.size},
        }
    watchers = {"features": Watcher(network=network, **settings)}
    watchers |= {"scores": Watcher(network=classifier, **settings)} if classifier else {}
    stand_in = f"{JUDGES_FEATURES}; weights, eps, resize, range and classifier that stand below do not apply"
    lines = [*([stand_in] if shapes else []), *protocol.differs_from(PAPER), *plan.unmet, *real.unmet]
    lines += sampling_differences(judge)
    return Prepared(protocol, plan, real, watchers, own, no_score, lines)


def real_set(prepared: Prepared, judge: Judge) -> FeatureSet:
    """What the protocol's network sees of its real clips."""
    protocol, real = prepared.protocol, prepared.real
    watchers = {"features": prepared.watchers["features"]}
    if prepared.own:
        return judge.real(real.items, ["real"], watchers)["real", "features"]
    stride = protocol.real_stride or judge.dataset.clip.frame_stride
    key = {"fingerprint": real.fingerprint, "split": real.split, "window": protocol.window, "stride": stride}
    key["window_of_clip"] = real.dataset.dataset.clip.window
    return judge.real(real.items, ["real"], watchers, real.dataset, **key)["real", "features"]


def measure(
    prepared: Prepared, seen: dict[str, FeatureSet], reference: FeatureSet, subject: str, note: str
) -> list[Row]:
    """The numbers of one protocol, of one set of generated clips."""
    protocol, found = prepared.protocol, seen["features"]
    infinity = protocol.root == words.NUCLEAR
    rows = distance_rows(found, reference, subject, note=note, infinity=infinity, protocol=protocol)
    if prepared.no_score:
        return [*rows, Row(metric="IS", subject=subject, value=None, note=f"not measured: {prepared.no_score}")]
    # The judge of synthetic clips knows the classes of those alone.
    judged = found.key["network"] == "shapes" and found.key["data"].startswith("moving_shapes")
    scored = seen.get("scores") or (found if judged else None)
    if protocol.is_network == words.NONE or scored is None:
        return rows
    return [*rows, *score_rows(scored, subject, note=note, protocol=protocol)]


def sampling_differences(judge: Judge) -> list[str]:
    """In words, how generator, sampler and data set differ from the paper's, and what it does not say from our
    default."""
    steps, data, options = judge.config.steps, judge.facts.get("data"), judge.options
    size, xl = judge.size, PRESETS["latte-xl"].model
    lines = [] if steps == 100 else [f"{steps} Euler steps instead of 100"]
    if (size.hidden_size, size.depth, size.num_heads) != (xl.hidden_size, xl.depth, xl.num_heads):
        lines.append(f"a generator of {size.depth} blocks of width {size.hidden_size} instead of Latte-XL")
    if judge.step != 250_000:
        lines.append(f"after {judge.step:,} steps of training instead of 250,000")
    if (scale := scales_of(judge.config)[0]) != 1.0:
        lines.append(f"guidance {scale:g} instead of none, our default")
    if "guidance_interval" in options:
        low, high = options["guidance_interval"]
        lines.append(f"guidance at times {low:g} to {high:g} alone, noise being 0")
    lines += ["classes of samples drawn at random instead of in turn"] if "labels" in options else []
    where = judge.facts["split"], judge.dataset.clip.frame_stride
    if data == "ucf101" and where != ("all", UCF101_STRIDE):
        said = f"UCF101's split {where[0]} at a frame stride of {where[1]}"
        lines.append(f"{said} instead of all videos at {UCF101_STRIDE}, our default")
    if data not in ("ucf101", "realestate10k"):
        lines.append(f"data set {data} instead of UCF101 or RealEstate10K")
    return lines


def differences(features: str, reference: int, judge: Judge) -> list[str]:
    """In words, how numbers by the paper's protocol differ from it nevertheless.

    Args:
        reference: How many real clips there are.
    """
    lines, samples, facts = [] if features == "i3d" else [JUDGES_FEATURES], judge.config.samples, judge.facts
    if samples != 2048:
        lines.append(f"{samples} generated clips instead of 2,048")
    if reference != samples:
        lines.append(f"only {reference} real clips in the reference")
    lines += sampling_differences(judge)
    clip = json.loads(facts["clip"])
    if clip["size"] != 256 or clip["num_frames"] != 17:
        lines.append(f"clips of {clip['num_frames']} frames at {clip['size']} pixels instead of 17 at 256")
    return lines

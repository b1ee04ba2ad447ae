"""What one decode of a clip tells of a tokenizer, one row a clip, and the numbers with intervals that follow from the
rows alone.

A row is float32 and holds, beside each other, what `layout_of` lists: quality in pixels, how well change and
prediction come out, and features of the clip before and after the tokenizer. Rows are kept (`eval.extract`), so every
number can be computed again without a pixel, and an interrupted evaluation goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from eval.features import FRECHET_NAMES
from eval.features.store import FeatureSet
from eval.metrics.frechet import frechet_distance
from eval.tokenizer_clips import Encoded
from runtime.errors import InputError
from runtime.processes import autocast
from runtime.records import check_fields
from tokenizer.spec import Posterior
from tokenizer.validation import blank_like, prediction_errors
from videos import ClipSpec, lpips, psnr, ssim, to_float, to_uint8
from videos.quality import LPIPS_SMALLEST, lpips_network

# dB of a frame that comes out as it went in, which has no finite PSNR; the field's evaluators count it so, too.
PSNR_CAP = 100.0

# What rows are read by.
_KEY = {"layout": dict, "num_frames": int, "observed": int | None, "network": str, "weights": str, "stratified": bool}


@dataclass(frozen=True)
class Column:
    """A number that follows from columns of rows.

    Attributes:
        metric, subject: As in results; "rFVD" stands for the distance on whatever features there are.
        better: "lower" or "higher".
        names: One column; two, of which sums over frames and clips are divided; or the features of two sets.
        function: Arrays, a row a clip -> float.
        note: Words that belong to the number.
    """

    metric: str
    subject: str
    better: str
    names: tuple[str, ...]
    function: Callable
    note: str = ""

    @property
    def is_ratio(self) -> bool:
        """Whether sums of two columns are divided, over frames and clips."""
        return self.function in (_ratio, _explained)

    def is_in(self, columns: Mapping[str, np.ndarray], ahead: int | None = None) -> bool:
        """Whether rows hold it, with something to divide by; `ahead`: at this frame alone."""
        if not columns.keys() >= {*self.names}:
            return False
        if ahead is not None and not 0 <= ahead < frames_in(columns[self.names[0]]):
            return False
        return not self.is_ratio or self.arrays(columns, ahead)[0][:, 1].sum() > 0

    def arrays(self, columns: Mapping[str, np.ndarray], ahead: int | None = None) -> tuple[np.ndarray, ...]:
        """What `function` takes; `ahead`: of one predicted frame instead of all."""
        found = tuple(columns[name] for name in self.names)
        if not self.is_ratio:
            return found
        parts = [part.reshape(len(part), -1) for part in found]
        return (np.stack([p.sum(1) if ahead is None else p[:, ahead] for p in parts], axis=1),)


def frames_in(column: np.ndarray) -> int:
    """The frames that a column of rows has a number of, `[N, frames]`; one where it is `[N]`."""
    return 1 if column.ndim == 1 else column.shape[1]


def _ratio(pairs: np.ndarray) -> float:
    return pairs[:, 0].sum() / pairs[:, 1].sum()


def _explained(pairs: np.ndarray) -> float:
    return 1.0 - _ratio(pairs)


NAMES = {"psnr": "PSNR", "ssim": "SSIM", "lpips_alex": "LPIPS (alex)", "lpips_vgg": "LPIPS (vgg)"}
_BETTER = {"psnr": "higher", "ssim": "higher", "lpips_alex": "lower", "lpips_vgg": "lower"}
_ROUNDING = "what rounding the output to uint8 costs by itself: no tokenizer can be told from a better one beyond it"
_FROZEN = "control: the first frame repeated, later frames"
_CHANGE = "1 - squared error of frame differences over their power; standing still scores 0"
_REPEAT = "squared error on moving pixels over that of repeating the last observed frame"
COLUMNS = (
    *(Column(NAMES[name], "reconstructed", way, (name,), np.mean) for name, way in _BETTER.items()),
    *(Column(NAMES[name], "rounding", way, (f"rounding_{name}",), np.mean, _ROUNDING) for name, way in _BETTER.items()),
    Column("PSNR", "frozen", "higher", ("frozen",), np.mean, _FROZEN),
    Column("change explained", "reconstructed", "higher", ("change_error", "change"), _explained, _CHANGE),
    Column(
        "change explained", "predicted", "higher", ("predicted_change_error", "predicted_change"), _explained, _CHANGE
    ),
    Column("error / repeat", "predicted", "lower", ("predicted", "repeat"), _ratio, _REPEAT),
    Column("error / repeat", "blank", "lower", ("blank", "repeat"), _ratio, _REPEAT),
    Column("error / repeat", "grey", "lower", ("grey", "repeat"), _ratio, _REPEAT),
    Column("rFVD", "reconstructed", "lower", ("features", "real_features"), frechet_distance),
    Column("rFVD", "rounding", "lower", ("features", "exact_features"), frechet_distance, _ROUNDING),
)


def horizons_of(columns: Mapping[str, np.ndarray], column: Column) -> list[int]:
    """Frames ahead (from 0) at which the error of prediction is also a number of its own: four of them, or five."""
    if (column.metric, column.subject) != ("error / repeat", "predicted"):
        return []
    ahead = frames_in(columns["predicted"])
    return [frame for frame in range(0, ahead, max(1, ahead // 4)) if column.is_in(columns, frame)]


def layout_of(num_frames: int, observed: int | None, lpips_nets: Sequence[str], features: int) -> dict[str, int]:
    """Columns of a row: name -> how many numbers, in order.

    Args:
        num_frames: Frames of a clip.
        observed: Frames that prediction sees; None where nothing is predicted.
        lpips_nets: Of "alex" and "vgg".
        features: Width of the feature network; 0 without one.
    """
    quality = ["psnr", "ssim", *(f"lpips_{net}" for net in lpips_nets)]
    columns = dict.fromkeys([*quality, *(f"rounding_{name}" for name in quality)], 1)
    if num_frames > 1:
        columns |= dict.fromkeys(("frozen", "change_error", "change"), 1)
    if observed is not None:
        columns |= dict.fromkeys(("predicted_change_error", "predicted_change"), 1)
        columns |= dict.fromkeys(("predicted", "repeat", "blank", "grey"), num_frames - observed)
    if features:
        columns |= dict.fromkeys(("real_features", "features", "exact_features"), features)
    return columns


def columns_of(kept: FeatureSet, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """The columns of kept rows by name, float64 `[N]` or `[N, width]`; of `names`, or all.

    Raises:
        InputError: When the rows are of something else, or do not hold these.
    """
    key, width = kept.key or {}, kept.features.shape[1]
    if "layout" not in key:
        raise InputError(f"{kept.path}: holds no measurements of a tokenizer")
    check_fields(key, _KEY, kept.path)
    check_fields(key["layout"], dict.fromkeys(key["layout"], int), f"{kept.path}: layout")
    features = key["layout"].get("features", 0)
    nets = [net for net in LPIPS_SMALLEST if f"lpips_{net}" in key["layout"]]
    # The order is that of `layout_of`: a key in a file is sorted by name. Rows of before a column was added lack it.
    layout = layout_of(key["num_frames"], key["observed"], nets, features)
    layout = {name: count for name, count in layout.items() if name in key["layout"]}
    if not layout or layout != key["layout"] or min(layout.values()) < 1 or sum(layout.values()) != width:
        raise InputError(f"{kept.path}: rows of {width} numbers are not laid out as their key says")
    if features and key["network"] not in FRECHET_NAMES:
        raise InputError(f"{kept.path}: features {key['network']!r} are not known")
    names = layout.keys() if names is None else names
    if not layout.keys() >= {*names}:
        raise InputError(f"{kept.path}: it does not hold {' and '.join(names)}; measure it again")
    edges = np.cumsum([0, *layout.values()])
    places = {name: slice(a, b) for name, a, b in zip(layout, edges[:-1], edges[1:], strict=True) if name in names}
    found = {name: kept.features[:, place].astype(np.float64) for name, place in places.items()}
    return {name: part[:, 0] if part.shape[1] == 1 else part for name, part in found.items()}


def lpips_networks(clip: ClipSpec, device: torch.device) -> tuple[dict[str, Callable], dict[str, str]]:
    """The LPIPS networks that can be had for such clips, and why the others cannot, by "alex" and "vgg"."""
    found, missing = {}, {}
    for net, smallest in LPIPS_SMALLEST.items():
        try:
            found[net] = lpips_network(net).to(device)
        except InputError as error:
            missing[net] = str(error)
        else:
            if min(clip.height, clip.width) < smallest:
                missing[net] = f"it needs frames of at least {smallest} pixels"
                del found[net]
    return found, missing


def capped_psnr(x: Tensor, y: Tensor) -> Tensor:
    """`videos.psnr`, with equal frames counted as `PSNR_CAP`."""
    frames = [video.transpose(1, 2).flatten(0, 1)[:, :, None] for video in (x, y)]
    return psnr(*frames).clamp(max=PSNR_CAP).unflatten(0, (len(x), -1)).mean(1)


@dataclass(frozen=True, kw_only=True)
class Measurer:
    """Takes clips through a tokenizer and measures what comes out.

    Attributes:
        vae: The tokenizer, on `device`.
        predictor: The one to predict with, on `device`: weights of the video stage.
        observed: Frames that prediction sees; None: nothing is predicted.
        lpips_nets: LPIPS networks by "alex" and "vgg".
        network: For features, or None.
        stratified: Whether the items were drawn class by class, which intervals then respect.
    """

    vae: torch.nn.Module
    predictor: torch.nn.Module
    observed: int | None
    lpips_nets: Mapping[str, Callable]
    network: object
    stratified: bool = False
    device: torch.device
    dtype: torch.dtype = torch.float32

    def key(self, clip: ClipSpec, **more) -> dict:
        """Everything that the rows depend on."""
        return {
            "layout": self.layout(clip.num_frames),
            "network": self.network.name if self.network else "",
            "weights": self.network.version_hash if self.network else "",
            "encoder": self.vae.encoder_hash,
            "decoder": self.vae.decoder_hash,
            "predictor": self.predictor.decoder_hash if self.observed else "",
            "observed": self.observed,
            "num_frames": clip.num_frames,
            "clip": [clip.height, clip.width, clip.frame_stride, clip.window],
            "stratified": self.stratified,
            "dtype": str(self.dtype),
            **more,
        }

    def layout(self, num_frames: int) -> dict[str, int]:
        """`layout_of` what is measured here."""
        nets = [net for net in LPIPS_SMALLEST if net in self.lpips_nets]
        return layout_of(num_frames, self.observed, nets, self.network.dim if self.network else 0)

    def see(self, encoded: Encoded) -> tuple[Tensor, None]:
        """Rows float32 `[B, width]` of clips, as a view of `eval.extract` gives features."""
        found = [self.measure(clip, posterior) for clip, posterior in encoded.parts]
        layout = self.layout(encoded.parts[0][0].shape[2])
        parts = [torch.cat([one[name].reshape(-1, width) for name, width in layout.items()], dim=1) for one in found]
        return torch.cat(parts).float(), None

    def measure(self, clip: Tensor, posterior: Posterior) -> dict[str, Tensor]:
        """The columns of `layout_of` for uint8 clips `[B, 3, 1+T, H, W]`, of which the encoder made `posterior`."""
        video, frames = to_float(clip), clip.shape[2]
        with torch.no_grad(), autocast(self.device, self.dtype):
            exact = self.vae.decode(posterior.mode()).float().clamp(-1, 1)
        decoded = to_uint8(exact)
        real, output = clip.double() / 255, decoded.double() / 255
        rounding = self._quality(output, (exact.double() + 1) / 2)
        found = self._quality(output, real) | {f"rounding_{name}": value for name, value in rounding.items()}
        if frames > 1:
            # Later frames only: the first one would be perfect.
            found["frozen"] = capped_psnr(real[:, :, :1].expand_as(real)[:, :, 1:], real[:, :, 1:])
            found |= _change("", output, real)
        if self.observed is not None:
            found |= self._prediction(video, real)
        if self.network is not None:
            with torch.no_grad():
                found["real_features"] = self.network.features(video).float()
                found["features"] = self.network.features(to_float(decoded)).float()
                found["exact_features"] = self.network.features(exact).float()
        return found

    def _quality(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        found = {"psnr": capped_psnr(x, y), "ssim": ssim(x, y)}
        for net, network in self.lpips_nets.items():
            found[f"lpips_{net}"] = lpips(x.float(), y.float(), net, network)
        return found

    def _prediction(self, video: Tensor, real: Tensor) -> dict[str, Tensor]:
        spec, observed = self.vae.spec, self.observed
        groups = spec.groups(video.shape[2]) - spec.groups(observed)
        with torch.no_grad(), autocast(self.device, self.dtype):
            predicted = self.predictor.predict(video[:, :, :observed], groups)
        ours, repeat = prediction_errors(video, predicted, observed)
        flat = {"blank": blank_like(video), "grey": torch.zeros_like(video)}
        flat = {name: prediction_errors(video, guess, observed)[0] for name, guess in flat.items()}
        # From the last observed frame on, so that the step into the unknown counts too.
        later = slice(observed - 1, None)
        guess = to_uint8(predicted).double() / 255
        change = _change("predicted_", guess[:, :, later], real[:, :, later])
        return change | {"predicted": ours, "repeat": repeat, **flat}


def _change(prefix: str, output: Tensor, real: Tensor) -> dict[str, Tensor]:
    """Squared error of frame-to-frame differences, and their power, summed over each clip."""
    ours, truth = output.diff(dim=2), real.diff(dim=2)
    axes = (1, 2, 3, 4)
    return {
        f"{prefix}change_error": (ours - truth).square().sum(axes),
        f"{prefix}change": truth.square().sum(axes),
    }

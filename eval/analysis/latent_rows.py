"""Rows of results that kept latents, and features of averaged ones, hold; the same from a file as from measuring."""

from __future__ import annotations

from eval.analysis.kept_latents import latent_set
from eval.analysis.quantities import RATE, SUBJECT, latent_names, note_of
from eval.analysis.temporal_fvd import AVERAGED, TEMPORAL_SUBJECTS
from eval.features.store import FeatureSet
from eval.quantities import label_of, number_named, row_of
from eval.results.rows import Row

NO_RATE = "not measured: the tokenizer is deterministic, its latents have no posterior"


def latent_rows(kept: FeatureSet) -> list[Row]:
    """Every number of kept latents, with its interval."""
    rows = [
        row_of(number_named(name, SUBJECT), (kept,), SUBJECT, note=note_of(name, kept)) for name in latent_names(kept)
    ]
    missing = [] if latent_set(kept).rate is not None else [Row(metric=RATE, subject=SUBJECT, value=None, note=NO_RATE)]
    return rows + missing


def temporal_rows(kept: FeatureSet) -> list[Row]:
    """The distance of clips with averaged latents, and of those as they are."""
    name, stride = kept.key["temporal"], kept.key["clip"][3]
    note = f"frame stride {stride}{', less of shorter videos' if stride > 1 else ''}; features {kept.key['network']}"
    note += "" if name == "tFVD" else "; not V-RAE's number: other features or another rule of frames"
    return [
        row_of(
            number_named(name, subject),
            (kept,),
            subject,
            features=label_of(kept),
            note=note if subject == AVERAGED else "",
        )
        for subject in TEMPORAL_SUBJECTS
    ]

"""What numbers were shown to go with: nothing is without a word, and our own words are what comes out."""

import pytest

from eval.analysis.quantities import _NUMBERS
from eval.analysis.rank_correlation import rank_correlation
from eval.analysis.sources import SOURCES, source_of, sources_of
from eval.correlate import published, targets
from eval.measurements import COLUMNS


def test_every_number_of_a_card_has_its_word():
    names = {column.metric for column in COLUMNS} | set(_NUMBERS)
    names |= {"rFD-shapes", "error / repeat, frame +3", "tFVD", "tfd-shapes-1+4k"}
    names |= {"ISpeed", "TMem", "parameters", "tokens", "multiply-adds", "TSpeed (from latents)"}
    assert [name for name in names if not source_of(name)] == []
    assert source_of("matrix products") is None and source_of("gFVD") is None
    assert [source.numbers for source in sources_of(["VIV", "PSNR", "VIV by class"])] == ["PSNR, SSIM, LPIPS", "VIV"]


@pytest.mark.parametrize(
    ("title", "numbers"),
    [("PSNR 256", "PSNR, SSIM, LPIPS"), ("SSIM 256", "PSNR, SSIM, LPIPS"), ("rFVD 256", "rFVD"), ("params M", "speed")],
)
def test_correlations_that_are_ours_are_what_the_published_tables_give(title, numbers):
    known = published()
    (values,) = targets(known, "FVD").values()
    assert len(values) == 8
    cheap = [next(value for name, value in known[key].cheap.items() if name[0] == title) for key in values]
    found = rank_correlation(cheap, list(values.values()))
    source = next(source for source in SOURCES if source.numbers.startswith(numbers))
    assert f"{found.value:.2f}" in source.shown

"""Which tokenizers a command puts side by side: labels, names and weights."""

import pytest

from eval.entries import Entry, entries_of
from runtime.errors import InputError


def test_labels_names_and_weights(tmp_path):
    (tmp_path / "wan.safetensors").write_bytes(b"")
    words = ["runs/my-vae", "ours=runs/other", "wan2.2", "cogvideox=random", f"wan2.1={tmp_path / 'wan.safetensors'}"]
    assert entries_of(words, ("own", "own", "random", "own", "own")) == [
        Entry("my-vae", "runs/my-vae", None),
        Entry("ours", "runs/other", None),
        Entry("wan2.2 (random weights)", "wan2.2", "random"),
        Entry("cogvideox (random weights)", "cogvideox", "random"),
        Entry("wan2.1", "wan2.1", str(tmp_path / "wan.safetensors")),
    ]


def test_one_word_of_weights_is_for_all():
    assert [entry.weights for entry in entries_of(["ltx", "ssvae"], ("random",))] == ["random", "random"]


@pytest.mark.parametrize(
    ("words", "weights", "said"),
    [
        ([], ("own",), "one or more"),
        (["a=ltx", "a=ssvae"], ("own",), "different labels"),
        (["ltx"], ("own", "random"), "gives 2 to 1"),
        (["ltx=gone/vae.safetensors"], ("own",), "no such weight file gone/vae.safetensors"),
    ],
)
def test_what_cannot_be_told_apart_is_refused(words, weights, said):
    with pytest.raises(InputError, match=said):
        entries_of(words, weights)

"""The command that lists published weights: states as they are, and nothing fetched unasked."""

from __future__ import annotations

import hashlib

import pytest

from runtime import check as command
from runtime import published_weights
from runtime.check import WeightsConfig, state_of, weights
from runtime.errors import InputError
from runtime.published_weights import PublishedFile

CONTENT = b"weights"


@pytest.fixture(autouse=True)
def three_files(monkeypatch, tmp_path):
    """A file of known hash, one of none, and one that cannot be fetched."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "net.pt").write_bytes(CONTENT)
    digest = hashlib.sha256(CONTENT).hexdigest()
    entries = {
        "net": PublishedFile("net.pt", 7, digest, (tmp_path / "source" / "net.pt").as_uri(), "the judge"),
        "loose": PublishedFile("loose.npz", 0, "", (tmp_path / "source" / "net.pt").as_uri(), "the score"),
        "gone": PublishedFile("gone.pt", 1000, digest, (tmp_path / "source" / "gone.pt").as_uri(), "nothing"),
    }
    for module in (published_weights, command):
        monkeypatch.setattr(module, "PUBLISHED", entries)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PVVAE_WEIGHTS", str(tmp_path / "shelf"))
    (tmp_path / "shelf").mkdir()


def states() -> dict[str, str]:
    return {name: state_of(name)[0] for name in ("net", "loose", "gone")}


def test_the_table_names_every_file_and_fetches_nothing(monkeypatch, capsys):
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("went to the network"))
    weights(WeightsConfig())
    head, net, loose, gone, where = capsys.readouterr().out.splitlines()
    assert head.split() == ["name", "file", "bytes", "sha256", "state", "for", "address"]
    assert net.split()[:5] == ["net", "net.pt", "7", hashlib.sha256(CONTENT).hexdigest()[:8] + "…", "missing"]
    assert loose.split()[2:5] == ["–", "–", "missing"] and "1,000" in gone
    assert net.endswith("source/net.pt") and "the judge" in net and "$PVVAE_WEIGHTS" in where


def test_states_are_ok_missing_wrong_and_unchecked(tmp_path, capsys):
    shelf = tmp_path / "shelf"
    assert set(states().values()) == {"missing"}
    (shelf / "net.pt").write_bytes(CONTENT)
    (shelf / "loose.npz").write_bytes(b"anything")
    (shelf / "gone.pt").write_bytes(b"short")
    assert states() == {"net": "ok", "loose": "unchecked", "gone": "wrong"}
    weights(WeightsConfig())
    assert f"gone is wrong: {shelf / 'gone.pt'}: 5 bytes, the published gone.pt has 1000" in capsys.readouterr().out


def test_download_fetches_what_is_named_and_not_here_and_goes_on_after_a_failure(tmp_path, capsys):
    weights(WeightsConfig(download=("net",)))
    assert states() == {"net": "ok", "loose": "missing", "gone": "missing"}
    with pytest.raises(InputError, match=r"gone\.pt: download failed"):
        weights(WeightsConfig(download=("gone", "all")))
    assert states() == {"net": "ok", "loose": "unchecked", "gone": "missing"}
    assert capsys.readouterr().out.count("fetching net.pt") == 1
    with pytest.raises(InputError, match="'nett' are not known; .*did you mean net"):
        weights(WeightsConfig(download=("nett",)))


def test_a_wrong_file_in_the_cache_is_replaced_and_one_in_the_own_folder_is_named(tmp_path):
    cached = tmp_path / "cache" / "pvvae" / "net.pt"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"WEIGHTS")
    weights(WeightsConfig(download=("net",)))
    assert cached.read_bytes() == CONTENT
    (tmp_path / "shelf" / "net.pt").write_bytes(b"WEIGHTS")
    with pytest.raises(InputError, match=r"shelf/net\.pt: sha256 .*; remove it"):
        weights(WeightsConfig(download=("net",)))

"""Published weight files: order of the search, and nothing is taken unchecked."""

import hashlib

import pytest

from runtime import published_weights
from runtime.errors import InputError
from runtime.published_weights import PublishedFile, fault_of, fetch, find_weights, git_blob_id, locate

CONTENT = b"weights"
ENTRIES = dict(published_weights.PUBLISHED)


@pytest.fixture(autouse=True)
def one_file(monkeypatch, tmp_path):
    entry = PublishedFile("net.pt", len(CONTENT), hashlib.sha256(CONTENT).hexdigest(), "https://example.org/net.pt")
    monkeypatch.setattr(published_weights, "PUBLISHED", {"net": entry})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PVVAE_WEIGHTS", str(tmp_path / "shelf"))
    (tmp_path / "cache" / "pvvae").mkdir(parents=True)
    (tmp_path / "shelf").mkdir()


def test_an_absent_file_is_named_with_size_hash_address_and_place(tmp_path):
    with pytest.raises(InputError) as error:
        find_weights("net")
    for part in (
        "net.pt",
        "7 bytes",
        hashlib.sha256(CONTENT).hexdigest(),
        "https://example.org/net.pt",
        "PVVAE_WEIGHTS",
    ):
        assert part in str(error.value)


def test_path_then_shelf_then_cache(tmp_path):
    cached = tmp_path / "cache" / "pvvae" / "net.pt"
    cached.write_bytes(CONTENT)
    assert find_weights("net") == cached
    shelved = tmp_path / "shelf" / "net.pt"
    shelved.write_bytes(CONTENT)
    assert find_weights("net") == shelved
    given = tmp_path / "given.pt"
    given.write_bytes(CONTENT)
    assert find_weights("net", given) == given


@pytest.mark.parametrize(("content", "message"), [(b"weight", "6 bytes"), (b"WEIGHTS", "sha256")])
def test_a_wrong_file_is_refused(tmp_path, content, message):
    (tmp_path / "shelf" / "net.pt").write_bytes(content)
    with pytest.raises(InputError, match=message):
        find_weights("net")


def test_a_download_is_taken_only_when_its_hash_is_the_published_one(tmp_path, monkeypatch):
    source = tmp_path / "source.pt"
    entry = PublishedFile("net.pt", len(CONTENT), hashlib.sha256(CONTENT).hexdigest(), source.as_uri())
    monkeypatch.setattr(published_weights, "PUBLISHED", {"net": entry})
    cache = tmp_path / "cache" / "pvvae"
    for content, message in ((None, "download failed"), (b"WEIGHTS", "is not the published")):
        if content:
            source.write_bytes(content)
        with pytest.raises(InputError, match=message):
            fetch(published_weights.PUBLISHED["net"])
        assert list(cache.iterdir()) == []
    source.write_bytes(CONTENT)
    assert fetch(published_weights.PUBLISHED["net"]) == cache / "net.pt"
    assert [path.name for path in cache.iterdir()] == ["net.pt"]


def test_a_hash_of_which_only_the_start_is_known_is_compared_so_far(tmp_path, monkeypatch):
    (tmp_path / "shelf" / "net.pt").write_bytes(CONTENT)
    for start, fits in ((hashlib.sha256(CONTENT).hexdigest()[:8], True), ("00000000", False)):
        monkeypatch.setattr(published_weights, "PUBLISHED", {"net": PublishedFile("net.pt", 0, start, "https://a")})
        if fits:
            assert find_weights("net").name == "net.pt"
        else:
            with pytest.raises(InputError, match="sha256"):
                find_weights("net")


def test_a_given_path_must_exist(tmp_path):
    with pytest.raises(InputError, match="no such weight file"):
        find_weights("net", tmp_path / "nowhere.pt")


def test_a_git_object_id_will_do_instead_of_the_sha256(tmp_path, monkeypatch):
    path = tmp_path / "net.pt"
    path.write_bytes(CONTENT)
    blob = hashlib.sha1(b"blob 7\0" + CONTENT).hexdigest()
    assert git_blob_id(path) == blob
    other = hashlib.sha256(b"another copy").hexdigest()
    for given, fits in ((blob, True), ("0" * 40, False), ("", False)):
        entry = PublishedFile("net.pt", 0, other, "https://a", git_blob=given)
        assert (fault_of(path, entry) is None) is fits


def test_an_unknown_name_is_refused_with_the_nearest(monkeypatch):
    monkeypatch.setitem(published_weights.PUBLISHED, "i3d_torchscript", published_weights.PUBLISHED["net"])
    with pytest.raises(InputError, match="'i3d_torchscrip' are not known; .*did you mean i3d_torchscript"):
        find_weights("i3d_torchscrip")


def test_a_lookup_takes_the_shelf_before_the_cache_and_checks_nothing(tmp_path):
    assert locate("net") is None
    (tmp_path / "cache" / "pvvae" / "net.pt").write_bytes(b"?")
    assert locate("net") == tmp_path / "cache" / "pvvae" / "net.pt"
    (tmp_path / "shelf" / "net.pt").write_bytes(b"??")
    assert locate("net") == tmp_path / "shelf" / "net.pt"


def test_a_download_of_another_size_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    source = tmp_path / "source.pt"
    source.write_bytes(b"an error page")
    entry = PublishedFile("net.pt", len(CONTENT), "", source.as_uri())
    monkeypatch.setitem(published_weights.PUBLISHED, "net", entry)
    with pytest.raises(InputError, match="what came is not the published file: 13 bytes"):
        fetch(published_weights.PUBLISHED["net"])
    assert list((tmp_path / "cache" / "pvvae").iterdir()) == []


def test_every_entry_says_what_is_known_where_it_is_and_what_for():
    for entry in ENTRIES.values():
        assert entry.address.startswith("https://") and entry.purpose and entry.filename
        assert set(entry.sha256) <= set("0123456789abcdef") and len(entry.sha256) in (0, 8, 64)
        assert len(entry.git_blob) in (0, 40)
        assert ("not published" in entry.known) is (not entry.sha256 or not entry.bytes)
    assert len({entry.filename for entry in ENTRIES.values()}) == len(ENTRIES)
    assert {"i3d_torchscript", "i3d_pretrained_400", "c3d_ucf101", "c3d_mean", "vgg16", "alexnet"} <= set(ENTRIES)

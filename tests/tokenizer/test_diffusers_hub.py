"""Autoencoders of the Hugging Face Hub: what is asked of it, what is kept, and what is said when it cannot be had. The
Hub is a server on this machine; its client is the real one."""

import copy
import json
import re
import threading
import time
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from huggingface_hub import constants, hf_hub_download
from safetensors.torch import save

from eval.entries import Entry, entries_of, with_commits
from eval.speed import SpeedConfig
from latents_cache import open_latents
from runtime.errors import InputError
from tokenizer import load
from tokenizer.baselines.base import seeded
from tokenizer.baselines.registry import BASELINES
from tokenizer.encode import EncodeConfig, encode
from tokenizer.hub import is_repo_id
from tokenizer.zoo import check_known, pinned, state_of

FIRST, SECOND, THIRD = "1" * 40, "2" * 40, "3" * 40
STEM = "diffusion_pytorch_model"
PLAIN, INDEX, ROUNDED = f"{STEM}.safetensors", f"{STEM}.safetensors.index.json", f"{STEM}.fp16.safetensors"
NAME = "diffusers:someone/vae"
NOBODY = "http://127.0.0.1:9"  # a port that none listens at
PATH = re.compile(r"(/api/models)?/(?P<repo>\w+/\w+)/(revision|resolve)/(?P<revision>\w+)(/(?P<file>.+))?")


class FakeHub:
    """Repositories by commit, served as the Hub does; `main` is the commit of the main branch."""

    def __init__(self):
        self.files: dict[str, dict[str, bytes]] = {}
        self.main = FIRST
        self.refusal: tuple[int, str] | None = None  # status, and the Hub's word for why
        self.cut: set[str] = set()  # files that break off in the middle, once
        self.asked: list[tuple[str, str, str | None]] = []  # method, path, range

    def answer(self, method: str, path: str, span: str | None) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and content."""
        self.asked.append((method, path, span))
        if self.refusal:
            return self.refusal[0], {"X-Error-Code": self.refusal[1]}, b""
        found = PATH.fullmatch(path)
        if not found or found["repo"] != "someone/vae":
            return 401, {"X-Error-Code": "RepoNotFound"}, b""
        revision, file = found["revision"], found["file"]
        commit = self.main if revision == "main" else revision
        if commit not in self.files:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        if file is None:
            siblings = [{"rfilename": name, "size": len(data)} for name, data in self.files[commit].items()]
            return 200, {}, json.dumps({"id": "someone/vae", "sha": commit, "siblings": siblings}).encode()
        headers = {"X-Repo-Commit": commit}
        if file not in self.files[commit]:
            return 404, headers | {"X-Error-Code": "EntryNotFound"}, b""
        data = self.files[commit][file]
        headers["ETag"] = f'"{sha256(data).hexdigest()}"'
        if span:
            begin = int(span.removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
            return 206, headers, data[begin:]
        return 200, headers, data

    def fetched(self) -> list[str]:
        """Files whose content was asked for, in order."""
        return [path.split("/", 5)[5] for method, path, _ in self.asked if method == "GET" and "/resolve/" in path]


@contextmanager
def serving(hub: FakeHub):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            path = self.path.split("?")[0]
            status, headers, data = hub.answer(self.command, path, self.headers.get("Range"))
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                file = path.rsplit("/", 1)[1]
                self.wfile.write(data[: len(data) // 2] if file in hub.cut else data)
                self.close_connection |= file in hub.cut
                hub.cut.discard(file)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub without repositories, and an empty cache."""
    found = FakeHub()
    with serving(found) as address:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr(time, "sleep", lambda _: None)  # between one try and the next
        yield found


@pytest.fixture(scope="module")
def network():
    """A small autoencoder of pictures."""
    return seeded(BASELINES["sd1.5"].tiny).eval().requires_grad_(False)


def config_of(network, **more) -> bytes:
    return json.dumps({**network.config, "_class_name": type(network).__name__, **more}).encode()


def weights_of(network, factor: float = 1.0) -> bytes:
    return save({name: (value * factor).contiguous() for name, value in network.state_dict().items()})


def repository_of(network, place: str = "", factor: float = 1.0) -> dict[str, bytes]:
    return {f"{place}config.json": config_of(network), f"{place}{PLAIN}": weights_of(network, factor)}


def same(vae, network, factor: float = 1.0) -> bool:
    theirs = network.state_dict()
    return all(torch.equal(value, theirs[name] * factor) for name, value in vae.network.state_dict().items())


def test_only_config_and_weights_of_the_autoencoder_are_fetched_and_only_when_asked(hub, network, capsys):
    others = {
        name: b"never read" for name in ("model_index.json", f"vae/{STEM}.bin", f"vae/{ROUNDED}", "x.safetensors")
    }
    others |= {f"unet/{PLAIN}": b"of another model", "config.json": b'{"_class_name": "UNet2DConditionModel"}'}
    hub.files[FIRST] = repository_of(network, "vae/") | others
    for refused in (load, check_known, pinned, state_of):
        with pytest.raises(
            InputError,
            match=r"^someone/vae is no folder here, .* --download .*download=True.* fetches it; --dry-run never does$",
        ):
            refused(NAME)
    assert hub.asked == []
    vae = load(NAME, download=True)
    assert same(vae, network) and hub.fetched() == ["config.json", "vae/config.json", f"vae/{PLAIN}"]
    size = len(hub.files[FIRST][f"vae/{PLAIN}"]) / 2**20
    assert f"someone/vae@{FIRST}: fetching vae/{PLAIN}, {size:.4g} MiB, to" in capsys.readouterr().out


def test_what_was_fetched_once_needs_no_network_and_stays_what_it_was(hub, network):
    hub.files = {FIRST: repository_of(network), SECOND: repository_of(network, factor=0.5)}
    assert pinned(NAME, download=True) == f"{NAME}@{FIRST}"
    hub.asked.clear()
    hub.main = SECOND  # its authors go on
    for name, download in ((NAME, False), (NAME, True), (f"{NAME}@{FIRST}", True)):
        assert same(load(name, download=download), network) and pinned(name, download=download) == f"{NAME}@{FIRST}"
    assert state_of(NAME) == state_of(f"{NAME}@{FIRST}") == f"{NAME}@{FIRST}" and hub.asked == []
    # Another commit is another tokenizer, and leaves the first one where it was.
    with pytest.raises(InputError, match="no folder here"):
        load(f"{NAME}@{SECOND}")
    other = load(f"{NAME}@{SECOND}", download=True)
    assert same(other, network, 0.5) and other.encoder_hash != load(NAME).encoder_hash
    assert pinned(NAME) == f"{NAME}@{FIRST}"


def test_weights_in_parts_are_put_together_and_one_that_is_missing_is_fetched(hub, network, tmp_path):
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    halves = [dict(list(state.items())[number::2]) for number in range(2)]
    parts = {f"{STEM}-0000{number + 1}-of-00002.safetensors": save(half) for number, half in enumerate(halves)}
    listed = {name: part for part, half in zip(parts, halves, strict=True) for name in half}
    index = json.dumps({"metadata": {}, "weight_map": listed}).encode()
    hub.files[FIRST] = {"config.json": config_of(network), INDEX: index, ROUNDED: b"not wanted", **parts}
    assert same(load(NAME, download=True), network) and hub.fetched() == ["config.json", INDEX, *parts]
    snapshot = tmp_path / "hub" / "models--someone--vae" / "snapshots" / FIRST
    (snapshot / [*parts][1]).unlink()  # as when the first call was killed before it
    with pytest.raises(InputError, match="no folder here"):
        load(NAME)
    hub.asked.clear()
    assert same(load(NAME, download=True), network) and hub.fetched() in ([], [[*parts][1]])
    (snapshot / INDEX).write_text(json.dumps({"weight_map": {"a": "../../elsewhere.safetensors"}}))
    with pytest.raises(InputError, match="it is no list of safetensors files"):
        load(f"diffusers:{snapshot}")


def test_rounded_weights_are_taken_only_where_there_are_no_others(hub, network, tmp_path):
    rounded = copy.deepcopy(network).half()
    hub.files[FIRST] = repository_of(network) | {ROUNDED: weights_of(rounded)}
    for file in ("config.json", ROUNDED):  # as another program may have fetched them
        hf_hub_download("someone/vae", file)
    with pytest.raises(InputError, match="no folder here"):
        load(NAME)
    assert same(load(NAME, download=True), network)
    hub.files[SECOND] = {"config.json": config_of(network), ROUNDED: hub.files[FIRST][ROUNDED]}
    for download in (True, False):
        assert same(load(f"{NAME}@{SECOND}", download=download), rounded.float())
    # What lies at the root of a pipeline is of another model.
    other = {"config.json": b'{"_class_name": "UNet2DConditionModel"}', PLAIN: b"of another model"}
    hub.files[THIRD] = other | {f"vae/{name}": data for name, data in hub.files[SECOND].items()}
    for download in (True, False):
        assert same(load(f"{NAME}@{THIRD}", download=download), rounded.float())


@pytest.mark.parametrize("name", ["a/b--c", "a/b..c", "a/b-", "a-/b", "a/b.git", "a/" + "b" * 97])
def test_what_the_hub_would_take_for_no_name_is_a_folder_that_is_not_here(hub, name):
    with pytest.raises(InputError, match=f"^{name}/config.json: no such file"):
        load(f"diffusers:{name}", download=True)
    assert hub.asked == [] and not is_repo_id(name)


def test_a_broken_connection_goes_on_where_it_broke(hub, network, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1024)  # what is asked for again, at most
    hub.files[FIRST], hub.cut = repository_of(network), {PLAIN}
    assert same(load(NAME, download=True), network)
    whole, rest = (span for method, path, span in hub.asked if method == "GET" and path.endswith(PLAIN))
    half = len(hub.files[FIRST][PLAIN]) // 2
    assert whole is None and half - 1024 <= int(rest.removeprefix("bytes=").removesuffix("-")) <= half


def test_random_or_other_weights_need_the_config_alone(hub, network, tmp_path):
    hub.files[FIRST] = repository_of(network)
    vae = load(NAME, "random", download=True)
    assert vae.spec.name == "AutoencoderKL-t1s8c4 (random weights)" and hub.fetched() == ["config.json"]
    (tmp_path / "own.safetensors").write_bytes(weights_of(network, 0.5))
    assert same(load(NAME, tmp_path / "own.safetensors"), network, 0.5)


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        ((403, "GatedRepo"), "it is gated: ask for access at https://huggingface.co/someone/vae, then `hf auth login`"),
        ((401, "RepoNotFound"), "there is none of that name, or it is private"),
        ((500, "Busy"), "Hub repository someone/vae: "),
    ],
)
def test_a_hub_that_refuses_is_one_line(hub, refusal, words):
    hub.refusal = refusal
    with pytest.raises(InputError) as caught:
        load(NAME, download=True)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"HF_HUB_OFFLINE": True},
        {"ENDPOINT": NOBODY, "HUGGINGFACE_CO_URL_TEMPLATE": NOBODY + "/{repo_id}/{revision}/{filename}"},
    ],
    ids=["offline", "unreachable"],
)
def test_a_hub_that_is_away_or_not_to_be_asked_is_one_line(hub, network, monkeypatch, changes):
    hub.files[FIRST] = repository_of(network)
    load(NAME, "random", download=True)
    for name, value in changes.items():
        monkeypatch.setattr(constants, name, value)
    assert load(NAME, "random", download=True).spec.spatial == 8  # needs nothing more
    for name in (NAME, f"{NAME}@never"):
        with pytest.raises(InputError, match=r"^Hub repository someone/vae: [^\n]*$"):
            load(name, download=True)
    assert hub.fetched() == ["config.json"]


def test_what_is_no_autoencoder_is_refused_before_its_weights_are_fetched(hub, network):
    weights = {PLAIN: b"large"}
    for files, words in (
        ({"README.md": b""}, "neither its root nor vae/ holds an autoencoder of diffusers"),
        (weights | {"config.json": b'{"model_type": "bert"}'}, "neither its root nor vae/ holds an autoencoder"),
        (weights | {"config.json": b'{"_class_name": "AutoencoderWish"}'}, "'AutoencoderWish' is no autoencoder"),
        (weights | {"config.json": config_of(network, timestep_conditioning=True)}, "draws noise"),
        ({"config.json": config_of(network), f"{STEM}.bin": b"pickle"}, "it holds 0; .* pickled weights are not read"),
        (
            {"config.json": config_of(network), f"{STEM}.fp16.safetensors": b"", f"{STEM}.bf16.safetensors": b""},
            "one safetensors file is wanted, it holds 2",
        ),
    ):
        hub.main = sha256(words.encode()).hexdigest()[:40]
        hub.files = {hub.main: files}
        hub.asked.clear()
        with pytest.raises(InputError, match=words):
            load(f"{NAME}@{hub.main}", download=True)
        assert set(hub.fetched()) <= {"config.json"}
    with pytest.raises(InputError, match="it has no such branch, tag or commit"):
        load(f"{NAME}@never", download=True)


def test_latents_name_the_commit_and_a_folder_comes_before_the_hub(hub, network, tmp_path, monkeypatch):
    hub.files[FIRST] = repository_of(network)
    flags = {"data": "moving_shapes", "size": 32, "num_frames": 5, "max_clips": 2, "device": "cpu", "dtype": "float32"}
    out = encode(EncodeConfig(tokenizer=NAME, download=True, out=str(tmp_path / "a.h5"), **flags))
    with open_latents(out) as reader:
        assert reader.attributes["tokenizer"] == f"{NAME}@{FIRST}"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "someone" / "vae").mkdir(parents=True)
    assert pinned(NAME, download=True) == NAME
    with pytest.raises(InputError, match=r"someone/vae/config.json"):
        load(NAME, download=True)


def test_labels_stay_when_names_get_their_commit(hub, network):
    hub.files[FIRST] = repository_of(network)
    names = (NAME, f"mine={NAME}", "moving-shapes", f"{NAME}=random")
    config = with_commits(SpeedConfig(tokenizers=names, download=True))
    name = f"{NAME}@{FIRST}"
    assert config.entries == [
        Entry("vae", name, None),
        Entry("mine", name, None),
        Entry("moving-shapes", "moving-shapes", None),
        Entry(f"{NAME} (random weights)", name, "random"),
    ]
    assert [entry.label for entry in entries_of(names)] == [entry.label for entry in config.entries]
    assert with_commits(config) == config

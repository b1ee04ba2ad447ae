"""An autoencoder of diffusers in a repository of the Hugging Face Hub: found in the Hub's cache on this machine, or
fetched into it when that is asked for.

Of a repository only `config.json`, at its root or in `vae/`, and the safetensors files of that autoencoder are taken.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import InputError
from tokenizer.baselines.diffusers_folder import INDEX, PLAIN, STEM, chosen_weights, class_of, read_config, shards_of
from tokenizer.hub import REPO_ID, hub_client, one_line

_REFERENCE = re.compile(rf"(?P<repo_id>{REPO_ID})(@(?P<revision>[\w.-]+(/[\w.-]+)*))?", re.ASCII)
_PLACES = ("", "vae/")


@dataclass(frozen=True)
class Repository:
    """A repository of the Hub as it was asked for: "user/name" and a branch, tag or commit, None: its main branch."""

    repo_id: str
    revision: str | None

    def __str__(self) -> str:
        return self.repo_id + (f"@{self.revision}" if self.revision else "")


def repository(text: str) -> Repository | None:
    """What "user/name" or "user/name@revision" names; None for a folder that is here, and for what can only be one."""
    found = None if Path(text).is_dir() else _REFERENCE.fullmatch(text)
    return found and Repository(found["repo_id"], found["revision"])


def folder_of(text: str, *, weights: bool, download: bool = False) -> Path:
    """The folder with config.json and weights that `text` names, as `diffusers_folder.load_folder` takes it.

    What was fetched once is found again without the network, and not asked for anew.

    Args:
        text: A folder, "user/name" or "user/name@revision".
        weights: Whether those of the repository are wanted; else its config alone.
        download: Fetch what is not here.

    Raises:
        InputError: If a repository is not here and may not, or cannot, be fetched, or holds no autoencoder.
    """
    wanted = repository(text)
    if wanted is None:  # of a whole pipeline, the autoencoder
        return next((Path(text, place) for place in _PLACES if Path(text, place, "config.json").is_file()), Path(text))
    found = _cached(wanted, weights)
    if found is None and not download:
        raise InputError(
            f"{wanted} is no folder here, and nothing is downloaded unless asked for: if it is a repository of the "
            "Hugging Face Hub, --download (in Python download=True) fetches it; --dry-run never does"
        )
    return found or _fetch(wanted, weights)


def pinned(text: str, *, weights: bool, download: bool = False) -> str:
    """`text`, of a repository with the commit that was found or fetched, so that it means these weights for ever."""
    wanted = repository(text)
    if wanted is None:
        return text
    folder = folder_of(text, weights=weights, download=download)
    commit = folder.name if folder.parent.name == "snapshots" else folder.parent.name
    return f"{wanted.repo_id}@{commit}"


def _cached(wanted: Repository, weights: bool) -> Path | None:
    """The folder in the Hub's cache, if all that is wanted of it is there."""
    client = hub_client()

    def known(file: str):
        return client.try_to_load_from_cache(wanted.repo_id, file, revision=wanted.revision)

    for place in _PLACES:
        config = known(f"{place}config.json")
        if not (isinstance(config, str) and _is_autoencoder(Path(config))):
            continue
        folder = Path(config).parent
        if not weights:
            return folder
        names = {path.name for path in folder.iterdir()}
        try:
            files = chosen_weights(_of_diffusers(names), folder, lambda folder=folder: shards_of(folder / INDEX))
        except InputError:
            continue
        # Other programs may have fetched rounded weights alone; they count where it is known that there are no others.
        whole = PLAIN in names or INDEX in names or known(f"{place}{PLAIN}") is client._CACHED_NO_EXIST
        if whole and names.issuperset(files):
            return folder
    return None


def _fetch(wanted: Repository, weights: bool) -> Path:
    """Fetch what is not in the Hub's cache yet, config first; says before how much it is."""
    from runtime.resources import readable, require_disk

    client = hub_client()  # says what to install, if it is not
    from huggingface_hub import constants

    with one_line(wanted.repo_id):
        place, folder = _fetch_config(wanted)
        read_config(folder)  # refuses what is of no use here
        if not weights:
            return folder
        commit = (folder.parent if place else folder).name

        def fetched(file: str) -> Path:
            return Path(client.hf_hub_download(wanted.repo_id, place + file, revision=commit))

        info = client.HfApi().model_info(wanted.repo_id, revision=commit, files_metadata=True)
        here = [each for each in info.siblings if each.rfilename.startswith(place)]
        sizes = {each.rfilename.removeprefix(place): each.size or 0 for each in here}
        where = f"Hub repository {wanted.repo_id}, folder {place or '.'}"
        files = chosen_weights(_of_diffusers(set(sizes)), where, lambda: shards_of(fetched(INDEX)))
        if PLAIN not in sizes and INDEX not in sizes:
            _note_absent(wanted.repo_id, place + PLAIN, commit)
        absent = [file for file in files if not (folder / file).is_file()]
        size = sum(sizes.get(file, 0) for file in absent)
        cache = Path(constants.HF_HUB_CACHE)
        require_disk(cache, size, f"{wanted.repo_id} from the Hub")
        print(
            f"{wanted.repo_id}@{commit}: fetching {place}{', '.join(absent)}, {readable(size)}, to {cache}", flush=True
        )
        for file in absent:
            fetched(file)
    return folder


def _fetch_config(wanted: Repository) -> tuple[str, Path]:
    """Where in the repository the autoencoder is, and the folder here that holds its config.json."""
    from huggingface_hub.utils import EntryNotFoundError, LocalEntryNotFoundError

    for place in _PLACES:
        try:
            path = hub_client().hf_hub_download(wanted.repo_id, f"{place}config.json", revision=wanted.revision)
        except LocalEntryNotFoundError:  # the Hub did not answer
            raise
        except EntryNotFoundError:
            continue
        if _is_autoencoder(Path(path)):
            return place, Path(path).parent
    raise InputError(f"Hub repository {wanted.repo_id}: neither its root nor vae/ holds an autoencoder of diffusers")


def _note_absent(repo_id: str, file: str, commit: str) -> None:
    """Let the Hub's cache remember that the repository has no such file."""
    from huggingface_hub.utils import EntryNotFoundError

    try:
        hub_client().hf_hub_download(repo_id, file, revision=commit)
    except EntryNotFoundError:
        return


def _is_autoencoder(config: Path) -> bool:
    return (class_of(config) or "").startswith("Autoencoder")


def _of_diffusers(names: set[str]) -> set[str]:
    return {name for name in names if name.startswith(STEM)}

"""Tokenizers on the Hugging Face Hub: fetched only when asked for, sent only when asked for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from runtime.command import CommonFlags, flag
from runtime.errors import InputError, first_line

# What a tokenizer's folder consists of; `video` holds the weights of the video stage, where they differ.
MODEL_FILES = ("config.json", "model.safetensors")
VIDEO_FOLDER = "video"
CARD = "README.md"
# At most 96 characters, no two hyphens or two dots in a row, and none of them last, as the Hub has it.
_PART = r"(?=[A-Za-z0-9][\w.-]{0,95}(?![\w.-]))\w+(?:(?:-\.?|\.-?)\w+)*"
REPO_ID = rf"{_PART}/{_PART}(?<!\.git)"


@dataclass(frozen=True, kw_only=True)
class DownloadFlags(CommonFlags):
    """The flag of commands that may fetch what a tokenizer needs."""

    download: bool = flag(False, "fetch a tokenizer diffusers:USER/NAME of the Hugging Face Hub that is not here yet")


def is_repo_id(name: str | Path) -> bool:
    """Whether `name` reads as a repository of the Hub, "user/name", rather than as a path."""
    return isinstance(name, str) and re.fullmatch(REPO_ID, name, re.ASCII) is not None


def check_repo_id(flag: str, name: str) -> None:
    """InputError, naming `flag`, unless `name` reads as a repository."""
    if not is_repo_id(name):
        raise InputError(f"{flag} {name!r} is no repository of the Hub; give user/name")


def pretrained_folder(
    name_or_path: str | Path, subfolder: str = "", *, download: bool = False, revision: str | None = None
) -> Path:
    """The folder with a tokenizer's config.json and weights: on this machine, or with `download` from the Hub.

    Args:
        name_or_path: A folder, or "user/name".
        subfolder: Folder in it, such as "video".
        download: Fetch a name that is no folder here into the Hub's cache; config and weights alone, no code.
        revision: Branch, tag or commit of the repository.

    Raises:
        InputError: If the name is no folder here and may not, or cannot, be fetched.
    """
    path = Path(name_or_path)
    if not path.is_dir() and is_repo_id(name_or_path):
        if not download:
            raise InputError(
                f"{name_or_path} is no folder here, and nothing is downloaded unless asked for: if it is a repository "
                "of the Hugging Face Hub, give download=True"
            )
        path = _fetch(str(name_or_path), [(Path(subfolder) / file).as_posix() for file in MODEL_FILES], revision)
    return path / subfolder


def _fetch(repo_id: str, files: Sequence[str], revision: str | None) -> Path:
    client = hub_client()
    with one_line(repo_id):
        return Path(client.snapshot_download(repo_id, revision=revision, allow_patterns=list(files)))


@contextmanager
def one_line(repo_id: str) -> Iterator[None]:
    """Turn whatever goes wrong in fetching from a repository into an InputError that says what to do about it."""
    from huggingface_hub import utils

    try:
        yield
    except InputError:
        raise
    except utils.GatedRepoError as error:
        reason = f"it is gated: ask for access at https://huggingface.co/{repo_id}, then `hf auth login`"
        raise InputError(f"Hub repository {repo_id}: {reason}") from error
    except utils.RepositoryNotFoundError as error:
        reason = "there is none of that name, or it is private, which needs `hf auth login`"
        raise InputError(f"Hub repository {repo_id}: {reason}") from error
    except utils.RevisionNotFoundError as error:
        raise InputError(f"Hub repository {repo_id}: it has no such branch, tag or commit") from error
    except utils.LocalEntryNotFoundError as error:  # its words are of its cache
        cause = first_line(error.__cause__) if error.__cause__ else "no connection"
        raise InputError(f"Hub repository {repo_id}: the Hub does not answer ({cause})") from error
    except Exception as error:  # other errors, and those of the network below, have no class in common
        raise InputError(f"Hub repository {repo_id}: download failed ({first_line(error)})") from error


def push_folder(folder: str | Path, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
    """Send a tokenizer's folder to the Hub as one commit; returns the address of the repository, made if need be.

    Args:
        folder: With config.json, model.safetensors and whatever else a tokenizer's folder has; other files stay here,
            and those of an earlier tokenizer that it no longer has are removed there.
        repo_id: "user/name".
        private: Seen by its owner alone; a repository that is public already is refused.
        token: With write access; None: the one of `hf auth login` or `$HF_TOKEN`.

    Raises:
        InputError: If the name is none, huggingface_hub is not installed, or the Hub refuses.
    """
    check_repo_id("repo_id", repo_id)
    client = hub_client()
    files = [*MODEL_FILES, *(f"{VIDEO_FOLDER}/{file}" for file in MODEL_FILES), CARD]
    try:
        api = client.HfApi(token=token)
        address = api.create_repo(repo_id, private=private, exist_ok=True)
        public = private and not api.repo_info(repo_id).private
        if not public:
            api.upload_folder(
                repo_id=repo_id,
                folder_path=str(folder),
                allow_patterns=files,
                delete_patterns=files,
                commit_message="Upload a PV-VAE tokenizer",
            )
    except Exception as error:
        raise InputError(f"Hub repository {repo_id}: upload failed ({first_line(error)})") from error
    if public:
        raise InputError(f"Hub repository {repo_id} is public already; make it private there, or give another name")
    return str(address)


def hub_client() -> ModuleType:
    """The package huggingface_hub, imported only where the Hub is meant; InputError without it."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise InputError(
            f"the Hugging Face Hub needs the package huggingface_hub ({error}); install it: pip install huggingface_hub"
        ) from error
    return huggingface_hub

"""Turning what a user names (`demo`, a folder, a hub id) into a folder; hashing its files."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from pie_jax.errors import InputError, PieError
from pie_jax.hashes import sha256_of
from pie_jax.http_client import environment_fault

DEMO = "demo"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def resolve_folder(name: str | Path, *, demo: str, patterns: list[str], what: str) -> Path:
    """Return the folder of a model or transcoder.

    `name` is `demo`, a folder, or a Hugging Face hub id (`owner/name`, optionally `@revision`),
    whose files matching `patterns` are fetched. Raises `InputError` where it is none of these.
    """
    if str(name) == DEMO:
        return Path(__file__).parent / "demo" / demo
    folder = Path(name).expanduser()
    if str(name) and folder.is_dir():
        return folder
    repo, _, revision = str(name).partition("@")
    if not _HUB_ID.fullmatch(repo) or folder.exists():
        raise InputError(
            f"{what} `{name}` is not a folder; give `demo`, a folder, or a hub id like owner/name."
        )
    return _fetch(repo, revision or None, patterns, what)


def _fetch(repo: str, revision: str | None, patterns: list[str], what: str) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns))
    except GatedRepoError as error:
        raise InputError(
            f"{what} `{repo}` is gated: accept its licence on the hub and log in (`hf auth login`)."
        ) from error
    except (HFValidationError, RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise InputError(
            f"{what} `{repo}` is neither a folder here nor a repository or revision on the hub."
        ) from error
    except LocalEntryNotFoundError as error:
        if constants.HF_HUB_OFFLINE:
            raise InputError(
                f"{what} `{repo}` is no folder here, and the hub is not asked (HF_HUB_OFFLINE or "
                f"TRANSFORMERS_OFFLINE is set); unset it, or name one that is in the cache "
                f"{constants.HF_HUB_CACHE}: {_cached(Path(constants.HF_HUB_CACHE), repo)}."
            ) from error
        raise _unreachable(what, repo, error) from error
    except Exception as error:  # what its HTTP client raises differs between versions
        raise _unreachable(what, repo, error) from error


def _unreachable(what: str, repo: str, error: Exception) -> PieError:
    if (fault := environment_fault(error)) is not None:
        return InputError(f"{what} `{repo}` cannot be fetched: {fault}")
    return PieError(
        f"{what} `{repo}` is no folder here, and the hub cannot be reached "
        f"({type(error).__name__}); check the path or the connection."
    )


def _cached(cache: Path, repo: str) -> str:
    """Return what the hub's cache holds of a repository, or which others it holds."""
    own = cache / f"models--{repo.replace('/', '--')}"
    revisions = [path.name for path in (own / "refs").glob("**/*") if path.is_file()]
    revisions += [path.name for path in (own / "snapshots").glob("*")]
    if revisions:
        return ", ".join(f"{repo}@{revision}" for revision in sorted(revisions))
    others = [path.name[len("models--") :] for path in cache.glob("models--*")]
    return ", ".join(sorted(name.replace("--", "/") for name in others)) or "nothing"


def hash_files(paths: Iterable[Path]) -> dict[str, str]:
    """Return the SHA-256 of each file by its name, in order of names.

    A file in the hub's cache is a link to a blob named after its SHA-256; that is taken as is. Of
    other large files it is remembered while they stay as they are.
    """
    return {path.name: _sha256(path) for path in sorted(paths)}


def _sha256(path: Path) -> str:
    blob = path.resolve()
    if path.is_symlink() and blob.parent.name == "blobs" and _SHA256.fullmatch(blob.name):
        return blob.name
    return sha256_of(path)

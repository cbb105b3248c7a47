"""Turning what a user names (`demo`, a folder, a hub id) into a folder; hashing its files."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from pie_jax.errors import InputError, PieError
from pie_jax.files.hashes import sha256_of
from pie_jax.files.http import environment_fault

DEMO = "demo"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# With a folder behind it, whose last part may be a pattern.
_SUBFOLDER_ID = re.compile(r"(?!\.)[\w.-]+/[\w.-]+(?:/[\w.-]+)*(?:/[\w.*-]+)")
_URI = re.compile(r"hf://([\w.-]+/[\w.-]+)/([^?]+)(?:\?revision=([^&]+))?")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def resolve_folder(
    name: str | Path, *, demo: str, patterns: list[str], what: str, subfolders: bool = False
) -> Path:
    """Return the folder of a model or transcoder.

    `name` is `demo`, a folder, or a Hugging Face hub id (`owner/name`, optionally `@revision`),
    whose files matching `patterns` are fetched. With `subfolders` a folder of the repository may
    follow (`owner/name/sub/folder`), in which the patterns count, and the last part of a path may
    be a pattern of folders. Raises `InputError` where it is none of these.
    """
    if str(name) == DEMO:
        return Path(__file__).parents[1] / "demo" / demo
    folder = Path(name).expanduser()
    if str(name) and (folder.is_dir() or (subfolders and is_pattern(folder))):
        return folder
    repo, _, revision = str(name).partition("@")
    is_sub = subfolders and _SUBFOLDER_ID.fullmatch(repo) is not None
    if not (_HUB_ID.fullmatch(repo) or is_sub) or folder.exists():
        raise InputError(
            f"{what} `{name}` is not a folder; give `demo`, a folder, or a hub id like owner/name."
        )
    owner, own, *rest = repo.split("/")
    within = "/".join(rest)
    if within:
        patterns = [f"{within}/{pattern}" for pattern in patterns]
    fetched = _fetch(f"{owner}/{own}", revision or None, patterns, what) / within
    if within and not (fetched.is_dir() or is_pattern(fetched)):
        raise InputError(
            f"{what} `{name}`: the repository {owner}/{own} has nothing that is read in "
            f"`{within}`; name one of its folders."
        )
    return fetched


def is_pattern(folder: Path) -> bool:
    """Tell whether a path stands for folders that are there, by a `*` in its last part."""
    return "*" in folder.name and any(path.is_dir() for path in folder.parent.glob(folder.name))


def fetch_file(uri: str, what: str) -> Path:
    """Fetch one file of the hub, `hf://owner/name/path?revision=...`, or return it from the cache.

    `what` stands before its name in errors. Raises `InputError` where it is not there.
    """
    from huggingface_hub import hf_hub_download

    match = _URI.fullmatch(uri)
    if match is None:
        raise InputError(
            f"{what} {uri}, which is not like hf://owner/name/path?revision=main; list files by "
            "such addresses, or by their paths in the folder."
        )
    repo, path, revision = match.groups()

    def download() -> str:
        return hf_hub_download(repo, path, revision=revision)

    return _asked(download, f"{what} {uri}:", repo)


def _fetch(repo: str, revision: str | None, patterns: list[str], what: str) -> Path:
    from huggingface_hub import snapshot_download

    def download() -> str:
        return snapshot_download(repo, revision=revision, allow_patterns=patterns)

    return _asked(download, what, repo)


def _asked(download: Callable[[], str], what: str, repo: str) -> Path:
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(download())
    except GatedRepoError as error:
        raise InputError(
            f"{what} `{repo}` is gated: accept its licence on the hub and log in (`hf auth login`)."
        ) from error
    except (HFValidationError, RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise InputError(
            f"{what} `{repo}` is neither a folder here nor a repository or revision on the hub."
        ) from error
    except LocalEntryNotFoundError as error:  # of the kind below
        if constants.HF_HUB_OFFLINE:
            raise InputError(
                f"{what} `{repo}` is no folder here, and the hub is not asked (HF_HUB_OFFLINE or "
                f"TRANSFORMERS_OFFLINE is set); unset it, or name one that is in the cache "
                f"{constants.HF_HUB_CACHE}: {_cached(Path(constants.HF_HUB_CACHE), repo)}."
            ) from error
        raise _unreachable(what, repo, error) from error
    except EntryNotFoundError as error:
        raise InputError(f"{what} `{repo}` has no such file on the hub.") from error
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
    """Return the SHA-256 of each file by its name, in order of names; where two have one name, by
    its path within the folder that holds them all.

    A file in the hub's cache is a link to a blob named after its SHA-256; that is taken as is. Of
    other large files it is remembered while they stay as they are.
    """
    paths = sorted(paths)
    if len({path.name for path in paths}) == len(paths):
        return {path.name: _sha256(path) for path in paths}
    above = os.path.commonpath(paths)
    return {path.relative_to(above).as_posix(): _sha256(path) for path in paths}


def _sha256(path: Path) -> str:
    blob = path.resolve()
    if path.is_symlink() and blob.parent.name == "blobs" and _SHA256.fullmatch(blob.name):
        return blob.name
    return sha256_of(path)

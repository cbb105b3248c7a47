"""Hashes of large files are remembered while the file stays as it is."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from pathlib import Path

import pytest

from pie_jax.files import hashes
from pie_jax.files.hashes import cache_folder, sha256_of

OLD = 1_600_000_000


class Files:
    """A folder of files above the limit, and how often one was read whole."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.path, self.reads = folder / "weights.bin", 0
        self.store = folder / "cache" / "pie_jax" / "sha256.json"
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        read = hashes._read

        def counted(path: Path) -> str:
            self.reads += 1
            return read(path)

        monkeypatch.setattr(hashes, "_read", counted)

    def write(self, content: bytes, changed: int = OLD, path: Path | None = None) -> str:
        """Write a megabyte that starts with `content`, and return its hash."""
        data = content + bytes(1 << 20)
        target = path or self.path
        target.write_bytes(data)
        os.utime(target, (changed, changed))
        return hashlib.sha256(data).hexdigest()

    def hashed(self, sha256: str, reads: int) -> None:
        """Check the file's hash, and that it was read so many times since the last check."""
        self.reads = 0
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert sha256_of(self.path) == sha256
        assert self.reads == reads


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    """Files with a cache folder of their own."""
    return Files(tmp_path, monkeypatch)


def test_a_file_is_read_once(files: Files):
    sha256 = files.write(b"a")
    files.hashed(sha256, reads=1)
    files.hashed(sha256, reads=0)
    (state,) = json.loads(files.store.read_text()).values()
    stat = files.path.stat()
    assert state == [stat.st_size, stat.st_mtime_ns, stat.st_ino, sha256]
    assert [path.name for path in files.store.parent.iterdir()] == ["sha256.json"]


def test_a_changed_file_is_read_again(files: Files):
    files.hashed(files.write(b"a"), reads=1)
    files.hashed(files.write(b"b", OLD + 1), reads=1)  # another time
    files.hashed(files.write(b"cc", OLD + 1), reads=1)  # another size
    other = files.path.with_name("other")
    sha256 = files.write(b"dd", OLD + 1, other)
    other.replace(files.path)  # another inode
    files.hashed(sha256, reads=1)
    files.hashed(sha256, reads=0)
    assert len(json.loads(files.store.read_text())) == 1


def test_a_link_is_the_file_it_leads_to(files: Files):
    sha256 = files.write(b"a")
    files.hashed(sha256, reads=1)
    files.path, target = files.path.with_name("link"), files.path
    files.path.symlink_to(target)
    files.hashed(sha256, reads=0)


def test_small_files_and_those_just_written_are_not_remembered(files: Files):
    files.path.write_bytes(b"small")
    files.hashed(hashlib.sha256(b"small").hexdigest(), reads=1)
    sha256 = files.write(b"a")
    os.utime(files.path)
    files.hashed(sha256, reads=1)
    assert not files.store.exists()


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"a": 1}', '{"a": [1, 2, 3]}', '{"a": [1, 2, 3, "x"]}', "\udcff"]
)
def test_a_damaged_cache_is_named_and_written_anew(files: Files, content: str):
    files.store.parent.mkdir(parents=True)
    files.store.write_bytes(content.encode(errors="surrogateescape"))
    sha256 = files.write(b"a")
    with pytest.warns(RuntimeWarning, match=r"sha256\.json"):
        assert sha256_of(files.path) == sha256
    files.hashed(sha256, reads=0)


def test_a_cache_that_cannot_be_written_is_named(files: Files):
    sha256 = files.write(b"a")
    files.store.parent.parent.write_text("a file where the folder would be")
    with pytest.warns(RuntimeWarning, match=r"sha256\.json: cannot be"):
        assert sha256_of(files.path) == sha256


def test_the_cache_folder_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "pie_jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "pie_jax"


def test_without_a_home_nothing_is_kept_and_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nowhere)
    hashes._warn_of_no_home.cache_clear()
    path = tmp_path / "large"
    path.write_bytes(b"x" * (1 << 20))
    with pytest.warns(RuntimeWarning, match="no home folder.*XDG_CACHE_HOME") as said:
        found = [sha256_of(path), sha256_of(path)]
    assert found == [hashlib.sha256(path.read_bytes()).hexdigest()] * 2
    assert len(said) == 1

"""Files are written whole or not at all, and a disk that does not take them is named."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from refusals import refuses

from pie_jax.errors import PieError
from pie_jax.files.atomic import replacing
from pie_jax.prune.results.folder_lock import LOCK, locked


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left on device"),
        (OSError("Error writing bytes to file"), "Error writing bytes"),
    ],
)
def test_a_full_disk_leaves_the_old_file_and_no_half_one(
    error: OSError, cause: str, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise error

    refuses(write, path, cause, "kept", kind=PieError)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_lock_is_free_again_after_its_run(tmp_path: Path) -> None:
    def second() -> None:
        with locked(tmp_path):
            pytest.fail("two runs write")

    with locked(tmp_path):
        refuses(second, tmp_path, str(os.getpid()), kind=PieError)
    assert not list(tmp_path.iterdir())
    # What a killed run leaves says nothing.
    (tmp_path / LOCK).write_text("process 1 on elsewhere,\n")
    with locked(tmp_path):
        assert str(os.getpid()) in (tmp_path / LOCK).read_text()

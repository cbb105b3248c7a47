"""Compiled programs and what the system lets a process hold of them."""

from __future__ import annotations

from pathlib import Path

import jax

# Linux counts the mappings of a process, of which every compiled program for a CPU has several;
# beyond the most that it grants, compiling ends in a crash.
_MAPPINGS = Path("/proc/self/maps")
_MOST_MAPPINGS = Path("/proc/sys/vm/max_map_count")
SHARE = 0.6


def make_room() -> None:
    """Let go of compiled programs when they take most of the mappings that the process may have.

    Those that are still needed are compiled again, or read from the compile cache.
    """
    if not _MAPPINGS.exists():
        return
    with _MAPPINGS.open("rb") as file:
        mappings = sum(1 for _ in file)
    if mappings > SHARE * int(_MOST_MAPPINGS.read_text()):
        jax.clear_caches()

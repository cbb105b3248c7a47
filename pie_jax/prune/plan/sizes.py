"""Amounts of memory as people write them."""

from __future__ import annotations

import re

from pie_jax.errors import InputError

_UNITS = {
    "B": 1,
    **{f"{letter}B": 1000**power for power, letter in enumerate("KMGT", 1)},
    **{f"{letter}iB": 1024**power for power, letter in enumerate("KMGT", 1)},
}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)")


def parse_size(text: str, option: str) -> int:
    """Read a size such as `80GiB` or `24 GB` in bytes; `option` is named in errors."""
    match = _SIZE.fullmatch(text.strip())
    units = {unit.lower(): size for unit, size in _UNITS.items()}
    size = units.get(match[2].lower()) if match else None
    if match is None or size is None:
        raise InputError(f"{option}: `{text}` is not a size; write one like 80GiB or 24GB.")
    found = int(float(match[1]) * size)
    if found < 1:
        raise InputError(f"{option}: `{text}` is nothing; write a size like 80GiB.")
    return found


def show_size(size: int | float) -> str:
    """Return a number of bytes in words, to three digits: `1.50 GiB`."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size >= _UNITS[unit]:
            number = size / _UNITS[unit]
            return f"{number:.{2 if number < 10 else 1 if number < 100 else 0}f} {unit}"
    return f"{size:.0f} B"

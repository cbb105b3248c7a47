"""Rooms import downwards only, in the order of the table in docs/architecture.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOST_FILES, MOST_LINES = 12, 400


def rooms() -> list[str]:
    """Return the rooms of the architecture page, the lowest first."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = page.split("| room | what |")[1].split("\n\n")[0]
    first = [line.split("|")[1] for line in table.splitlines()[2:]]
    return [name for cell in first for name in re.findall(r"`([\w.]+)`", cell)]


def modules() -> dict[str, Path]:
    """Return every module of the package by its name."""
    found = {}
    for path in [*ROOT.glob("pie_jax/**/*.py"), *ROOT.glob("kernels/**/*.py")]:
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[:2] == ("pie_jax", "kernels"):
            continue  # a link to kernels/
        name = ".".join(parts if parts[0] == "pie_jax" else ("pie_jax", *parts))
        found[name.removesuffix(".__init__")] = path
    return found


def imports(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """Yield the modules of the package that a file imports anywhere, but for types alone."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "pie_jax":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in known else str(node.module)
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] == "pie_jax")


def room_of(module: str, names: list[str]) -> str | None:
    """Return the most precise room that holds a module; None for the public API itself."""
    inner = module.removeprefix("pie_jax").removeprefix(".")
    holds = [name for name in names if inner == name or inner.startswith(f"{name}.")]
    return max(holds, key=len, default=None)


def test_every_module_has_a_room():
    names = rooms()
    homeless = [name for name in modules() if room_of(name, names) is None]
    assert homeless == ["pie_jax", "pie_jax.__main__"]


def test_imports_exist_and_go_down():
    names, known = rooms(), modules()
    wrong = []
    for module, path in known.items():
        here = room_of(module, names)
        for target in imports(path, known):
            there = room_of(target, names)
            if target not in known:
                wrong.append(f"{module} imports {target}, which is not there")
            elif here and there and names.index(there) > names.index(here):
                wrong.append(f"{module} imports {target}, which is above it")
            elif here and there is None and here != "cli":
                wrong.append(f"{module} imports the public API")
    assert wrong == []


@pytest.mark.parametrize("top", ["pie_jax", "kernels", "benchmarks", "tests"])
def test_folders_and_files_are_small(top: str):
    crowded, long = [], []
    for folder in [ROOT / top, *(ROOT / top).rglob("*/")]:
        if folder.is_symlink() or "pie_jax/kernels" in folder.as_posix():
            continue
        files = sorted(folder.glob("*.py"))
        if len(files) > MOST_FILES:
            crowded.append(f"{folder.relative_to(ROOT)}: {len(files)} files")
        for path in files:
            lines = path.read_text(encoding="utf-8").count("\n")
            if lines > MOST_LINES:
                long.append(f"{path.relative_to(ROOT)}: {lines} lines")
    assert (crowded, long) == ([], [])

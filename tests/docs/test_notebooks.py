"""The notebooks run from top to bottom, and are small and clean."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

_spec = importlib.util.spec_from_file_location("execute", ROOT / "notebooks/execute.py")
assert _spec is not None
assert _spec.loader is not None
execute = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(execute)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path: Path, tmp_path: Path):
    notebook = json.loads(path.read_text("utf-8"))
    printed = execute.execute(notebook, tmp_path)
    stored = ["".join(o["text"]) for c in execute.code_cells(notebook) for o in c["outputs"]]
    # As many lines as are stored, whatever the last digits.
    assert [len(t.splitlines()) for t in printed if t] == [len(t.splitlines()) for t in stored]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_small_and_their_links_lead_somewhere(path: Path):
    text = path.read_text("utf-8")
    notebook = json.loads(text)
    assert len(text.encode()) <= execute.MOST_BYTES
    code = execute.code_cells(notebook)
    assert "pip" in "".join(code[0]["source"])
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            for link in re.findall(r"\]\(([^)#]+)[^)]*\)", "".join(cell["source"])):
                assert (path.parent / link).is_file(), link


def test_an_error_in_a_cell_is_one(tmp_path: Path):
    cell = {"cell_type": "code", "source": ["print(1)\n", "1 / 0"], "outputs": []}
    with pytest.raises(ZeroDivisionError):
        execute.execute({"cells": [cell]}, tmp_path)

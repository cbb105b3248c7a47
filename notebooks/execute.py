"""Execute notebooks in this process, and write what their cells print into them.

    python notebooks/execute.py                      # all of them
    python notebooks/execute.py 1-first-circuit.ipynb

It runs them as Jupyter does, from their folder, cell after cell in one namespace, but needs no
Jupyter; so cells print what they show, and hold no magics.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
MOST_BYTES = 100_000


def execute(notebook: dict[str, Any], folder: Path) -> list[str]:
    """Run a notebook's code cells from a folder, and return what each printed to stdout."""
    printed, names = [], {"__name__": "__main__"}
    with contextlib.chdir(folder):
        for number, cell in enumerate(code_cells(notebook), 1):
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
            printed.append(out.getvalue())
    return printed


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the cells that hold code."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def with_outputs(notebook: dict[str, Any], printed: list[str]) -> str:
    """Return a notebook's text with what its cells printed, and nothing of an earlier run."""
    for number, (cell, text) in enumerate(zip(code_cells(notebook), printed, strict=True), 1):
        lines = text.splitlines(keepends=True)
        output = {"name": "stdout", "output_type": "stream", "text": lines}
        cell["outputs"] = [output] if lines else []
        cell["execution_count"] = number
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    names = sys.argv[1:] or sorted(path.name for path in FOLDER.glob("*.ipynb"))
    for name in names:
        path = FOLDER / name
        notebook = json.loads(path.read_text("utf-8"))
        with tempfile.TemporaryDirectory() as folder:
            text = with_outputs(notebook, execute(notebook, Path(folder)))
        if len(text.encode()) > MOST_BYTES:
            raise SystemExit(f"{path}: has more than {MOST_BYTES:,} bytes; print less")
        path.write_text(text, "utf-8")
        print(f"{path}: {len(text.encode()):,} bytes")


if __name__ == "__main__":
    os.environ.setdefault("COLUMNS", "100")
    main()

"""Fenced blocks of the README and the pages, and the commands that their shell blocks give.

A block of bash or Python is run by the tests unless the line above it says why not:
`<!-- not run: needs a GPU -->`. Bash itself reads the shell blocks: what they call is replaced by a
script that writes down its name and arguments.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# All that a page may call; a word that is none of these is a failure.
CALLED = "apt-get bash cp mkdir pie-jax pip pytest python python3 srun transformers unzip".split()
ENVIRONMENTS = (".venv", ".venv-test")
IN_ENVIRONMENTS = "mypy pie-jax pip pre-commit pytest ruff".split()

_NOT_RUN = re.compile(r"^<!-- (?:not run: (?P<why>.+\S)|(?P<test>test command)) -->$")
_END = "\x1e"  # ends a command in the record; no page has it
_RECORD = """#!{bash}
name=${{0##*/}}
if [ "$name" = srun ]; then
    while [[ "$1" == -* ]]; do shift; done
    exec "$@"
fi
printf '%s\\0' "$name" "$@" $'\\x1e' >> "$RECORD"
"""


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, line, language and text, and why it is not run if it is not."""

    page: str
    line: int
    language: str
    code: str
    not_run: str | None

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """Return a page's blocks of bash and Python, in order."""
    found, lines = [], page.read_text("utf-8").splitlines()
    inside: tuple[int, str, str | None] | None = None
    code: list[str] = []
    for number, line in enumerate(lines, 1):
        if inside is None and line.startswith("```"):
            why = _NOT_RUN.match(lines[number - 2]) if number > 1 else None
            reason = (why["why"] or ".ci/run runs it") if why else None
            inside, code = (number, line[3:].strip(), reason), []
        elif inside is not None and line.startswith("```"):
            if inside[1] in ("bash", "python"):
                found.append(Block(page.name, inside[0], inside[1], "\n".join(code), inside[2]))
            inside = None
        elif inside is not None:
            code.append(line)
    return found


def commands(code: str, folder: Path) -> list[list[str]]:
    """Return the commands that a shell block calls, name and arguments each, in an empty folder.

    Raises `AssertionError` for a command that no page is expected to call.
    """
    bash = shutil.which("bash")
    assert bash is not None, "the pages' shell blocks need bash"
    programs, record = folder / "programs", folder / "record"
    places = [(programs, CALLED)]
    places += [(folder / name / "bin", IN_ENVIRONMENTS) for name in ENVIRONMENTS]
    for place, names in places:
        place.mkdir(parents=True)
        for name in names:
            (place / name).write_text(_RECORD.format(bash=bash))
            (place / name).chmod(0o755)
    environment = {"PATH": str(programs), "RECORD": str(record)}
    done = subprocess.run(
        [bash, "-c", f"{code}\nwait"], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert "not found" not in done.stderr, done.stderr
    assert "syntax error" not in done.stderr, done.stderr
    words = record.read_text("utf-8").split("\0")[:-1] if record.exists() else []
    found: list[list[str]] = [[]]
    for word in words:
        if word == _END:
            found.append([])
        else:
            found[-1].append(word)
    return found[:-1]

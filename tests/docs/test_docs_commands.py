"""Every command of every page is one that exists, with options that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer
from docs_blocks import PAGES, ROOT, Block, blocks, commands

from pie_jax.cli.app import app

SHELL = [one for page in PAGES for one in blocks(page) if one.language == "bash"]
PYTHON = [one for page in PAGES for one in blocks(page) if one.language == "python"]


def parse(arguments: list[str]) -> None:
    """Parse a `pie-jax` command without running it; raises what the command line would show."""
    command, name, rest = typer.main.get_command(app), "pie-jax", arguments
    while known := getattr(command, "commands", None):
        if not rest or rest[0] not in known:
            raise LookupError(f"{name} has no command {rest[:1]}")
        command, name, rest = known[rest[0]], rest[0], rest[1:]
    command.make_context(name, list(rest))


def wrong(command: list[str]) -> str | None:
    """Return what is wrong with a command of a page, None where nothing is."""
    name, *arguments = command
    if name == "pie-jax":
        try:
            parse(arguments)
        except Exception as error:  # of whatever kind: the sentence is what counts
            return f"{getattr(error, 'message', None) or error}"
    if name in ("python", "bash") and arguments:
        return _wrong_script(*arguments)
    return None


def _wrong_script(first: str, *rest: str) -> str | None:
    if first == "-m" and rest[0].split(".")[0] in ("benchmarks", "pie_jax"):
        path = ROOT / rest[0].replace(".", "/")
        sources = [path.with_suffix(".py"), *path.rglob("*.py"), *path.parent.glob("*.py")]
        if not (sources[0].is_file() or (path / "__main__.py").is_file()):
            return f"no module {rest[0]}"
        shared = (ROOT / "benchmarks").rglob("*.py")
        text = "".join(one.read_text("utf-8") for one in {*sources, *shared} if one.is_file())
        # As argparse has it, or as typer makes it of a name.
        missing = [
            word
            for word in rest
            if word.startswith("--")
            and f'"{word}"' not in text
            and f"{word[2:].replace('-', '_')}: " not in text
        ]
        return f"{rest[0]} has no option {missing[0]}" if missing else None
    if first.endswith((".py", ".sh")) and not (ROOT / first).is_file():
        return f"no file {first}"
    return None


@pytest.mark.parametrize("block", SHELL, ids=lambda block: block.place)
def test_commands_exist_with_their_options(block: Block, tmp_path: Path):
    found = commands(block.code, tmp_path)
    assert found, "the block calls nothing"
    assert [(one, why) for one in found if (why := wrong(one))] == []


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.place)
def test_python_compiles_and_its_imports_are_there(block: Block):
    compile(block.code, block.place, "exec")
    for line in re.findall(r"^(?:from pie_jax|import pie_jax).*", block.code, re.MULTILINE):
        exec(line, {})
    import pie_jax

    names = set(re.findall(r"\bpie_jax\.(\w+)\(", block.code))
    assert names <= set(dir(pie_jax)), names - set(dir(pie_jax))


def test_commands_that_are_in_no_block_are_found():
    indented = [
        f"{page.name}: {line}"
        for page in PAGES
        for line in page.read_text("utf-8").splitlines()
        if re.match(r"    +(python3? -m|pie-jax|pip install|bash) ", line)
        and "```" not in line
        and not any(line in block.code for block in blocks(page))
    ]
    assert indented == []


def test_faults_are_found(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- not run: a GPU -->\n```bash\npie-jax prune --bogus 1\n```\n"
        "```bash\nx='a b'\npie-jax $x && pie-jax run --out results\n"
        "srun --ntasks=2 pie-jax plan\n```\n"
    )
    first, second = blocks(page)
    assert (first.not_run, second.not_run) == ("a GPU", None)
    (one,) = commands(first.code, tmp_path / "1")
    assert "--bogus" in str(wrong(one))
    found = commands(second.code, tmp_path / "2")
    assert sorted(found) == [
        ["pie-jax", "a", "b"],
        ["pie-jax", "plan"],
        ["pie-jax", "run", "--out", "results"],
    ]
    assert wrong(["pie-jax", "a"]) is not None
    assert wrong(["pie-jax", "run", "--out", "results"]) is None
    assert wrong(["python", "-m", "benchmarks.nothing"]) == "no module benchmarks.nothing"
    assert wrong(["python", "-m", "benchmarks.prune", "--bogus"]) is not None
    with pytest.raises(AssertionError, match="not found"):
        commands("make", tmp_path / "3")

"""The blocks of the README and the pages run, page by page, on the demo.

What stands for the reader's own is the demo's: its model and transcoder, pairs and a corpus that
are made here. Blocks that say `<!-- not run: why -->` are left out.
"""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
from cli_helpers import pie
from docs_blocks import PAGES, blocks, commands

import pie_jax
from pie_jax.demo.corpus import write_corpus
from pie_jax.tasks import ioi, write_pairs

pytestmark = pytest.mark.slow

RUN = [page for page in PAGES if any(one.not_run is None for one in blocks(page))]
# What a page names that a test does not have, large numbers, and a second set of programs.
STAND_INS = {
    r"meta-llama/Llama-3\.2-1B\b": "demo",
    r"mntss/clt-llama-3\.2-1b-524k\b": "demo",
    r"-n (100|64)\b": "-n 4",
    r"--dtype bfloat16\b": "--dtype float32",
}
# For commands that leave methods or the number of features to their defaults, which take minutes.
METHODS = ["--method", "fap,random", "--budget", "5,20"]
FEATURES = ["--features", "3", "--baselines", "1"]
FEW = {
    "run": [*METHODS, *FEATURES],
    "prune": METHODS,
    "examples": FEATURES,
    "interpret": FEATURES,
}


def own_files(folder: Path) -> None:
    """Write what a page takes as the reader's own: pairs.jsonl, pairs.csv and corpus.jsonl."""
    folder.mkdir()
    pairs = folder / "pairs.jsonl"
    write_pairs(pairs, ioi.generate(4, seed=0, tokenizer=pie_jax.load_model("demo").tokenizer))
    rows = [json.loads(line) for line in pairs.read_text("utf-8").splitlines()]
    with (folder / "pairs.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    write_corpus(folder / "corpus.jsonl", 200, seed=0)


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    work = tmp_path / "work"
    own_files(work)
    monkeypatch.chdir(work)
    names = {
        "pie_jax": pie_jax,
        "model": pie_jax.load_model("demo"),
        "clt": pie_jax.load_transcoder("demo"),
        "pairs": pie_jax.load_pairs("pairs.jsonl"),
    }
    for block in blocks(page):
        if block.not_run is not None:
            continue
        code = block.code
        for pattern, stand_in in STAND_INS.items():
            code = re.sub(pattern, stand_in, code)
        if block.language == "python":
            exec(compile(code, block.place, "exec"), names)
            continue
        for command in commands(code, tmp_path / str(block.line)):
            assert command[0] == "pie-jax", f"{block.place}: only pie-jax is run here"
            few = [] if "--method" in command else FEW.get(command[1], [])
            status = pie(monkeypatch, *command[1:], *few)
            assert status == 0, f"{block.place}: {command}\n{capsys.readouterr().err[-2000:]}"

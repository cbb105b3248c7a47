"""What `benchmarks.prune` is given is used as it is, and never overwritten."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from refusals import refuses

from benchmarks.parts.prune_weights import given_pairs, require_weights, require_words
from benchmarks.parts.random_weights import SHAPES, make_pairs
from pie_jax.tasks import write_pairs

TINY = replace(SHAPES["tiny"], layers=1, d_model=16, d_mlp=16, heads=1, features=8, l0=2)


def test_half_of_the_weights_are_refused_and_left_alone(tmp_path: Path) -> None:
    for name, other in (("model", "transcoder"), ("transcoder", "model")):
        folder = tmp_path / name
        (folder / name).mkdir(parents=True)
        (folder / name / "precious").write_text("years of work")
        refuses(lambda folder=folder: require_weights(TINY, folder), folder, f"`{other}`")
        assert [path.name for path in folder.rglob("*") if path.is_file()] == ["precious"]


def test_nothing_is_made_beside_other_files(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("years of work")
    refuses(lambda: require_weights(TINY, tmp_path), tmp_path, "other files")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_weights_are_made_once(tmp_path: Path) -> None:
    require_weights(TINY, tmp_path / "new")
    made = {p: p.stat().st_mtime_ns for p in (tmp_path / "new").rglob("*") if p.is_file()}
    assert {path.name for path in made} > {"config.json", "config.yaml", "tokenizer.json"}
    require_weights(TINY, tmp_path / "new")
    assert {path: path.stat().st_mtime_ns for path in made} == made
    require_words(tmp_path / "new", make_pairs(TINY, 3))


def test_pairs_may_be_given_and_must_be_for_another_tokenizer(tmp_path: Path, golden: Path) -> None:
    shutil.copytree(golden / "reference" / "llama" / "model", tmp_path / "model")
    refuses(lambda: require_words(tmp_path, make_pairs(TINY, 3)), tmp_path, "--pairs")
    path, pairs = tmp_path / "pairs.jsonl", make_pairs(TINY, 3)
    write_pairs(path, pairs)
    assert given_pairs(path, TINY, 2) == pairs[:2]
    refuses(lambda: given_pairs(path, TINY, 4), path, "3 pairs", "4")

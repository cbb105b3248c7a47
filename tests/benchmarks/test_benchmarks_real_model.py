"""The benchmark of a real model: its texts, its chunks of pruning, its figures; no model runs."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from refusals import refuses

from benchmarks.real import chunks, claims, corpus, tables, weights

GROUPS = (
    chunks.Group("cheap", ("fap", "random"), (10, 100), 2),
    chunks.Group("random", ("random",), (1000,), 2),
    chunks.Group("unseen", ("fap",), (10,), 2),
    chunks.Group("fap-synergy", ("fap-synergy",), (10, 100), 2),
)


def test_html_and_wiki_become_prose():
    page = '<h1>T</h1><p>One <b>two</b>\n three.</p><div class="para">Four.</div><pre>x</pre>'
    assert corpus.plain_html(page) == "One two three.\nFour."
    prose = "'''Bold''' text on [[a page|the page]] and [[another]], which is long enough to stay."
    text = f"== Title ==\n{{{{Box|a {{{{b}}}}}}}}\n{prose}<ref name=x>cited</ref>\n* item\n"
    assert corpus.plain_wiki(text) == (
        "Bold text on the page and another, which is long enough to stay."
    )


def test_documents_end_at_line_ends_and_tiny_ones_are_dropped():
    text = "\n".join("word " * 20 for _ in range(100)) + "\nend"
    found = list(corpus.documents_of(text))
    assert [len(one) > 3000 for one in found] == [True] * 3 + [False]
    assert list(corpus.documents_of("short")) == []


def test_docstrings_stand_behind_their_signature():
    source = 'def f(a, *, b=1):\n    """Do.\n\n    :param a: what\n    """\n\ndef g(): pass\n'
    assert list(corpus.docstrings(source)) == [
        'def f(a, *, b=1):\n    """Do.\n\n    :param a: what\n    """'
    ]


def test_a_folder_without_the_packages_is_refused(tmp_path: Path):
    refuses(lambda: corpus.write_corpus(tmp_path, tmp_path / "c.jsonl"), "`news`", "unpack")
    assert list(tmp_path.iterdir()) == []


def _measured(methods: tuple[str, ...], budgets: tuple[int, ...], start: int, count: int) -> dict:
    kl = {
        method: {str(k): [(start + i + 1) / k for i in range(count)] for k in budgets}
        for method in methods
    }
    undefined = {method: {str(k): [float("nan")] * count for k in budgets} for method in methods}
    return {
        **{"kl": kl, "completeness": kl, "faithfulness": undefined, "against": kl},
        "cpu_seconds": float(count),
        "null": [5.0] * count,
        "occurrences": [9000] * count,
        "seconds": dict.fromkeys(methods, float(4 - start)),
        "all_seconds": 4.0,
    }


def _chunk_work(folder: Path, group: chunks.Group, calls: list[str]) -> list:
    def measure(path: Path, which: slice) -> dict:
        calls.append(path.name)
        count = which.stop - which.start
        return _measured(group.methods, group.budgets, which.start, count)

    return [
        (path, lambda path=path, which=which: measure(path, which))
        for path, which in chunks.chunk_files(folder, "ioi", group, 3)
    ]


def test_chunks_stop_at_the_deadline_and_go_on_where_they_stopped(tmp_path: Path):
    calls: list[str] = []
    work = _chunk_work(tmp_path, GROUPS[0], calls)
    assert chunks.run_chunks(work, time.monotonic() - 1, print) == 2
    assert chunks.run_chunks(work[:1], time.monotonic() + 60, print) == 0
    assert chunks.run_chunks(work, time.monotonic() + 60, print) == 0
    assert calls == ["000-002.json", "002-003.json"]
    joined = chunks.joined(tmp_path, "ioi", GROUPS[0])
    assert joined is not None
    np.testing.assert_allclose(joined["kl"]["fap"][10], [0.1, 0.2, 0.3])
    # The first chunk took 2 s a prompt, the second of one prompt 2 s.
    assert joined["seconds"]["fap"] == pytest.approx(2.0)
    assert chunks.joined(tmp_path, "docstring", GROUPS[0]) is None


def test_figures_and_tables_hold_what_was_measured(tmp_path: Path):
    for group in GROUPS[:3]:
        chunks.run_chunks(_chunk_work(tmp_path / "prune", group, []), np.inf, lambda _: None)
    # Of the baseline one chunk only.
    work = _chunk_work(tmp_path / "prune", GROUPS[3], [])[:1]
    chunks.run_chunks(work, np.inf, lambda _: None)
    more = chunks.UNSEEN_MORE
    chunks.run_chunks(_chunk_work(tmp_path / "prune", more, []), np.inf, lambda _: None)
    found = tables.figures(tmp_path, ("ioi", "docstring"), (*GROUPS, more))
    assert found["training"] is None
    assert list(found["tasks"]) == ["ioi"]
    ioi = found["tasks"]["ioi"]
    assert ioi["kl"]["fap"][10]["n"] == 3
    assert ioi["ratio to fap-synergy"]["fap"][10] == {"mean": 1, "low": 1, "high": 1, "n": 2}
    text = "\n".join(tables.markdown(json.loads(json.dumps(found, default=str)) | found))
    assert "| fap-synergy | 0.150 [0.10, 0.20] | 0.015 [0.01, 0.02] | 2 | 2.00 |" in text
    assert "**ioi on unseen corruptions**" in text
    assert list(found["unseen"]["ioi"]["kl"]) == ["fap", "auto, 8 more made"]
    assert "\nmedian completeness\n" in text
    assert "| fap-synergy | 0.15 | 0.0" in text
    assert ioi["median faithfulness"]["fap"] == {10: None, 100: None}
    assert ioi["CPU seconds a prompt"] == {"fap+random": 1.0, "fap-synergy": 1.0}


def test_the_trade_off_of_the_weight_has_a_table(tmp_path: Path):
    for group in chunks.WEIGHTS[:2]:
        chunks.run_chunks(_chunk_work(tmp_path / "prune", group, []), np.inf, lambda _: None)
    found = weights.weights(tmp_path, ("ioi", "docstring"))
    assert list(found) == ["ioi"]
    assert list(found["ioi"]) == ["0", "0.03"]
    assert found["ioi"]["0.03"]["left"][100] == pytest.approx(0.02)
    assert "| 0.03 | 0.2000, 0.20 | " in "\n".join(weights.rows(found))


def test_a_group_may_stop_before_the_last_pairs(tmp_path: Path):
    few = chunks.Group("few", ("fap",), (10,), 2, pairs=3)
    names = [path.name for path, _ in chunks.chunk_files(tmp_path, "ioi", few, 8)]
    assert names == ["000-002.json", "002-003.json"]


def test_random_sizes_for_equal_kl_are_between_budgets():
    prompts = np.array([1.0, 2.0, 3.0])
    random = {size: prompts * 100 / size for size in (10, 100, 1000)}
    found = claims.random_size(random, prompts * 0.5)
    assert found is not None
    assert found["size"] == pytest.approx(200)
    assert found["low"] == pytest.approx(200)
    assert claims.random_size(random, prompts * 0.01)["bound"] == ">"

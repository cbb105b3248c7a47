"""The whole page: self-contained, well-formed, escaped, and honest about what is undefined."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import Reference
from page_helpers import OUTSIDE, Page

import pie_jax
from pie_jax.errors import InputError
from pie_jax.features.texts import TokenText
from pie_jax.models.tokenizer import Tokenizer
from pie_jax.prune.results.tables import PruneResult
from pie_jax.report import write_report
from pie_jax.report.explained import Explained, ExplainedRow, pieces, score_cell
from pie_jax.tasks import Pair, read_pairs

HOSTILE = "<script>alert(1)</script>"


@dataclass
class Run:
    """A finished run and what it was run on."""

    result: PruneResult
    reference: Reference
    pairs: list[Pair]

    def write(self, path: Path, **changes) -> str:
        """Write a report and return its text."""
        given = {
            "model": self.reference.model,
            "transcoder": self.reference.transcoder,
            "pairs": self.pairs,
            **changes,
        }
        write_report(given.pop("result", self.result), path, **given)
        return path.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def run(reference: Callable[[str], Reference]) -> Run:
    tiny = reference("llama")
    pairs = read_pairs(tiny.folder / "prompts.jsonl")[:3]
    pairs[0] = replace(
        pairs[0],
        clean=f"{HOSTILE} {pairs[0].clean}",
        corrupted=(f"{HOSTILE} {pairs[0].corrupted[0]}",),
    )
    pairs.append(Pair("too short", ("too brief",), "Anna", "Peter"))
    result = pie_jax.prune(
        tiny.model,
        tiny.transcoder,
        pairs,
        methods=("fap", "random"),
        budgets=(4, 8, 16),
        batch_size=4,
        on_bad_pair="skip",
    )
    return Run(result, tiny, pairs)


@pytest.fixture(scope="session")
def page(run: Run, tmp_path_factory: pytest.TempPathFactory) -> str:
    return run.write(tmp_path_factory.mktemp("report") / "report.html")


def _drop_faithfulness(result: PruneResult, prompts: set[int]) -> PruneResult:
    """Return a result whose faithfulness is undefined for some prompts."""
    table = result.behaviour
    lost = np.isin(table["prompt"].to_numpy(), list(prompts))
    for name in ("faithfulness", "completeness"):
        column = pa.array(table[name].to_numpy(zero_copy_only=False), mask=lost)
        table = table.set_column(table.schema.get_field_index(name), name, column)
    reason = pa.array(np.where(lost, "metric_clean equals metric_null", None), pa.string())
    at = table.schema.get_field_index("undefined")
    return replace(result, behaviour=table.set_column(at, "undefined", reason))


def test_page_is_well_formed_and_nothing_comes_from_outside(page: str) -> None:
    parsed = Page(page)
    tags = {tag for tag, _ in parsed.seen}
    assert tags.isdisjoint({"link", "img", "iframe", "object", "embed", "base"})
    assert not OUTSIDE.search(page)


def test_page_stays_small(page: str) -> None:
    assert len(page.encode()) < 500_000


def test_page_tells_what_was_run(page: str, run: Run) -> None:
    text = Page(page).text()
    for words in ("logit-diff", "corrupted-prompt", "1 too-short", "4, 8, 16", "fap", "random"):
        assert words in text
    for version in run.result.record["versions"].values():
        assert version in text


def test_page_shows_the_run_s_numbers(page: str, run: Run) -> None:
    text = Page(page).text()
    for row in run.result.summary().values():
        for mean in row.values():
            assert mean is not None
            assert f"{mean.mean:.3f}" in text or f"{mean.mean:.2f}" in text


def test_hostile_texts_are_escaped(run: Run, tmp_path: Path) -> None:
    model = replace(run.reference.model, name=f"{HOSTILE} model")
    transcoder = replace(run.reference.transcoder, name=f'"><img {HOSTILE}')
    path = tmp_path / "report.html"
    page = run.write(path, model=model, transcoder=transcoder, title=f"</title>{HOSTILE}")
    parsed = Page(page)
    # The page's own data and script, and no other.
    assert [tag for tag, _ in parsed.seen].count("script") == 2
    assert "<script>alert" not in page
    assert parsed.text().count(HOSTILE) >= 4


def test_a_token_cannot_end_the_data(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tokenizer, "token", lambda self, index: f"</script>{HOSTILE}")
    page = run.write(tmp_path / "report.html")
    assert [tag for tag, _ in Page(page).seen].count("script") == 2


def test_half_a_surrogate_pair_can_be_written(run: Run, tmp_path: Path) -> None:
    first = replace(run.pairs[0], target="\ud800")
    page = run.write(tmp_path / "report.html", pairs=[first, *run.pairs[1:]])
    assert "\\ud800" in page


def test_first_features_are_readable_without_the_script(page: str, run: Run) -> None:
    start = page.index('class="features"')
    body = page[start : page.index("</table>", start)]
    data = _data(page)
    shown = data["lists"]["fap/8"]
    assert body.count("<tr>") == len(shown["rows"]) + 1
    table = run.result.features.to_pylist()
    mine = [row for row in table if row["method"] == "fap" and row["budget"] == 8]
    assert shown["total"] == len(mine)
    most = max(mine, key=lambda row: (row["prompts_kept"], row["mean_abs_score"]))
    assert shown["rows"][0][:4] == [
        most["layer"],
        most["feature"],
        most["prompts_kept"],
        most["prompts_active"],
    ]


def test_data_covers_every_method_and_budget(page: str) -> None:
    data = _data(page)
    assert set(data["lists"]) == {f"{m}/{b}" for m in ("fap", "random") for b in (4, 8, 16)}
    for part in data["lists"].values():
        for layer, feature, *_ in part["rows"]:
            promoted, suppressed = data["tokens"][f"{layer}/{feature}"]
            assert len(promoted) == len(suppressed) == 6


def test_map_holds_the_first_prompt_s_circuit(page: str, run: Run) -> None:
    selections = run.result.selections.to_pylist()
    mine = [s for s in selections if (s["prompt"], s["method"], s["budget"]) == (0, "fap", 8)]
    for one in mine:
        place = f"layer {one['layer']}, feature {one['feature']}, position {one['position']} "
        assert place in page
    assert page.count("promotes ") == len(mine)


@pytest.mark.parametrize(("lost", "dashes"), [({1}, 0), ({0, 1, 2}, 12)])
def test_undefined_values_are_dashes_with_a_reason(
    run: Run, tmp_path: Path, lost: set[int], dashes: int
) -> None:
    changed = _drop_faithfulness(run.result, lost)
    text = Page(run.write(tmp_path / "report.html", result=changed)).text()
    assert f"Undefined for {len(lost)} of 3 prompts" in text
    assert "metric_clean equals metric_null" in text
    # Two measures of two methods at three budgets.
    assert len(re.findall(r"(?<!\S)–(?!\S)", text)) >= dashes


def test_a_method_that_keeps_nothing(run: Run, tmp_path: Path) -> None:
    result = replace(
        run.result,
        selections=run.result.selections.slice(0, 0),
        features=run.result.features.slice(0, 0),
    )
    text = Page(run.write(tmp_path / "report.html", result=result)).text()
    assert "Nothing was kept." in text
    assert "The 0 occurrences" in text


def test_others_pairs_are_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give the run's own pairs"):
        run.write(tmp_path / "report.html", pairs=run.pairs[:2])
    assert list(tmp_path.iterdir()) == []


def test_another_transcoder_is_refused(run: Run, tmp_path: Path) -> None:
    features = run.result.features
    at = features.schema.get_field_index("feature")
    far = features.set_column(at, "feature", pa.array([10**6] * len(features), pa.int32()))
    with pytest.raises(InputError, match="transcoder"):
        run.write(tmp_path / "report.html", result=replace(run.result, features=far))


def test_a_path_that_cannot_be_written(run: Run, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        run.write(tmp_path / "missing" / "report.html")


def _data(page: str) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found.group(1))


def test_what_stages_two_and_three_found_is_escaped_and_marked(run: Run, tmp_path: Path) -> None:
    text = TokenText((f" {HOSTILE}", "\u202e&amp;", " b"), (0.0, 4.0, 1.0))
    assert [piece.shade for piece in pieces(text, 4.0)] == [0, 4, 1]
    scores = [score_cell(0.5, 0.25, 0.75, 7), score_cell(None, None, None, 0, f"none {HOSTILE}")]
    row = ExplainedRow(
        *(1, 2, "3 / 4", 3, "5%"),
        text=f'"> ``` {HOSTILE}',
        explained=True,
        scores=scores,
        windows=[pieces(text, 4.0)],
        promoted=[f"</td>{HOSTILE}"],
    )
    failed = row._replace(text="refused", explained=False, windows=[])
    explained = Explained(
        rows=[row, failed],
        total=3,
        scorers=["purity", "detection"],
        groups=[("kept", "kept features", scores)],
        chances=["0.3", "0.5"],
        whose="fap, K = 8",
        explainer=f"llm: {HOSTILE}",
        judge="patterns, no LLM",
    )
    page = run.write(tmp_path / "report.html", explained=explained)
    parsed = Page(page)
    assert [tag for tag, _ in parsed.seen].count("script") == 3
    assert "<script>alert" not in page
    assert not re.search(r"https?:|\bsrc\s*=|\bhref\s*=|@import|url\(|fetch\(", page)
    assert [dict(a)["class"] for tag, a in parsed.seen if tag == "mark"] == ["a4", "a1"]
    shown = parsed.text()
    for words in ("no explanation: refused", "It never fired", "0.250 to 0.750, n 7", "2 of 3"):
        assert words in shown
    assert shown.count(HOSTILE) >= 6
    # Undefined scores have no number to sort by.
    values = [dict(a).get("data-v") for tag, a in parsed.seen if tag == "td"]
    assert values.count("0.500000") == values.count("") == 2

"""The report in a real browser: its score tables at every width, whatever the texts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="needs the extra `browser`: pip install 'pie-jax[browser]'"
)

from conftest import Reference  # noqa: E402
from graph_browser import Open, chromium_browser, page_opener  # noqa: E402, F401

import pie_jax  # noqa: E402
from pie_jax.features.texts import TokenText  # noqa: E402
from pie_jax.report import write_report  # noqa: E402
from pie_jax.report.explained import Explained, ExplainedRow, pieces, score_cell  # noqa: E402
from pie_jax.tasks import read_pairs  # noqa: E402

pytestmark = pytest.mark.browser
HOSTILE = "</script><img src=x onerror=alert(1)><b>bold</b>\u202e\u2066\u200f 😀👩‍👩‍👧 עברית"
SCORERS = ["clarity", "responsiveness", "purity", "detection", "fuzzing", "steering-faithfulness"]
LONG = "the judge's answer was refused: " + "x" * 3_000


def explained_by(texts: list[str]) -> Explained:
    """Return features with hostile texts, scores with intervals and long reasons for none."""
    scores = [score_cell(0.512, 0.25, 0.75, 120) for _ in SCORERS[:4]]
    scores += [score_cell(None, None, None, 0, LONG), score_cell(0.0001, -1e-5, 1e5, 7)]
    rows = []
    for index, text in enumerate(texts):
        window = pieces(TokenText((text, " b"), (4.0, 0.0)), 4.0)
        rows.append(
            ExplainedRow(
                *(1, index, "3 / 4", 3, "5%"),
                text=text,
                explained=index > 0,
                scores=scores,
                windows=[window],
                promoted=[text, " a"],
            )
        )
    return Explained(
        rows=rows,
        total=len(rows),
        scorers=SCORERS,
        groups=[(name, f"{name} features", scores) for name in ("kept", "top-activation")],
        chances=["0.5"] * len(SCORERS),
        whose="fap, K = 4",
        explainer=f"llm: {HOSTILE}",
        judge=HOSTILE,
    )


@pytest.fixture(scope="module")
def report(reference: Callable[[str], Reference], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of two prompts and of features that are explained by hostile texts."""
    tiny = reference("llama")
    pairs = read_pairs(tiny.folder / "prompts.jsonl")[:2]
    settings = {"methods": ("random",), "budgets": (4,), "batch_size": 2}
    result = pie_jax.prune(tiny.model, tiny.transcoder, pairs, **settings)
    path = tmp_path_factory.mktemp("report") / "report.html"
    texts = [HOSTILE, "x" * 10_000, "words like “Mary” before “ gave”", "😀" * 2_000]
    given = {"model": tiny.model, "transcoder": tiny.transcoder, "pairs": pairs}
    write_report(result, path, **given, title=HOSTILE, explained=explained_by(texts))
    return path


@pytest.mark.parametrize("width", [320, 480, 700, 861, 921, 1024, 1600])
def test_score_tables_fit_the_page(report: Path, open_page: Open, width: int) -> None:
    page = open_page(report, viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for name in ("scores", "explained"):
        box = page.locator(f".scroll:has(> table.{name})")
        assert box.evaluate("one => one.scrollWidth - one.clientWidth") <= 0, name
        for cell in (page.locator(f"table.{name} td.num").nth(i) for i in range(4, 6)):
            place = cell.bounding_box()
            assert place["x"] >= 0
            assert place["x"] + place["width"] <= width
    assert page.locator("img, b.bold, iframe").count() == 0


def test_names_stand_beside_scores_where_there_are_no_columns(
    report: Path, open_page: Open
) -> None:
    page = open_page(report, viewport={"width": 400, "height": 800})
    name = "one => getComputedStyle(one, '::before').content"
    cell = page.locator('table.scores td[data-name="fuzzing"]').first
    assert cell.evaluate(name) == "attr(data-name)" or "fuzzing" in cell.evaluate(name)
    page.fill("#search", "Mary")
    assert page.locator("table.explained tbody tr:visible").count() == 1

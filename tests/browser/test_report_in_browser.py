"""The report in a real browser: its score tables at every width, whatever the texts."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 800, 1600])
def test_page_fits_and_can_be_read_in_light_and_dark(
    report: Path, open_page: Open, width: int, scheme: str
) -> None:
    page = open_page(report, viewport={"width": width, "height": 800}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    paper = luminance(page, "body", "backgroundColor")
    assert (paper > 0.5) == (scheme == "light")
    for text in ("h1", ".note", "figcaption", "dt", "td.num", "svg text", "th button", "small"):
        ink = luminance(page, text, "fill" if text == "svg text" else "color")
        low, high = sorted((ink, paper))
        assert (high + 0.05) / (low + 0.05) >= 4.5, text  # WCAG 2, AA


def luminance(page: Any, selector: str, style: str) -> float:
    """Return the relative luminance of a colour of the first element that matches."""
    color = page.locator(selector).first.evaluate(f"one => getComputedStyle(one).{style}")
    parts = [int(one) / 255 for one in re.findall(r"\d+", color)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_page_is_used_by_keyboard(report: Path, open_page: Open) -> None:
    page = open_page(report)
    rows = page.locator("table.explained tbody tr")
    page.focus("#search")
    page.keyboard.type("mary")
    assert page.locator("table.explained tbody tr:visible").count() == 1
    page.keyboard.press("Control+a")
    page.keyboard.press("Delete")
    assert page.locator("table.explained tbody tr:visible").count() == rows.count()
    page.keyboard.press("Tab")  # the first heading
    page.keyboard.press("Tab")  # the second: Feature
    assert page.evaluate("document.activeElement.textContent") == "Feature"
    for sort, first in (("ascending", "0"), ("descending", "3")):
        page.keyboard.press("Enter")
        heading = page.locator("table.explained th[aria-sort]")
        assert heading.get_attribute("aria-sort") == sort
        assert rows.first.locator("td").nth(1).text_content() == first
    summary = rows.first.locator("summary")
    summary.focus()
    page.keyboard.press("Enter")
    assert rows.first.locator("details[open] .window").count() == 1
    page.select_option("#budget", "4")
    assert "K = 4" in (page.text_content("#which") or "")


def test_every_mark_says_what_it_is(report: Path, open_page: Open) -> None:
    page = open_page(report)
    titles = page.locator("svg title").all_text_contents()
    assert any("layer" in title.lower() or "/" in title for title in titles)
    assert all(title.strip() for title in titles)

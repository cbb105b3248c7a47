"""Pages: their links lead somewhere, and the README stays short."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.studies.report_picture import STYLE, with_style

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(p for p in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")) if p.is_file())
README_LINES = 120
PICTURE_BYTES = 300_000

_FENCED = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)


def _text(page: Path) -> str:
    """Return a page without its code blocks, in which brackets are no links."""
    return _FENCED.sub("", page.read_text(encoding="utf-8"))


def _anchors(page: Path) -> set[str]:
    """Return the anchors that Markdown viewers make of a page's headings."""
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in _HEADING.findall(_text(page)))
    return {heading.strip().replace(" ", "-") for heading in plain}


def broken_links(page: Path) -> list[str]:
    """Return the relative links of a page that lead to no file, or to no heading of it."""
    broken = []
    for link in _LINK.findall(_text(page)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page):
    assert broken_links(page) == []


def test_broken_links_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A `b`, c\n[1](#a-b-c) [2](#d) [3](no.md) [4](https://x.y)\n```\n[5](z)\n```\n"
    )
    assert broken_links(page) == ["#d", "no.md"]


def test_every_page_is_linked_from_the_readme():
    linked = set(_LINK.findall(_text(ROOT / "README.md")))
    pages = {str(page.relative_to(ROOT)) for page in PAGES} - {"README.md"}
    assert pages <= {link.partition("#")[0] for link in linked}


def test_readme_is_short_and_its_picture_small():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= README_LINES
    assert (ROOT / "docs/report.png").stat().st_size <= PICTURE_BYTES


def test_readme_states_the_test_command_where_ci_reads_it():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(r"^<!-- test command -->\n```bash\n.*pytest.*\n```$", text, re.MULTILINE)


def test_picture_hides_parts_of_the_page_and_leaves_the_rest():
    page = "<html><head><title>r</title></head><body>\u2581to</body></html>"
    drawn = with_style(page)
    assert drawn.replace(f"<style>{STYLE}</style>", "") == page
    assert drawn.index("<style>") < drawn.index("<body>")


def test_picture_of_another_page_is_refused():
    with pytest.raises(SystemExit, match=r"is it a report\.html"):
        with_style("<p>no head</p>")

"""The site builds without a warning, and its pages fetch nothing from outside."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mkdocs", reason="needs the extra `docs`: pip install 'pie-jax[docs]'")

ROOT = Path(__file__).parents[2]
FETCHED = re.compile(r"<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//[^>]*>")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:] + done.stdout[-2000:]
    return folder


@pytest.mark.slow
def test_site_is_whole_and_needs_nothing_from_outside(site: Path):
    fetched = [
        (str(page.relative_to(site)), tag)
        for page in site.rglob("*.html")
        for tag in FETCHED.findall(page.read_text("utf-8"))
        if 'rel="canonical"' not in tag
    ]
    assert fetched == []
    styles = "".join(path.read_text("utf-8") for path in site.rglob("*.css"))
    assert not re.search(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", styles)
    api = (site / "api/index.html").read_text("utf-8")
    for name in ("load_model", "prune", "intervene", "graph_run", "InputError"):
        assert re.search(rf'id="pie_jax\.[\w.]+\.{name}"|id="pie_jax\.{name}"', api), name
    assert len(list((site / "notebooks").glob("*.html"))) == 4
    assert not (site / "_site").exists()

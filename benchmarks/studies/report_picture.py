"""A picture of a report for the README: three of its sections, drawn by headless Chromium.

    pie-jax run --out results
    python -m benchmarks.studies.report_picture results/report.html --out docs/report.png

The sections are those of the page itself; the others are hidden, and the table of features is
cut off at the picture's lower edge. It needs a Chromium on the path (Debian's package `chromium`).
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

WIDTH, HEIGHT = 1000, 1680
# Kept in sight: the finding, KL against K, one prompt's circuit, the first explained features.
STYLE = """
.facts, table.grid, .choose, section > .note, section:nth-of-type(2) { display: none !important }
main { padding-top: 24px } section { margin-top: 28px } .lead { margin-bottom: 0 }
"""
MOST_BYTES = 300_000
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def with_style(page: str, style: str = STYLE) -> str:
    """Return the report's HTML with a style sheet added at the end of its head."""
    head, found, rest = page.partition("</head>")
    if not found:
        raise SystemExit("the report has no </head>: is it a report.html that pie-jax wrote?")
    return f"{head}<style>{style}</style>{found}{rest}"


def picture(report: Path, out: Path) -> None:
    """Draw the report's upper part into a PNG file."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise SystemExit(f"none of {', '.join(BROWSERS)} is installed; install Chromium")
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, "report.html")
        page.write_text(with_style(report.read_text("utf-8")), "utf-8")
        drawn = Path(folder, "report.png")
        subprocess.run(
            [
                *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
                *(f"--user-data-dir={folder}/profile", f"--window-size={WIDTH},{HEIGHT}"),
                *(f"--screenshot={drawn}", page.as_uri()),
            ],
            check=True,
            timeout=120,
            stderr=subprocess.DEVNULL,
        )
        size = drawn.stat().st_size
        if size > MOST_BYTES:
            raise SystemExit(f"the picture has {size:,} bytes, more than {MOST_BYTES:,}")
        shutil.copyfile(drawn, out)
    print(f"{out}: {WIDTH} x {HEIGHT}, {size:,} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw a report as a picture for the README.")
    parser.add_argument("report", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/report.png"))
    options = parser.parse_args()
    picture(options.report, options.out)


if __name__ == "__main__":
    main()

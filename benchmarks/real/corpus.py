"""A varied corpus of texts that packages ship: prose from Debian's and gensim's, READMEs, Python.

`texts` is a folder in which packages were unpacked, as docs/real-model.md has the commands.
"""

from __future__ import annotations

import ast
import bz2
import json
import random
import re
import sysconfig
import textwrap
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from importlib.metadata import distributions
from pathlib import Path

from pie_jax.errors import InputError
from pie_jax.files.atomic import replacing

# Characters of a document, after which it ends at the next line.
_DOCUMENT = 3000
_SHORTEST = 60
# Characters of each kind; the largest part is prose.
SHARES = {
    "news": 360_000,
    "encyclopedia": 900_000,
    "fortunes": 500_000,
    "handbook": 400_000,
    "essays": 300_000,
    "readmes": 250_000,
    "docstrings": 400_000,
    "sources": 400_000,
}


def write_corpus(texts: Path, out: Path, seed: int = 0) -> dict[str, int]:
    """Write documents of every kind as JSON lines; return the characters of each kind.

    Raises `InputError` where `texts` lacks a package.
    """
    random_order = random.Random(seed)
    found: list[dict[str, str]] = []
    characters = {}
    for kind, most in SHARES.items():
        documents = sorted(set(_KINDS[kind](texts)))
        random_order.shuffle(documents)
        chosen = list(_up_to(most, documents))
        if not chosen:
            raise InputError(f"{texts} holds no texts of the kind `{kind}`; unpack its package.")
        characters[kind] = sum(map(len, chosen))
        found += [{"text": text, "source": kind} for text in chosen]
    random_order.shuffle(found)
    with replacing(out) as temporary:
        temporary.write_text("".join(json.dumps(one) + "\n" for one in found), encoding="utf-8")
    return characters


def documents_of(text: str) -> Iterator[str]:
    """Yield a text in documents that end at line ends; those of a line or so are left out."""
    lines: list[str] = []
    size = 0
    for line in [*text.splitlines(), None]:
        if line is not None:
            lines.append(line)
            size += len(line) + 1
        if line is None or size >= _DOCUMENT:
            document = "\n".join(lines).strip("\n")
            if len(document) >= _SHORTEST:
                yield document
            lines, size = [], 0


def plain_html(page: str) -> str:
    """Return the paragraphs of an HTML page, a line each; headings, lists and code are left out."""
    reader = _Paragraphs()
    reader.feed(page)
    return "\n".join(filter(None, (" ".join(text.split()) for text in reader.found)))


def plain_wiki(text: str) -> str:
    """Return the prose of a page in MediaWiki's markup."""
    text = re.sub(r"<!--.*?-->|<ref[^>/]*/>|<ref.*?</ref>|<[^>]*>", "", text, flags=re.S)
    for _ in range(4):  # innermost first
        text = re.sub(r"\{\{[^{}]*\}\}|\{\|[^{}]*\|\}", "", text, flags=re.S)
    text = re.sub(r"\[\[(?:File|Image|Category):[^\[\]]*(?:\[\[[^\]]*\]\][^\[\]]*)*\]\]", "", text)
    text = re.sub(r"\[\[(?:[^\]|]*\|)?([^\]]*)\]\]", r"\1", text)
    text = re.sub(r"\[\S+ ([^\]]*)\]", r"\1", text).replace("'''", "").replace("''", "")
    lines = (line.strip() for line in text.splitlines())
    return "\n".join(line for line in lines if len(line) > _SHORTEST and line[0] not in "=*#|{!:;")


def docstrings(source: str) -> Iterator[str]:
    """Yield the signature and docstring of every function of a source that documents it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and (text := ast.get_docstring(node)):
            signature = f"def {node.name}({ast.unparse(node.args)}):"
            yield f'{signature}\n    """{textwrap.indent(text, "    ").strip()}\n    """'


class _Paragraphs(HTMLParser):
    """The texts of `<p>` and, as DocBook writes them, `<div class="para">`."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "p" or (tag == "div" and ("class", "para") in attrs):
            self._inside = True
            self.found.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("p", "div"):
            self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.found[-1] += data


def _up_to(characters: int, documents: list[str]) -> Iterator[str]:
    for text in documents:
        if characters <= 0:
            return
        characters -= len(text)
        yield text


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _news(texts: Path) -> Iterator[str]:
    for path in sorted(texts.rglob("test_data/lee*.cor")):
        yield from (line for line in _read(path).splitlines() if len(line) >= _SHORTEST)


def _encyclopedia(texts: Path) -> Iterator[str]:
    for path in sorted(texts.rglob("test_data/enwiki-latest*.bz2")):
        pages = bz2.decompress(path.read_bytes()).decode(errors="replace")
        for text in re.findall(r"<text[^>]*>(.*?)</text>", pages, flags=re.S):
            text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"')
            yield from documents_of(plain_wiki(text.replace("&amp;", "&").replace("&nbsp;", " ")))


def _fortunes(texts: Path) -> Iterator[str]:
    for path in sorted(texts.rglob("games/fortunes/*")):
        if path.is_file() and not path.suffix and "art" not in path.name:
            yield from (one for one in _read(path).split("\n%\n") if len(one) >= _SHORTEST)


def _pages(pattern: str) -> Callable[[Path], Iterator[str]]:
    def read(texts: Path) -> Iterator[str]:
        for path in sorted(texts.rglob(pattern)):
            yield from documents_of(plain_html(_read(path)))

    return read


def _readmes(_: Path) -> Iterator[str]:
    for package in distributions():
        yield from documents_of((package.read_text("METADATA") or "").partition("\n\n")[2])


def _standard_library() -> Iterator[str]:
    folder = Path(sysconfig.get_path("stdlib"))
    for path in sorted([*folder.glob("*.py"), *folder.glob("[a-su-z]*/*.py")]):
        if "site-packages" not in path.parts and path.stat().st_size > _SHORTEST:
            yield _read(path)


def _docstrings(_: Path) -> Iterator[str]:
    for source in _standard_library():
        yield from docstrings(source)
    for name in ("numpy", "scipy", "rich", "httpx", "typer", "pygments", "pyarrow"):
        for path in sorted((Path(sysconfig.get_path("purelib")) / name).rglob("*.py")):
            yield from docstrings(_read(path))


def _sources(_: Path) -> Iterator[str]:
    for source in _standard_library():
        yield from documents_of(source)


_KINDS: dict[str, Callable[[Path], Iterator[str]]] = {
    "news": _news,
    "encyclopedia": _encyclopedia,
    "fortunes": _fortunes,
    "handbook": _pages("debian-handbook/html/en-US/*.html"),
    "essays": _pages("doc/anarchism/html/*.html"),
    "readmes": _readmes,
    "docstrings": _docstrings,
    "sources": _sources,
}

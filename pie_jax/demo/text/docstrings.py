"""Docstrings of the standard library: ordinary English that needs no download."""

from __future__ import annotations

import ast
import sysconfig
from functools import cache
from pathlib import Path

from pie_jax.errors import PieError
from pie_jax.tasks.words import word_list

# Modules with much prose in every Python from 3.11 on.
MODULES = word_list("""
    _collections_abc _pydecimal _pyio argparse ast base64 bdb bz2 calendar cmd code codecs
    configparser contextlib copy csv dataclasses datetime difflib dis doctest enum filecmp
    fileinput fnmatch fractions ftplib functools getopt getpass gettext glob graphlib gzip
    heapq imaplib inspect ipaddress linecache locale lzma mailbox mimetypes numbers operator
    optparse os pdb pickle pickletools pkgutil platform plistlib poplib posixpath pprint
    profile pstats pydoc queue quopri random reprlib sched secrets selectors shelve shlex
    shutil signal site smtplib socket socketserver ssl statistics string subprocess symtable
    tabnanny tarfile tempfile textwrap threading timeit tokenize trace traceback turtle
    typing uuid warnings wave weakref zipapp
""")

_SHORTEST = 40  # characters; shorter ones are fragments
_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@cache
def standard_library_docstrings() -> tuple[str, ...]:
    """Return the distinct ASCII docstrings of `MODULES` in source order, read but not imported."""
    library = Path(sysconfig.get_path("stdlib"))
    found: dict[str, None] = {}
    for module in MODULES:
        path = library / f"{module}.py"
        # Some modules become packages between versions.
        if path.exists():
            found.update(dict.fromkeys(_docstrings(path)))
    if not found:
        raise PieError(f"{library}: no source of the standard library is installed here.")
    return tuple(found)


def _docstrings(path: Path) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = (node for node in ast.walk(tree) if isinstance(node, _Documented))
    texts = (ast.get_docstring(node) or "" for node in nodes)
    return [text for text in texts if len(text) >= _SHORTEST and text.isascii()]

"""A few of the cases that `python -m benchmarks.fuzz` makes many of, and what counts as broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.fuzz import TARGETS, Broken, Target, check, fuzz, main
from pie_jax.errors import InputError

CASES = 20


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_every_case_is_read_or_refused_in_one_sentence(target: Target):
    fuzz(target, CASES)


def test_what_is_neither_is_found(tmp_path: Path, monkeypatch, capsys):
    def read(folder: Path) -> None:
        if b"7" in (folder / "file").read_bytes():
            raise KeyError("7")

    def make(folder: Path) -> None:
        (folder / "file").write_bytes(b'{"a": 1}')

    target = Target("made", "file", TARGETS[0].cases, make, read)
    with pytest.raises((Broken, ExceptionGroup)):
        fuzz(target, 2000)
    monkeypatch.setattr("benchmarks.fuzz.TARGETS", (target,))
    assert main(["--cases", "2000"]) == 1
    assert "FAILED" in capsys.readouterr().out
    monkeypatch.setattr("benchmarks.fuzz.SECONDS", -1.0)
    with pytest.raises(Broken, match="took 0 seconds"):
        check(target, tmp_path, b"1")


def test_sentences_stay_on_one_line_whatever_a_file_names_things():
    error = InputError("config.json: `a\nb\r\x1e\u2028c` is not handled; é — stays.")
    assert str(error) == r"config.json: `a\nb\r\x1e\u2028c` is not handled; é — stays."

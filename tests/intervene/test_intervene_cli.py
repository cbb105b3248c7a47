"""`pie-jax intervene` on the demo: tables, JSON, and one sentence for bad input."""

from __future__ import annotations

import json

import numpy as np
import pytest
from cli_helpers import pie

import pie_jax
from pie_jax.intervene.changes import Change

PROMPT = "Then, Peter and Joe had a long talk. Afterwards Joe said to"
CHANGES = ("--change", "5:400@14=off", "--change", "2:240@-1=x0.5")


def test_tables_and_json_say_what_intervene_returns(monkeypatch, capsys):
    command = ("intervene", "--prompt", PROMPT, *CHANGES, "--freeze", "attention", "--top", 3)
    assert pie(monkeypatch, *command, "--features", 4) == 0
    shown = capsys.readouterr().out
    assert pie(monkeypatch, *command, "--features", 4, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    model, clt = pie_jax.load_model("demo"), pie_jax.load_transcoder("demo")
    changes = [Change(5, 400, 14, remove=True), Change(2, 240, -1, scale=0.5)]
    found = pie_jax.intervene(model, clt, PROMPT, changes, freeze="attention", targets=[" Peter"])
    probability = np.exp(found.after - found.after.max())
    (row,) = (row for row in result["next"] if row["token"] == " Peter")
    assert row["after"] == pytest.approx(probability[row["id"]] / probability.sum(), abs=1e-5)
    assert row["logit_change"] == pytest.approx(found.target_changes[0], abs=1e-4)
    assert row["after"] < row["before"]
    assert f"{row['after']:.3f}" in shown
    assert "' Peter'" in shown
    assert [row["feature"] for row in result["changed"]] == [240, 400]
    assert [row["value"] for row in result["changed"]][1] == 0
    assert len(result["features"]) == 4
    assert "14' to'" in shown


def test_generation_on_the_command_line(monkeypatch, capsys):
    command = ("intervene", "--prompt", PROMPT, "--change", "5:300@all=8", "--generate", 12)
    assert pie(monkeypatch, *command, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    # As docs/interventions.md shows it.
    assert result["generated"] == {"before": " Peter.", "after": " Poland."}
    assert pie(monkeypatch, *command) == 0
    assert f"after: {result['generated']['after']!r}" in capsys.readouterr().out


def test_a_change_of_nothing_is_said(monkeypatch, capsys):
    assert pie(monkeypatch, "intervene", "--prompt", PROMPT, "--change", "0:694@1=off") == 0
    assert "nothing was changed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--change", "0:1024@1=1"], "no feature 1024 in layer 0"),
        (["--change", "0:1@15=1"], "no position 15"),
        (["--change", "0:1@1"], "--change: `0:1@1`"),
        (["--change", "0:1@1=1", "--prompt", ""], "1 token"),
        (["--change", "0:1@1=1", "--freeze", "all"], "--freeze: `all`"),
        (["--change", "0:1@1=1", "--top", "0"], "--top 0"),
    ],
)
def test_bad_input_is_one_sentence(monkeypatch, capsys, arguments, named):
    assert pie(monkeypatch, "intervene", "--prompt", PROMPT, *arguments) == 2
    error = capsys.readouterr().err
    assert named in error
    assert "Traceback" not in error

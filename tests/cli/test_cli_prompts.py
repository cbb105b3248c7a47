"""`pie-jax run` and `prune` on one's own prompts: files, one prompt, data for scripts."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from cli_helpers import pie
from page_helpers import Page

from pie_jax.cli import prompts
from pie_jax.tasks import read_pairs

PROMPT = "Then, Peter and Joe had a long talk. Afterwards Joe said to"
OTHER = PROMPT.replace("Joe said", "Paul said")
FAST = ["--method", "fap", "--budget", "5,10", "--stages", "prune"]
HOSTILE = (
    "</script><img src=x onerror=alert(1)>[/red][bold] \u202e\u2066 😀, |\x1b[2J Peter said to"
)


def run_json(monkeypatch, capsys, *arguments: object) -> tuple[dict, str]:
    capsys.readouterr()
    assert pie(monkeypatch, *arguments, "--format", "json") == 0
    said = capsys.readouterr()
    return json.loads(said.out), said.err


def test_one_prompt_says_what_it_chose(monkeypatch, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    command = ["run", "--prompt", PROMPT, *FAST, "--out", out]
    data, said = run_json(monkeypatch, capsys, *command)
    assert "target: ' Peter', the likeliest next token (" in said
    assert "minus the mean logit of the vocabulary" in said
    assert "set to zero" in said
    config = json.loads((out / "run.json").read_text())["config"]
    chosen = (config["metric"], config["corruption"], config["min_tokens"])
    assert chosen == ("logit-above-mean", "zero-features", 2)
    rows = {(row["method"], row["budget"]): row for row in data["kl"]}
    assert set(rows) == {("nothing kept", 0), ("fap", 5), ("fap", 10)}
    # One prompt has no interval.
    assert all(row["n"] == 1 and row["low"] is None and row["kl"] >= 0 for row in data["kl"])
    page = (out / "report.html").read_text()
    assert "there are no intervals" in Page(page).text()
    assert "95% interval" not in Page(page).text()


def test_a_prompt_with_everything_given_is_a_pair(monkeypatch, tmp_path, capsys) -> None:
    answers = ["--target", " Peter", "--distractor", " Joe"]
    command = ["run", "--prompt", PROMPT, *answers, *FAST]
    for name, how in (("a", ["--corrupted", OTHER]), ("b", ["--suggest-corruption"])):
        out = tmp_path / name
        _, said = run_json(monkeypatch, capsys, *command, *how, "--out", out)
        config = json.loads((out / "run.json").read_text())["config"]
        assert (config["metric"], config["corruption"]) == ("logit-diff", "corrupted-prompt")
        (pair,) = read_pairs(out / "pairs.jsonl")
        assert (pair.target, pair.distractor) == (" Peter", " Joe")
        assert ("suggested corrupted prompt, row 0" in said) == (name == "b")
        assert name == "b" or pair.corrupted == (OTHER,)
        assert name == "a" or repr(pair.corrupted[0]) in said


def test_own_pairs_go_through_run_and_prune_alike(monkeypatch, tmp_path, capsys) -> None:
    path = tmp_path / "pairs.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(
            [
                ["clean", "corrupted", "target", "distractor"],
                [PROMPT, json.dumps([OTHER]), " Peter", " Joe"],
                [OTHER, "", " Peter", " Paul"],
            ]
        )
    own = ["--pairs", path, "--suggest-corruption", "--method", "fap", "--budget", "5"]
    first, _ = run_json(
        monkeypatch, capsys, "run", *own, "--stages", "prune", "--out", tmp_path / "a"
    )
    second, said = run_json(monkeypatch, capsys, "prune", *own, "--out", tmp_path / "b")
    assert first == second
    assert "suggested corrupted prompt, row 1" in said
    capsys.readouterr()
    assert pie(monkeypatch, "prune", *own, "--out", tmp_path / "b", "--format", "csv") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [float(row["kl"]) for row in rows] == [row["kl"] for row in first["kl"]]
    assert pie(monkeypatch, "prune", *own, "--out", tmp_path / "b", "--format", "markdown") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "### kl"
    assert len({line.count("|") for line in lines[2:]}) == 1
    capsys.readouterr()
    assert pie(monkeypatch, "prune", *own[:2], "--out", tmp_path / "c") == 2
    assert "row 1 (counted from 0): there is no corrupted prompt" in capsys.readouterr().err


@pytest.mark.slow
def test_hostile_prompts_break_neither_page_nor_tables(monkeypatch, tmp_path, capsys) -> None:
    out = tmp_path / "[bold]out[/red]"
    few = ["--method", "fap", "--budget", "3", "--features", 2, "--baselines", 0]
    quick = ["--preset", "pie", "--scorers", "detection"]
    command = ["run", "--prompt", HOSTILE, "--target", " Peter", *few, *quick, "--out", out]
    assert pie(monkeypatch, *command) == 0
    said = capsys.readouterr().out
    assert f"results: {out}" in said
    assert "\x1b" not in said
    assert "\u202e" not in said
    page = (out / "report.html").read_text()
    assert "<img" not in page
    assert {tag for tag, _ in Page(page).seen}.isdisjoint({"img", "bold"})
    assert "\u202e" not in page
    assert "\\u202e" in page
    data, _ = run_json(monkeypatch, capsys, "evaluate", out, *quick[:4])
    assert {row["scorer"] for row in data["scores"]} == {"detection"}
    assert {row["explanations"] for row in data["scores"]} >= {"kept"}


def asked(**options: object) -> prompts.Asked:
    names = prompts.Asked.__dataclass_fields__
    return prompts.Asked(**{**dict.fromkeys(names), "suggest": False, **options})  # type: ignore[arg-type]


def test_other_prompts_go_to_another_folder() -> None:
    assert asked().folder() == asked(task="docstring").folder() == Path("pie-results")
    one, again = (asked(prompt=PROMPT).folder() for _ in range(2))
    assert one == again
    assert one.name.startswith("pie-results-then-peter-and-joe-had-a-")
    others = [asked(prompt=HOSTILE), asked(prompt="日本"), asked(prompt=PROMPT, target=" Joe")]
    others.append(asked(pairs=Path("/else/my pairs.csv")))
    names = {one.name, *(other.folder().name for other in others)}
    assert len(names) == 5
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for name in names)
    assert any(name.startswith("pie-results-my-pairs-") for name in names)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--prompt", PROMPT, "--pairs", "x.jsonl"], "--prompt: --pairs says"),
        (["--prompt", PROMPT, "--task", "ioi"], "--task: --prompt says"),
        (["--prompt", PROMPT, "-n", 3], "--count"),
        (["--target", " Peter"], "--target: belongs to --prompt"),
        (["--suggest-corruption"], "--suggest-corruption"),
        (
            ["--prompt", PROMPT, "--suggest-corruption", "--corruption", "zero-features"],
            "--suggest-corruption: zero-features",
        ),
        (["--prompt", PROMPT, "--corpus", "none.txt"], "--corpus none.txt: does not exist"),
        (["--prompt", ""], "the prompt is empty"),
        (["--prompt", PROMPT, "--target", "Peterxyz"], "must be one"),
        (["--prompt", PROMPT, "--corrupted", "Peter"], "they differ"),
        (["--prompt", PROMPT, "--corruption", "corrupted-prompt"], "no corrupted prompt"),
        (["--prompt", " Peter" * 200], "leave out its beginning"),
        (["--pairs", "none.csv"], "none.csv does not exist"),
    ],
)
def test_options_that_do_not_fit_are_named(
    arguments: list[object], named: str, monkeypatch, tmp_path: Path, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    assert pie(monkeypatch, "run", *arguments, *FAST, "--out", "out") == 2
    said = capsys.readouterr().err
    assert named in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_many_suggestions_are_not_all_printed(monkeypatch, capsys) -> None:
    from types import SimpleNamespace

    from test_cli_terminal import Words

    from pie_jax.cli.output import Output
    from pie_jax.tasks import Pair

    pairs = [Pair(f"see Joe number {i} now") for i in range(9)]
    model = SimpleNamespace(tokenizer=Words())
    prompts.suggested(pairs, model, "pairs.csv", Output("json"))  # type: ignore[arg-type]
    said = capsys.readouterr().err
    assert said.count("suggested") == 5
    assert "and 4 more" in said

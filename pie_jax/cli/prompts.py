"""The prompts that a command is about: a file of pairs, one prompt, or a task's."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pie_jax.cli.output import Output
from pie_jax.defaults import MIN_TOKENS
from pie_jax.errors import InputError

if TYPE_CHECKING:
    from pie_jax.models.loader import LanguageModel
    from pie_jax.tasks import Pair

PAIRS_HELP = "JSONL, CSV or Parquet of prompts: clean, corrupted, target, distractor."
Suggest = Annotated[
    bool,
    typer.Option(
        "--suggest-corruption",
        help="Where there is no corrupted prompt, exchange a name or number for another.",
    ),
]
METRIC_HELP = "logit-diff, logit-above-mean (of the target; no distractor) or logsumexp."
CORRUPTION_HELP = "corrupted-prompt, or zero-features (needs no corrupted prompt)."
# Whose circuits are the most telling in the demo: words, and a token after them that uses them.
DEFAULT_TASK = "pronoun"
_SAID = 5
# The folder of results, and how many characters of a prompt name it.
_FOLDER, _NAMED = "pie-results", 30


@dataclass(frozen=True)
class Asked:
    """The options of `pie-jax run` that say which prompts; None where one is not given."""

    task: str | None
    count: int | None
    pairs: Path | None
    prompt: str | None
    target: str | None
    distractor: str | None
    corrupted: str | None
    suggest: bool
    metric: str | None
    corruption: str | None
    min_tokens: int | None

    def check(self) -> None:
        """Raise `InputError` for options that do not go together."""
        sources = {"--pairs": self.pairs, "--prompt": self.prompt, "--task": self.task}
        given = [name for name, value in sources.items() if value is not None]
        if len(given) > 1:
            raise InputError(f"{given[1]}: {given[0]} says which prompts; give one of them.")
        if self.count is not None and self.own:
            raise InputError(f"--count: is for the pairs of a task; {given[0]} brings its own.")
        answers = {
            "--target": self.target,
            "--distractor": self.distractor,
            "--corrupted": self.corrupted,
        }
        for name, value in answers.items():
            if value is not None and self.prompt is None:
                raise InputError(f"{name}: belongs to --prompt; a file of pairs has its own.")
        if self.suggest and not self.own:
            raise InputError("--suggest-corruption: is for --pairs or --prompt; tasks have theirs.")
        if self.suggest and self.corruption == "zero-features":
            raise InputError("--suggest-corruption: zero-features needs no corrupted prompt.")

    @property
    def own(self) -> bool:
        """Return whether the prompts are the user's own."""
        return self.pairs is not None or self.prompt is not None

    def settings(self) -> dict[str, Any]:
        """Return the fields of `PruneOptions` that follow from the prompts."""
        one = self.prompt is not None
        distractor = not one or self.distractor is not None
        corrupted = not one or self.corrupted is not None or self.suggest
        return {
            "metric": self.metric or ("logit-diff" if distractor else "logit-above-mean"),
            "corruption": self.corruption or ("corrupted-prompt" if corrupted else "zero-features"),
            # BOS and one more; published runs leave out pairs of fewer than 8.
            "min_tokens": self.min_tokens or (2 if one else MIN_TOKENS),
        }

    def source(self) -> str:
        """Return what errors call the pairs."""
        return "--prompt" if self.prompt is not None else str(self.pairs or "pairs")

    def folder(self) -> Path:
        """Return where results go by default: another folder for other prompts."""
        if not self.own:
            return Path(_FOLDER)
        said = self.prompt if self.pairs is None else self.pairs.stem
        name = re.sub(r"[^a-z0-9]+", "-", str(said).lower())[:_NAMED].strip("-")
        code = hashlib.sha256(repr(self).encode("utf-8", "backslashreplace")).hexdigest()[:6]
        return Path("-".join(filter(None, (_FOLDER, name, code))))

    def label(self) -> str:
        """Return what progress calls the pairs."""
        if self.own:
            return "prompt" if self.prompt is not None else "pairs"
        return self.task or DEFAULT_TASK


def pairs_for(
    asked: Asked, read: Sequence[Pair] | None, model: LanguageModel, name: str, seed: int
) -> list[Pair]:
    """Return the pairs of a task, a file that was `read`, or of one prompt."""
    from pie_jax.tasks import Split, get_task
    from pie_jax.tasks.prompt import prompt_pair

    if asked.prompt is not None:
        answers = {"target": asked.target, "distractor": asked.distractor}
        return [prompt_pair(model, asked.prompt, corrupted=asked.corrupted, **answers)]
    if read is not None:
        return list(read)
    # The demo was trained on the other word combinations.
    split: Split = "heldout" if name == "demo" else "all"
    task, count = get_task(asked.task or DEFAULT_TASK), 16 if asked.count is None else asked.count
    return task.generate(count, seed=seed, tokenizer=model.tokenizer, split=split)


def suggested(
    pairs: Sequence[Pair], model: LanguageModel, source: str, output: Output
) -> list[Pair]:
    """Return pairs with corrupted prompts suggested where there are none, and say which."""
    from pie_jax.tasks.suggest import with_suggestions

    try:
        result, rows = with_suggestions(model.tokenizer, pairs)
    except InputError as error:
        raise InputError(f"{source}, {error}") from error
    for row in rows[:_SAID]:
        output.say(f"suggested corrupted prompt, row {row}: {result[row].corrupted[0]!r}")
    if len(rows) > _SAID:
        output.say(f"and {len(rows) - _SAID} more, in pairs.jsonl of the results")
    return result


def say_of_prompt(asked: Asked, pair: Pair, model: LanguageModel, output: Output) -> None:
    """Say what was chosen where a prompt left something open."""
    from pie_jax.tasks.prompt import next_probabilities

    assert pair.target is not None
    tokenizer, settings = model.tokenizer, asked.settings()
    probabilities = next_probabilities(model, tokenizer.encode(pair.clean))
    index = tokenizer.answer_id(pair.target)
    likeliest = int(probabilities.argmax())
    if index == likeliest:
        output.say(
            f"target: {pair.target!r}, the likeliest next token ({probabilities[index]:.1%})"
        )
    elif index is not None:
        output.say(
            f"target: {pair.target!r} ({probabilities[index]:.1%}); the likeliest next token is "
            f"{tokenizer.token(likeliest)!r} ({probabilities[likeliest]:.1%})"
        )
    if settings["metric"] == "logit-above-mean":
        output.say("metric: the target's logit minus the mean logit of the vocabulary")
    if settings["corruption"] == "zero-features":
        output.say("corruption: features that are not kept are set to zero")

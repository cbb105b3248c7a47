"""Tasks: pairs of clean and corrupted prompts, read from a file or generated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from pie_jax.errors import InputError
from pie_jax.tasks import docstring, facts, ioi, pronoun
from pie_jax.tasks.encode import (
    EncodedPair,
    EncodesPrompts,
    SkippedPair,
    encode_pairs,
)
from pie_jax.tasks.pair_files import read_pairs
from pie_jax.tasks.records import Pair, TokenPair, write_pairs
from pie_jax.tasks.suggest import suggest_corruption, with_suggestions
from pie_jax.tasks.words import Split

__all__ = [
    "TASKS",
    "EncodedPair",
    "Generate",
    "Pair",
    "SkippedPair",
    "Split",
    "Task",
    "TokenPair",
    "encode_pairs",
    "get_task",
    "read_pairs",
    "suggest_corruption",
    "with_suggestions",
    "write_pairs",
]


class Generate(Protocol):
    """A task's generator; `corruption` defaults to the task's own."""

    def __call__(
        self,
        n: int,
        *,
        seed: int,
        tokenizer: EncodesPrompts | None = None,
        corruption: str = ...,
        n_corruptions: int = 1,
        split: Split = "all",
    ) -> list[Pair]:
        """Draw n pairs of different clean prompts."""
        ...


@dataclass(frozen=True)
class Task:
    """A named generator of pairs and the corruptions it knows."""

    name: str
    generate: Generate
    corruptions: tuple[str, ...]
    default_corruption: str
    description: str


_ENTRIES = (
    Task("ioi", ioi.generate, ioi.CORRUPTIONS, "s2-random", "Indirect object identification"),
    Task("docstring", docstring.generate, docstring.CORRUPTIONS, "random-random", "Doc-String"),
    Task("pronoun", pronoun.generate, pronoun.CORRUPTIONS, "other-gender", "He or she"),
    Task("facts", facts.generate, facts.CORRUPTIONS, "other-place", "Capitals and countries"),
)

TASKS: dict[str, Task] = {task.name: task for task in _ENTRIES}


def get_task(name: str) -> Task:
    """Return a task by name; raise InputError that names the known ones."""
    if name not in TASKS:
        raise InputError(f"there is no task {name!r}; choose one of {', '.join(sorted(TASKS))}")
    return TASKS[name]

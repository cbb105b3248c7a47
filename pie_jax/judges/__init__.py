"""Judges: one file each, entered in `JUDGES`."""

from collections.abc import Callable

from pie_jax.errors import InputError
from pie_jax.features.texts import ShowsTokens
from pie_jax.judges.base import Judge, JudgeFailed
from pie_jax.judges.llm import LLMJudge
from pie_jax.judges.patterns import PatternsJudge
from pie_jax.llm.chat import Chat

__all__ = ["JUDGES", "Judge", "JudgeFailed", "LLMJudge", "PatternsJudge", "make_judge"]


def _llm(tokenizer: ShowsTokens, chat: Chat | None) -> Judge:
    if chat is None:
        raise InputError("--judge llm needs a server; name one with --judge-base-url.")
    return LLMJudge(chat)


JUDGES: dict[str, Callable[[ShowsTokens, Chat | None], Judge]] = {
    "patterns": lambda tokenizer, _: PatternsJudge(tokenizer),
    "llm": _llm,
}


def make_judge(name: str, tokenizer: ShowsTokens, chat: Chat | None = None) -> Judge:
    """Return a judge by name; raises `InputError` for an unknown one, or one without its server."""
    if name not in JUDGES:
        raise InputError(f"--judge `{name}` is not known; use one of {', '.join(JUDGES)}.")
    return JUDGES[name](tokenizer, chat)

"""Turn pairs into token ids, refusing or counting the ones that cannot be compared."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypedDict

from pie_jax.defaults import MIN_TOKENS
from pie_jax.errors import InputError
from pie_jax.tasks.records import Pair, TokenPair

MAX_TOKENS = 128
# Of a message: most tokens shown of each prompt, and characters of each token.
_SHOWN, _LONGEST = 8, 24


class EncodesPrompts(Protocol):
    """What tasks need of a tokenizer."""

    def encode(self, text: str) -> list[int]:
        """Return the ids of a prompt, BOS put in front when the first is not special."""
        ...

    def answer_id(self, text: str) -> int | None:
        """Return the id of an answer that is exactly one token, None for any other."""
        ...

    def answer_pieces(self, text: str) -> list[str]:
        """Return the tokens of an answer as text."""
        ...

    def token(self, index: int) -> str:
        """Return one id as text."""
        ...


class Encoding(TypedDict):
    """What is asked of pairs: answers, corrupted prompts, tokens."""

    needs_target: bool
    needs_distractor: bool
    needs_corrupted: bool
    min_tokens: int


@dataclass(frozen=True)
class EncodedPair:
    """One usable pair as token ids, BOS included; all prompts have the same length.

    `index` is the row in the input, from 0.
    """

    index: int
    clean: tuple[int, ...]
    corrupted: tuple[tuple[int, ...], ...]
    target_id: int | None
    distractor_id: int | None


@dataclass(frozen=True)
class SkippedPair:
    """One unusable pair: its row from 0, a short machine name, and one sentence.

    `reason` is one of too-short, length-mismatch, no-corrupted-prompt, same-prompt, missing-target,
    target-not-one-token, distractor-not-one-token, target-equals-distractor.
    """

    index: int
    reason: str
    message: str


def encode_pairs(
    pairs: Sequence[Pair | TokenPair],
    tokenizer: EncodesPrompts,
    *,
    needs_target: bool,
    needs_distractor: bool = True,
    needs_corrupted: bool = True,
    on_bad_pair: str = "error",
    max_tokens: int = MAX_TOKENS,
    min_tokens: int = MIN_TOKENS,
    source: str = "pairs",
) -> tuple[list[EncodedPair], list[SkippedPair]]:
    """Encode pairs; return the usable ones and, with `on_bad_pair="skip"`, the others.

    Prompts are cut to their first `max_tokens` ids, BOS counted, as in the published
    code, and lengths are compared after the cut. The last position of a cut prompt is
    not where its answer would follow: give a larger `max_tokens` if that matters.
    Without `needs_target` an answer that is absent or not one token has the id None; a distractor
    is needed where a target is, but for `needs_distractor=False`. Without `needs_corrupted`
    corrupted prompts are left out, whatever they are.

    Raises:
        InputError: a pair is unusable and `on_bad_pair` is "error", none is usable, or
            an option is out of range. `source` names the input in the message.
    """
    if on_bad_pair not in ("error", "skip"):
        raise InputError(f'on_bad_pair is {on_bad_pair!r}; it must be "error" or "skip"')
    if not 1 <= min_tokens <= max_tokens:
        raise InputError(
            f"min_tokens {min_tokens} and max_tokens {max_tokens} leave no prompt length; "
            "give 1 <= min_tokens <= max_tokens"
        )
    encoded: list[EncodedPair] = []
    skipped: list[SkippedPair] = []
    for index, pair in enumerate(pairs):
        result = encode_pair(
            pair,
            tokenizer,
            index=index,
            needs_target=needs_target,
            needs_distractor=needs_distractor,
            needs_corrupted=needs_corrupted,
            max_tokens=max_tokens,
            min_tokens=min_tokens,
            source=source,
        )
        if isinstance(result, EncodedPair):
            encoded.append(result)
        elif on_bad_pair == "skip":
            skipped.append(result)
        else:
            skip = ", or skip such rows with --on-bad-pair skip" if len(pairs) > 1 else ""
            raise InputError(f"{result.message}; correct the row{skip}")
    if not encoded:
        raise InputError(_nothing_left(skipped, source))
    _warn_of_spaces(pairs, encoded, source)
    return encoded, skipped


def encode_pair(
    pair: Pair | TokenPair,
    tokenizer: EncodesPrompts,
    *,
    index: int,
    needs_target: bool,
    needs_distractor: bool = True,
    needs_corrupted: bool = True,
    max_tokens: int = MAX_TOKENS,
    min_tokens: int = MIN_TOKENS,
    source: str = "pairs",
) -> EncodedPair | SkippedPair:
    """Encode one pair, or say why it cannot be used; arguments as in `encode_pairs`."""
    result = _encoded(pair, tokenizer, index, max_tokens)
    if not needs_corrupted:
        result = replace(result, corrupted=())
    problem = _prompt_problem(result, tokenizer, min_tokens, needs_corrupted)
    if problem is None and needs_target:
        problem = _answer_problem(pair, result, tokenizer, needs_distractor)
    if problem is None:
        return result
    reason, sentence = problem
    return SkippedPair(index, reason, f"{source}, row {index} (counted from 0): {sentence}")


def _encoded(
    pair: Pair | TokenPair, tokenizer: EncodesPrompts, index: int, max_tokens: int
) -> EncodedPair:
    if isinstance(pair, TokenPair):
        corrupted = tuple(tuple(ids[:max_tokens]) for ids in pair.corrupted)
        clean = tuple(pair.clean[:max_tokens])
        return EncodedPair(index, clean, corrupted, pair.target, pair.distractor)
    return EncodedPair(
        index=index,
        clean=tuple(tokenizer.encode(pair.clean)[:max_tokens]),
        corrupted=tuple(tuple(tokenizer.encode(text)[:max_tokens]) for text in pair.corrupted),
        target_id=_answer_id(pair.target, tokenizer),
        distractor_id=_answer_id(pair.distractor, tokenizer),
    )


def _answer_id(text: str | None, tokenizer: EncodesPrompts) -> int | None:
    return None if text is None else tokenizer.answer_id(text)


def _prompt_problem(
    encoded: EncodedPair, tokenizer: EncodesPrompts, min_tokens: int, needs_corrupted: bool
) -> tuple[str, str] | None:
    """Return (reason, sentence) when the prompts cannot be compared position by position."""
    length = len(encoded.clean)
    shortest = min([length, *map(len, encoded.corrupted)])
    if shortest < min_tokens:
        return (
            "too-short",
            f"a prompt has {shortest} tokens, fewer than {min_tokens} (--min-tokens)",
        )
    if needs_corrupted and not encoded.corrupted:
        return (
            "no-corrupted-prompt",
            "there is no corrupted prompt to compare the clean one with; give one, have one made "
            "by --suggest-corruption, or set removed features to zero by --corruption "
            "zero-features",
        )
    for ids in encoded.corrupted:
        if len(ids) != length:
            return (
                "length-mismatch",
                f"the clean prompt has {length} tokens and a corrupted one {len(ids)}"
                f"{_difference(encoded.clean, ids, tokenizer)}",
            )
        if ids == encoded.clean:
            return (
                "same-prompt",
                f"a corrupted prompt has the same {length} tokens as the clean one",
            )
    return None


def _answer_problem(
    pair: Pair | TokenPair,
    encoded: EncodedPair,
    tokenizer: EncodesPrompts,
    needs_distractor: bool,
) -> tuple[str, str] | None:
    """Return (reason, sentence) when target and distractor are not two single tokens."""
    answers: dict[str, str | int | None] = {"target": pair.target}
    if needs_distractor:
        answers["distractor"] = pair.distractor
    for field, answer in answers.items():
        if answer is None:
            what = "compares two answers" if needs_distractor else "is about an answer"
            return "missing-target", f"the metric {what} and there is no {field}"
    if encoded.target_id is None:
        return "target-not-one-token", f"the target {_split(pair.target, tokenizer)}"
    if not needs_distractor:
        return None
    if encoded.distractor_id is None:
        return (
            "distractor-not-one-token",
            f"the distractor {_split(answers['distractor'], tokenizer)}",
        )
    if encoded.target_id == encoded.distractor_id:
        return (
            "target-equals-distractor",
            f"target {pair.target!r} and distractor {pair.distractor!r} are the same token",
        )
    return None


def _difference(clean: Sequence[int], other: Sequence[int], tokenizer: EncodesPrompts) -> str:
    """Say where two prompts differ, and into which tokens each is split there."""
    least = min(len(clean), len(other))
    start = next((i for i in range(least) if clean[i] != other[i]), least)
    most = least - start
    end = next((i for i in range(most) if clean[-1 - i] != other[-1 - i]), most)
    parts = (ids[start : len(ids) - end] for ids in (clean, other))
    ours, theirs = (_shown(part, tokenizer) for part in parts)
    return f"; from token {start} on, BOS being 0, they differ: {ours} against {theirs}"


def _shown(ids: Sequence[int], tokenizer: EncodesPrompts) -> str:
    """Return a few tokens in quotes, long ones cut."""
    texts = [tokenizer.token(index) for index in ids[:_SHOWN]]
    cut = [one if len(one) <= _LONGEST else f"{one[: _LONGEST - 1]}…" for one in texts]
    more = [f"and {len(ids) - _SHOWN} more"] if len(ids) > _SHOWN else []
    return " ".join([*map(repr, cut), *more]) or "nothing"


def _split(text: str | int | None, tokenizer: EncodesPrompts) -> str:
    """Say which tokens an answer is, and what would be one token."""
    assert isinstance(text, str)
    pieces = tokenizer.answer_pieces(text)
    turned = text[1:] if text.startswith(" ") else f" {text}"
    better = [one for one in (turned, *pieces[:1]) if one and tokenizer.answer_id(one) is not None]
    shown = ", ".join(repr(piece) for piece in pieces)
    hint = f"; {better[0]!r} would be one token" if better else ""
    return f"{text!r} is {len(pieces)} tokens ({shown}) and must be one{hint}"


def _warn_of_spaces(
    pairs: Sequence[Pair | TokenPair], encoded: Sequence[EncodedPair], source: str
) -> None:
    texts = [(one.index, pairs[one.index].clean) for one in encoded]
    rows = [index for index, text in texts if isinstance(text, str) and text.endswith(" ")]
    if rows:
        warnings.warn(
            f"{source}: {len(rows)} of {len(encoded)} prompts end in a space, the first is row "
            f"{rows[0]} (counted from 0). A word's space belongs to its own token, so what "
            "follows a space alone is seldom a word: remove it, and let the answers begin with it.",
            UserWarning,
            stacklevel=3,
        )


def _nothing_left(skipped: Sequence[SkippedPair], source: str) -> str:
    if not skipped:
        return f"{source} holds no pairs; give at least one"
    counts = Counter(pair.reason for pair in skipped)
    reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(counts.items()))
    return (
        f"all {len(skipped)} rows of {source} were skipped ({reasons}); correct the rows or "
        "use the tokenizer they were made for"
    )

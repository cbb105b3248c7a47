"""Encoding pairs: lengths, single-token answers, and bad pairs refused or counted."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from pie_jax.errors import InputError
from pie_jax.tasks.encode import EncodedPair, encode_pairs
from pie_jax.tasks.records import Pair


class WordTokenizer:
    """One id per white-space word after BOS 0; an answer is one token after one space."""

    def __init__(self) -> None:
        self.ids: dict[str, int] = {}

    def encode(self, text: str) -> list[int]:
        return [0] + [self.ids.setdefault(word, len(self.ids) + 1) for word in text.split()]

    def answer_id(self, text: str) -> int | None:
        match = re.fullmatch(r" (\S+)", text)
        return self.ids.setdefault(match[1], len(self.ids) + 1) if match else None

    def token(self, index: int) -> str:
        return next((word for word, known in self.ids.items() if known == index), "<bos>")

    def answer_pieces(self, text: str) -> list[str]:
        return re.findall(r" \S+", text)


CLEAN = "when Ann and Bob met Bob talked to"
CORRUPTED = "when Ann and Bob met Tom talked to"
GOOD = Pair(CLEAN, (CORRUPTED,), " Ann", " Bob")

BAD = [
    ("too-short", Pair("a b c d e f", ("a b c d e g",), " Ann", " Bob")),
    ("length-mismatch", Pair(CLEAN, (CORRUPTED, CORRUPTED + " x"), " Ann", " Bob")),
    ("no-corrupted-prompt", Pair(CLEAN, (), " Ann", " Bob")),
    ("same-prompt", Pair(CLEAN, (CORRUPTED, CLEAN), " Ann", " Bob")),
    ("missing-target", Pair(CLEAN, (CORRUPTED,), None, " Bob")),
    ("missing-target", Pair(CLEAN, (CORRUPTED,), " Ann", None)),
    ("target-not-one-token", Pair(CLEAN, (CORRUPTED,), " Ann Lee", " Bob")),
    ("distractor-not-one-token", Pair(CLEAN, (CORRUPTED,), " Ann", " Bob Lee")),
    ("target-equals-distractor", Pair(CLEAN, (CORRUPTED,), " Ann", " Ann")),
]


def test_ids_of_a_good_pair_come_from_the_tokenizer_in_row_order() -> None:
    tokenizer = WordTokenizer()
    other = Pair(CORRUPTED, (CLEAN, CLEAN.replace("Ann", "Sue")), " Tom", " Sue")
    encoded, skipped = encode_pairs([GOOD, other], tokenizer, needs_target=True)
    assert skipped == []
    assert encoded[0] == EncodedPair(
        index=0,
        clean=tuple(tokenizer.encode(CLEAN)),
        corrupted=(tuple(tokenizer.encode(CORRUPTED)),),
        target_id=tokenizer.ids["Ann"],
        distractor_id=tokenizer.ids["Bob"],
    )
    assert encoded[0].clean[0] == 0
    assert encoded[1].index == 1
    assert len(encoded[1].corrupted) == 2


@pytest.mark.parametrize(("reason", "pair"), BAD)
def test_a_bad_pair_is_an_error_that_names_the_row_and_the_way_out(reason: str, pair: Pair) -> None:
    with pytest.raises(InputError) as caught:
        encode_pairs([GOOD, pair], WordTokenizer(), needs_target=True, source="my.jsonl")
    assert "my.jsonl, row 1 (counted from 0)" in str(caught.value)
    assert "--on-bad-pair skip" in str(caught.value)


@pytest.mark.parametrize(("reason", "pair"), BAD)
def test_a_bad_pair_is_counted_and_named_on_request(reason: str, pair: Pair) -> None:
    encoded, skipped = encode_pairs(
        [GOOD, pair, GOOD], WordTokenizer(), needs_target=True, on_bad_pair="skip", source="f"
    )
    assert [pair.index for pair in encoded] == [0, 2]
    assert [(pair.index, pair.reason) for pair in skipped] == [(1, reason)]
    assert skipped[0].message.startswith("f, row 1 ")


def test_without_a_target_metric_answers_are_not_checked() -> None:
    pairs = [
        Pair(CLEAN, (CORRUPTED,), None, None),
        Pair(CLEAN, (CORRUPTED,), " Ann Lee", " Bob"),
        Pair(CLEAN, (CORRUPTED,), " Ann", " Ann"),
    ]
    tokenizer = WordTokenizer()
    encoded, skipped = encode_pairs(pairs, tokenizer, needs_target=False)
    ann, bob = tokenizer.ids["Ann"], tokenizer.ids["Bob"]
    answers = [(pair.target_id, pair.distractor_id) for pair in encoded]
    assert answers == [(None, None), (None, bob), (ann, ann)]
    assert skipped == []


def test_without_a_target_metric_prompts_are_still_checked() -> None:
    for reason, pair in BAD[:4]:
        _, skipped = encode_pairs(
            [GOOD, pair], WordTokenizer(), needs_target=False, on_bad_pair="skip"
        )
        assert [pair.reason for pair in skipped] == [reason]


def test_a_mismatch_shows_both_prompts_tokens_where_they_differ() -> None:
    pair = Pair(CLEAN, ("when Ann and Bob met Tom Lee talked to",), " Ann", " Bob")
    with pytest.raises(InputError) as caught:
        encode_pairs([pair], WordTokenizer(), needs_target=True)
    said = str(caught.value)
    assert "9 tokens and a corrupted one 10; from token 6 on, BOS being 0" in said
    assert "they differ: 'Bob' against 'Tom' 'Lee'" in said
    assert "--on-bad-pair" not in said  # nothing would be left


def test_a_mismatch_of_long_and_strange_tokens_stays_one_short_line() -> None:
    strange = " ".join(f"{'x' * 10_000}{i}" for i in range(50)) + " \u202eevil\x1b[2J"
    pair = Pair(CLEAN, (f"{CLEAN} {strange}",), " Ann", " Bob")
    with pytest.raises(InputError) as caught:
        encode_pairs([pair], WordTokenizer(), needs_target=True)
    said = str(caught.value)
    assert len(said) < 700
    assert "nothing against" in said
    assert "and 43 more" in said
    assert said.isprintable()


@pytest.mark.parametrize("corrupted", [(), (CORRUPTED,), (CORRUPTED + " x",), (CLEAN,)])
def test_corrupted_prompts_are_left_out_where_none_is_needed(corrupted: tuple[str, ...]) -> None:
    pair = replace(GOOD, corrupted=corrupted)
    encoded, _ = encode_pairs([pair], WordTokenizer(), needs_target=True, needs_corrupted=False)
    assert encoded[0].corrupted == ()
    if not corrupted:
        with pytest.raises(InputError, match=r"--suggest-corruption.*--corruption zero-features"):
            encode_pairs([pair], WordTokenizer(), needs_target=True)


def test_a_distractor_may_be_left_out_where_none_is_needed() -> None:
    for distractor in (None, " Ann", " Bob Lee"):
        pair = replace(GOOD, distractor=distractor)
        encoded, _ = encode_pairs(
            [pair], WordTokenizer(), needs_target=True, needs_distractor=False
        )
        assert encoded[0].target_id is not None
    pair = replace(GOOD, target=None)
    with pytest.raises(InputError, match="no target"):
        encode_pairs([pair], WordTokenizer(), needs_target=True, needs_distractor=False)


def test_the_shortest_prompt_has_eight_tokens_bos_counted() -> None:
    seven = Pair("a b c d e f g", ("a b c d e f h",), " a", " b")
    encoded, _ = encode_pairs([seven], WordTokenizer(), needs_target=True)
    assert len(encoded[0].clean) == 8


@pytest.mark.parametrize("needs_target", [True, False])
def test_lengths_are_compared_after_the_cut_at_128(needs_target: bool) -> None:
    long = " ".join(["w"] * 126)
    pair = Pair(f"a {long} x", (f"b {long} x y z",), " a", " b")
    tokenizer = WordTokenizer()
    encoded, _ = encode_pairs([pair], tokenizer, needs_target=needs_target)
    assert encoded[0].clean == tuple(tokenizer.encode(pair.clean)[:128])
    assert encoded[0].corrupted[0] == tuple(tokenizer.encode(pair.corrupted[0])[:128])


def test_prompts_that_differ_only_behind_the_cut_are_the_same_prompt() -> None:
    long = " ".join(["w"] * 130)
    pair = Pair(f"{long} x", (f"{long} y",), " a", " b")
    _, skipped = encode_pairs([pair, GOOD], WordTokenizer(), needs_target=True, on_bad_pair="skip")
    assert [pair.reason for pair in skipped] == ["same-prompt"]


def test_an_answer_of_several_tokens_is_shown_with_what_would_be_one() -> None:
    pair = Pair(CLEAN, (CORRUPTED,), " Ann Lee", "Bob")
    wrong = r"the target ' Ann Lee' is 2 tokens \(' Ann', ' Lee'\) .*; ' Ann' would be one token"
    with pytest.raises(InputError, match=wrong):
        encode_pairs([pair], WordTokenizer(), needs_target=True)
    with pytest.raises(InputError, match=r"the distractor 'Bob' .*; ' Bob' would be one token"):
        encode_pairs([replace(pair, target=" Ann")], WordTokenizer(), needs_target=True)


def test_prompts_that_end_in_a_space_are_warned_of_once() -> None:
    spaced = Pair(f"{CLEAN} ", (f"{CORRUPTED} ",), " Ann", " Bob")
    with pytest.warns(UserWarning, match=r"f: 2 of 3 prompts end in a space, the first is row 1 "):
        encode_pairs([GOOD, spaced, spaced], WordTokenizer(), needs_target=True, source="f")


def test_nothing_left_is_an_error_that_counts_the_reasons() -> None:
    pairs = [BAD[0][1], BAD[0][1], BAD[3][1]]
    with pytest.raises(InputError, match=r"all 3 rows of f .*same-prompt 1, too-short 2"):
        encode_pairs(pairs, WordTokenizer(), needs_target=True, on_bad_pair="skip", source="f")
    with pytest.raises(InputError, match="f holds no pairs"):
        encode_pairs([], WordTokenizer(), needs_target=False, source="f")


def test_options_out_of_range_are_errors() -> None:
    with pytest.raises(InputError, match="on_bad_pair"):
        encode_pairs([GOOD], WordTokenizer(), needs_target=True, on_bad_pair="drop")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="max_tokens"):
        encode_pairs([GOOD], WordTokenizer(), needs_target=True, max_tokens=7)
    with pytest.raises(InputError, match="min_tokens"):
        encode_pairs([GOOD], WordTokenizer(), needs_target=True, min_tokens=0)

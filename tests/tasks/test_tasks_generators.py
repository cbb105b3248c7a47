"""The generated tasks: form, corruptions, splits, and alignment under a real tokenizer."""

from __future__ import annotations

import re
from itertools import permutations

import pytest
from tokenizers import Tokenizer as BpeModel
from tokenizers import decoders, models, pre_tokenizers, trainers

from pie_jax.errors import InputError
from pie_jax.tasks import TASKS, docstring, encode_pairs, facts, get_task, ioi, pronoun
from pie_jax.tasks.records import Pair


class Bpe:
    """A byte-level BPE tokenizer behind the two methods that tasks use."""

    def __init__(self, model: BpeModel) -> None:
        self.model = model
        self.bos = model.token_to_id("<bos>")

    def encode(self, text: str) -> list[int]:
        return [self.bos, *self.model.encode(text).ids]

    def token(self, index: int) -> str:
        return self.model.decode([index])

    def answer_id(self, text: str) -> int | None:
        ids = self.model.encode(text).ids
        return ids[0] if len(ids) == 1 else None


@pytest.fixture(scope="module")
def bpe() -> Bpe:
    """A tokenizer in which most, not all, of the tasks' words are one token."""
    pairs = ioi.generate(300, seed=1, names=ioi.NAMES[:40]) + docstring.generate(300, seed=1)
    pairs += pronoun.generate(300, seed=1) + facts.generate(300, seed=1)
    model = BpeModel(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2300,
        special_tokens=["<bos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    model.train_from_iterator([f"{pair.clean}{pair.target}" for pair in pairs], trainer)
    return Bpe(model)


def names_in(text: str) -> list[str]:
    return [word for word in re.findall(r"\w+", text) if word in ioi.NAMES]


def arguments_of(text: str) -> tuple[list[str], list[str]]:
    """Return the six arguments of the definition and those the docstring describes."""
    inside = re.search(r"\(self, (.*)\):", text)
    assert inside is not None
    return inside[1].split(", "), re.findall(r":param (\w+):", text)


def test_the_word_lists_have_the_published_sizes_and_no_repeats() -> None:
    assert len(set(ioi.NAMES)) == len(ioi.NAMES) == 99
    assert len(ioi.PLACES) == len(ioi.OBJECTS) == 8
    assert len(set(ioi.TEMPLATES)) == len(ioi.TEMPLATES) == 30
    for words in (docstring.METHOD_NAMES, docstring.ARGUMENTS, docstring.NOUNS):
        assert len(set(words)) == len(words)
    # A word in two roles would make the answer, or a distractor, appear outside its place.
    roles = (docstring.METHOD_NAMES, docstring.ARGUMENTS, docstring.NOUNS)
    assert all(not set(a) & set(b) for a, b in permutations(roles, 2))


def test_templates_swap_only_the_first_clause() -> None:
    for baba, abba in zip(ioi.BABA_TEMPLATES, ioi.ABBA_TEMPLATES, strict=True):
        assert re.findall(r"\[([AB])\]", baba) == ["B", "A", "B"]
        assert re.findall(r"\[([AB])\]", abba) == ["A", "B", "B"]
        assert re.split(r"\[[AB]\]", baba) == re.split(r"\[[AB]\]", abba)
        assert baba.endswith(" to")


def test_ioi_clean_prompts_repeat_the_distractor_and_name_the_target_once() -> None:
    for pair in ioi.generate(200, seed=0):
        assert pair.target is not None
        assert pair.distractor is not None
        names = [f" {name}" for name in names_in(pair.clean)]
        assert sorted(names) == sorted([pair.target, pair.distractor, pair.distractor])
        assert names[2] == pair.distractor
        assert "[" not in pair.clean


def test_s2_random_replaces_the_second_subject_by_third_names() -> None:
    for pair in ioi.generate(50, seed=0, n_corruptions=3):
        first, second, subject = names_in(pair.clean)
        assert len(set(pair.corrupted)) == 3
        for text in pair.corrupted:
            *clause, new = names_in(text)
            assert clause == [first, second]
            assert new not in clause
            assert new.join(pair.clean.rsplit(subject, 1)) == text


def test_s2_io_flips_the_answer() -> None:
    for pair in ioi.generate(50, seed=0, corruption="s2-io"):
        (text,) = pair.corrupted
        assert names_in(text)[:2] == names_in(pair.clean)[:2]
        assert f" {names_in(text)[2]}" == pair.target


def test_abc_puts_three_new_names_in_the_same_places() -> None:
    for pair in ioi.generate(50, seed=0, corruption="abc", n_corruptions=2):
        names = names_in(pair.clean)
        assert len(set(pair.corrupted)) == 2
        for text in pair.corrupted:
            new = names_in(text)
            assert len(set(new)) == 3
            assert not set(new) & set(names)
            blank = re.compile("|".join(rf"\b{name}\b" for name in {*names, *new}))
            assert blank.sub("_", text) == blank.sub("_", pair.clean)


def test_docstring_prompts_have_the_published_form() -> None:
    form = re.compile(
        r"\ndef \w+\(self(, \w+){6}\):\n    \"\"\"\w+ \w+ \w+\n\n"
        r"    :param \w+: \w+ \w+\n    :param \w+: \w+ \w+\n    :param"
    )
    for pair in docstring.generate(100, seed=0):
        assert form.fullmatch(pair.clean)
        (p1, p2, m1, m2, m3, s1), described = arguments_of(pair.clean)
        assert len({p1, p2, m1, m2, m3, s1}) == 6
        assert described == [m1, m2]
        assert pair.target == f" {m3}"
        assert pair.distractor in (f" {p1}", f" {p2}", f" {s1}")


def test_docstring_corruption_brings_in_five_other_names() -> None:
    for pair in docstring.generate(50, seed=0, n_corruptions=2):
        clean, _ = arguments_of(pair.clean)
        assert len(set(pair.corrupted)) == 2
        for text in pair.corrupted:
            corrupted, described = arguments_of(text)
            new = {*corrupted[2:5], *described}
            assert corrupted[:2] + corrupted[5:] == clean[:2] + clean[5:]
            assert len(new) == 5
            assert not new & set(clean)
            keep = re.compile("|".join(rf"\b{name}\b" for name in {*clean, *new}))
            assert keep.sub("_", text) == keep.sub("_", pair.clean)


def test_docstring_distractors_use_all_three_places() -> None:
    places = set()
    for pair in docstring.generate(60, seed=0):
        assert pair.distractor is not None
        places.add(arguments_of(pair.clean)[0].index(pair.distractor.strip()))
    assert places == {0, 1, 5}


@pytest.mark.parametrize("name", sorted(TASKS))
def test_a_seed_decides_the_pairs_and_no_clean_prompt_repeats(name: str) -> None:
    generate = TASKS[name].generate
    pairs = generate(200, seed=3)
    assert pairs == generate(200, seed=3)
    assert pairs != generate(200, seed=4)
    assert len({pair.clean for pair in pairs}) == 200


# These first prompts pin the drawing order: pair files made with a seed must stay the same.
FIRST: dict[str, str] = {
    "ioi": "Then, Peter and Daniel had a long talk. Afterwards Daniel said to",
    "docstring": (
        "\n"
        "def build(self, table, target, option, input, message, index):\n"
        '    """picture market oil\n'
        "\n"
        "    :param option: hand kitchen\n"
        "    :param input: letter forest\n"
        "    :param"
    ),
    "pronoun": (
        "Our waiter Greg used to work at the store. Nothing much happened for some hours. "
        "It was his first day in the town. Some of the people thanked"
    ),
    "facts": (
        "The Belgian friend of ours, Jeff, lives in Antwerp. There are many people in the "
        "streets. On the map, Jeff looks for the country, which is"
    ),
}


@pytest.mark.parametrize("name", sorted(TASKS))
def test_the_first_prompt_of_seed_0_never_changes(name: str) -> None:
    assert TASKS[name].generate(1, seed=0)[0].clean == FIRST[name]


@pytest.mark.parametrize("name", sorted(TASKS))
@pytest.mark.parametrize("n_corruptions", [1, 2])
def test_pairs_for_a_real_tokenizer_all_encode(bpe: Bpe, name: str, n_corruptions: int) -> None:
    for corruption in TASKS[name].corruptions:
        count = 1 if corruption == "s2-io" else n_corruptions
        pairs = TASKS[name].generate(
            60, seed=0, tokenizer=bpe, corruption=corruption, n_corruptions=count
        )
        encoded, skipped = encode_pairs(pairs, bpe, needs_target=True)
        assert len(encoded) == 60
        assert skipped == []
        assert all(len(pair.corrupted) == count for pair in encoded)


def test_words_of_several_tokens_are_left_out(bpe: Bpe) -> None:
    split = [name for name in ioi.NAMES if bpe.answer_id(f" {name}") is None]
    assert split  # the fixture's tokenizer has not seen every name
    used = {
        name
        for pair in ioi.generate(300, seed=0, tokenizer=bpe, corruption="abc")
        for text in (pair.clean, *pair.corrupted)
        for name in names_in(text)
    }
    assert not used & set(split)


class Characters:
    """A tokenizer in which only the given words are one answer token."""

    def __init__(self, single: set[str]) -> None:
        self.single = sorted(single)

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]

    def token(self, index: int) -> str:
        return chr(index)

    def answer_id(self, text: str) -> int | None:
        word = text.strip()
        return self.single.index(word) if word in self.single else None


def test_pairs_whose_prompts_do_not_line_up_are_not_returned() -> None:
    names = ("Amy", "Ben", "Dan", "Oliver", "William")
    single = Characters({*names, *ioi.PLACES, *ioi.OBJECTS})
    for pair in ioi.generate(40, seed=0, tokenizer=single, names=names):
        assert len(pair.corrupted[0]) == len(pair.clean) <= 128
    uneven = ("Amy", "Oliver", "Christian")
    single = Characters({*single.single, *uneven})
    with pytest.raises(InputError, match="only 0 of the 1 pairs"):
        ioi.generate(1, seed=0, tokenizer=single, names=uneven)


def test_prompts_that_would_be_cut_are_not_returned() -> None:
    everything = Characters({*docstring.METHOD_NAMES, *docstring.ARGUMENTS, *docstring.NOUNS})
    with pytest.raises(InputError, match="only 0 of the 1 pairs"):
        docstring.generate(1, seed=0, tokenizer=everything)


def middle_is_heldout(pair: Pair) -> bool:
    return docstring.is_heldout(*arguments_of(pair.clean)[0][2:5])


def names_are_heldout(pair: Pair) -> bool:
    return ioi.is_heldout(*names_in(pair.clean)[:2])


def test_splits_part_the_combinations() -> None:
    for generate, heldout in (
        (ioi.generate, names_are_heldout),
        (docstring.generate, middle_is_heldout),
    ):
        assert all(heldout(pair) for pair in generate(100, seed=0, split="heldout"))
        assert not any(heldout(pair) for pair in generate(300, seed=0, split="train"))
        assert {heldout(pair) for pair in generate(300, seed=0)} == {True, False}


def test_about_a_tenth_is_held_out_whatever_the_order_of_two_names() -> None:
    chosen = [pair for pair in permutations(ioi.NAMES, 2) if ioi.is_heldout(*pair)]
    assert 0.08 < len(chosen) / (99 * 98) < 0.12
    assert {(b, a) for a, b in chosen} == set(chosen)
    middles = list(permutations(docstring.ARGUMENTS[:20], 3))
    held = [docstring.is_heldout(*middle) for middle in middles]
    assert 0.05 < sum(held) / len(held) < 0.15


def test_the_held_out_hash_never_changes() -> None:
    held = [name for name in ioi.NAMES if name != "Mary" and ioi.is_heldout("Mary", name)]
    assert held == [
        "Christian",
        "Crystal",
        "Dean",
        "Graham",
        "Jacob",
        "Keith",
        "Linda",
        "Maria",
        "Martin",
        "Matthew",
        "Simon",
    ]
    assert docstring.is_heldout("x", "a", "b") == docstring.is_heldout("y", "a", "b")


def test_every_distinct_prompt_can_be_drawn_and_no_more() -> None:
    template = ["At noon [B] and [A] left the [PLACE] and [B] waved to"]
    names = ("Amy", "Ben", "Dan")
    pairs = ioi.generate(48, seed=0, names=names, templates=template)
    assert len({pair.clean for pair in pairs}) == 48
    with pytest.raises(InputError, match=r"49 pairs .* only 48 different"):
        ioi.generate(49, seed=0, names=names, templates=template)


def test_too_few_words_is_an_error_with_both_counts() -> None:
    tokenizer = Characters({"Amy", "Ben", *ioi.PLACES, *ioi.OBJECTS})
    with pytest.raises(InputError, match=r"there are 2 names that are one token .* 3 are needed"):
        ioi.generate(1, seed=0, tokenizer=tokenizer)
    with pytest.raises(InputError, match=r"0 places"):
        ioi.generate(1, seed=0, tokenizer=Characters({*ioi.NAMES, *ioi.OBJECTS}))
    with pytest.raises(InputError, match=r"4 names and 5 are needed"):
        ioi.generate(1, seed=0, names=ioi.NAMES[:4], corruption="abc")
    few = Characters({*docstring.METHOD_NAMES, *docstring.NOUNS, *docstring.ARGUMENTS[:10]})
    with pytest.raises(InputError, match=r"10 argument names .* 11 are needed"):
        docstring.generate(1, seed=0, tokenizer=few)


def test_as_many_corruptions_as_the_words_allow() -> None:
    (pair,) = ioi.generate(1, seed=0, names=ioi.NAMES[:5], corruption="abc", n_corruptions=6)
    assert len(set(pair.corrupted)) == 6
    with pytest.raises(InputError, match="5 names and 6 are needed"):
        ioi.generate(1, seed=0, names=ioi.NAMES[:5], corruption="abc", n_corruptions=7)
    with pytest.raises(InputError, match="argument names and"):
        docstring.generate(1, seed=0, n_corruptions=10**10)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"corruption": "nonsense"}, "s2-random, s2-io, abc"),
        ({"corruption": "s2-io", "n_corruptions": 2}, "s2-io"),
        ({"n_corruptions": 0}, "n_corruptions"),
        ({"n": 0}, "n is 0"),
        ({"seed": -1}, "seed"),
        ({"split": "test"}, "split"),
        ({"templates": []}, "no templates"),
        ({"templates": ["[A] and [B]"]}, "template"),
        ({"names": ("Aaron", "Adam", "Alan"), "split": "heldout"}, 'split "heldout"'),
    ],
)
def test_a_wrong_option_is_one_sentence_that_names_it(
    options: dict[str, object], word: str
) -> None:
    with pytest.raises(InputError, match=re.escape(word)):
        ioi.generate(**{"n": 1, "seed": 0, **options})  # type: ignore[arg-type]


def test_the_registry_names_its_tasks() -> None:
    assert sorted(TASKS) == ["docstring", "facts", "ioi", "pronoun"]
    for name, task in TASKS.items():
        assert get_task(name) is task
        assert task.name == name
        assert task.default_corruption in task.corruptions
        plain = task.generate(2, seed=0)
        assert plain == task.generate(2, seed=0, corruption=task.default_corruption)
    with pytest.raises(InputError, match="docstring, facts, ioi, pronoun"):
        get_task("greater-than")

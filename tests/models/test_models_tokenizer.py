"""Tokenizers of every habit: what they add, what they drop, and what lies beyond the model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from refusals import refuses
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Inner
from transformers import PreTrainedTokenizerFast

from pie_jax.features.texts import split_text, text_ids, token_strings
from pie_jax.models.tokenizer import Tokenizer, load_tokenizer

WORDS = ["When", "Ann", "met", "Bob", ",", "ing"]
NAMES = ["<unk>", "<s>", "</s>", "▁", *WORDS, *(f"▁{word}" for word in WORDS)]
IDS = {name: index for index, name in enumerate(NAMES)}
BOS, EOS = IDS["<s>"], IDS["</s>"]


def plain_inner() -> Inner:
    """Return a tokenizer of SentencePiece's kind: a space is put in front, and none is decoded."""
    inner = Inner(models.WordLevel(IDS, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    inner.decoder = decoders.Metaspace(prepend_scheme="first")
    return inner


def llama_2_inner() -> Inner:
    """Return one that puts the space in front twice if the text begins with one."""
    pieces = [(name, -float(len(name) == 1)) for name in NAMES]
    inner = Inner(models.Unigram(pieces, unk_id=0))
    inner.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return inner


def wrapped(inner: Inner, template: str | None = "<s> $A", **options) -> Tokenizer:
    if template is not None:
        inner.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[("<s>", BOS), ("</s>", EOS)]
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    return Tokenizer(fast, "somewhere", **options)


# Of a special token that it does not number.
TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [
        {"SpecialToken": {"id": "<s>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ],
    "pair": [],
    "special_tokens": {},
}
TEMPLATES = [None, "<s> $A", "<s> $A </s>", "$A </s>"]


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("inner", [plain_inner, llama_2_inner])
def test_a_prompt_has_one_bos_and_nothing_behind(template: str | None, inner) -> None:
    """Whatever the tokenizer adds, and whether or not the text spells it."""
    tokenizer = wrapped(inner(), template)
    expected = [BOS, IDS["▁When"], IDS["▁Ann"]]
    assert tokenizer.encode("When Ann") == expected
    assert tokenizer.encode("") == [BOS]
    spelled = tokenizer.encode("<s>When Ann")
    assert spelled == tokenizer.encode("<s><s>When Ann")
    assert spelled.count(BOS) == 1
    assert spelled[0] == BOS
    assert spelled[-1] == expected[-1]


@pytest.mark.parametrize("template", TEMPLATES)
def test_special_tokens_that_a_text_spells_stay(template: str | None) -> None:
    tokenizer = wrapped(plain_inner(), template)
    ids = tokenizer.encode("When Ann</s>")
    assert ids == [BOS, IDS["▁When"], IDS["▁Ann"], EOS]


@pytest.mark.parametrize("inner", [plain_inner, llama_2_inner])
def test_tokens_keep_the_space_that_they_begin_with(inner) -> None:
    tokenizer = wrapped(inner())
    ids = [IDS[name] for name in ("▁When", "▁Ann", "▁", "ing", "▁,")]
    assert token_strings(tokenizer, ids) == (" When", " Ann", " ", "ing", " ,")
    assert tokenizer.decode(ids[:2]) == " When Ann"
    assert tokenizer.token(BOS) == "<s>"


@pytest.mark.parametrize("inner", [plain_inner, llama_2_inner])
def test_a_text_of_token_strings_is_encoded_as_it_was(inner) -> None:
    tokenizer = wrapped(inner())
    ids = tokenizer.encode("When Ann met")
    text = split_text(tokenizer, "When Ann met").text
    assert text == " When Ann met"
    assert text_ids(tokenizer, text) == ids
    assert split_text(tokenizer, text).text == text


@pytest.mark.parametrize("inner", [plain_inner, llama_2_inner])
def test_an_answer_is_the_token_that_follows_the_prompt(inner) -> None:
    tokenizer = wrapped(inner())
    assert tokenizer.answer_id(" Ann") == tokenizer.encode("When Ann")[-1]
    assert tokenizer.answer_id(" Ann met") is None
    assert tokenizer.answer_pieces(" Ann met") == [" Ann", " met"]


def test_spaces_before_punctuation_are_not_cleaned_up() -> None:
    inner = Inner(models.WordLevel({"a": 0, "Ġ,": 1, "<s>": 2, "</s>": 3, "<unk>": 4}, "<unk>"))
    inner.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", clean_up_tokenization_spaces=True
    )
    assert Tokenizer(fast, "somewhere").token(1) == " ,"


def test_added_tokens_beyond_the_vocabulary_are_refused_where_they_are_used() -> None:
    inner = plain_inner()
    inner.add_special_tokens([AddedToken("[PAD]", special=True)])
    tokenizer = wrapped(inner, vocab_size=len(NAMES))
    assert tokenizer.encode("When Ann") == [BOS, IDS["▁When"], IDS["▁Ann"]]
    refuses(lambda: tokenizer.encode("When [PAD]"), "somewhere", "'When [PAD]'", "'[PAD]'")
    refuses(lambda: wrapped(plain_inner(), vocab_size=len(NAMES) - 1), "do not belong together")


@pytest.mark.parametrize("verbosity", [None, "warning"])
def test_remarks_of_transformers_stay_off_the_terminal(
    verbosity: str | None, tmp_path: Path
) -> None:
    """Of a tokenizer that it takes for a broken Mistral's, and of a text longer than it likes."""
    plain_inner().save(str(tmp_path / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 2}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**settings, "bos_token": "<s>"}))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mistral"}))
    script = (
        "from pathlib import Path; from pie_jax.models.tokenizer import load_tokenizer\n"
        f"load_tokenizer(Path({str(tmp_path)!r})).encode('When Ann met Bob')"
    )
    environment = {key: value for key, value in os.environ.items() if key != "CI"}
    if verbosity is not None:
        environment["TRANSFORMERS_VERBOSITY"] = verbosity
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, env=environment, text=True, check=True
    )
    assert ("sequence length is longer" in done.stderr) == (verbosity is not None)
    assert verbosity is not None or (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("tokenizer.json", {"model": {"type": "WordLevel", "vocab": {}, "unk_token": "<unk>"}}),
        ("tokenizer.json", {"post_processor": TEMPLATE}),
        ("tokenizer_config.json", {"model_max_length": []}),
        ("tokenizer_config.json", {"tokenizer_class": []}),
    ],
)
def test_files_that_break_a_tokenizer_when_it_is_used(name: str, change: dict, tmp_path: Path):
    """Among them one at which tokenizers panics, which is no Exception."""
    plain_inner().save(str(tmp_path / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    load_tokenizer(tmp_path)
    path = tmp_path / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    refuses(lambda: load_tokenizer(tmp_path).encode("When Ann"), tmp_path, "cannot be used")

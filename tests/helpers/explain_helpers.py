"""A world without a model: words as tokens, features as rules, and an LLM made of replies."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from pie_jax.evaluate.presets import Preset
from pie_jax.evaluate.subject import Shared
from pie_jax.features.corpus.sample import read_natural
from pie_jax.features.records import Explanation, FeatureExamples, FeatureKey, Window
from pie_jax.llm import InvalidReply, LLMConfig, Reply, Request, Usage
from pie_jax.llm.parsing.wire import WireError

NAMES = (" Mary", " John", " Tom", " Ann")
WORDS = (*NAMES, " gave", " to", " the", " store", " and", " a", " drink", ",", ".", " went")
Rule = Callable[[Sequence[str], int], float]
TINY = Preset("tiny", 2, 6, 40, 30, 8, 4, sparse=3)


class WordTokenizer:
    """Words with their leading space, punctuation and line breaks; ids in order of appearance."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {"<bos>": 0}

    def encode(self, text: str) -> list[int]:
        """Return the ids, BOS in front."""
        pieces = re.findall(r" ?\w+|[^\w\s]|\s", text)
        return [0, *(self._ids.setdefault(piece, len(self._ids)) for piece in pieces)]

    def token(self, index: int) -> str:
        """Return one piece."""
        return list(self._ids)[index]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the pieces together."""
        return "".join(self.token(index) for index in ids)


TOKENIZER = WordTokenizer()

RULES: dict[FeatureKey, Rule] = {
    FeatureKey(0, 1): lambda t, i: 1.0 + i % 3 if t[i] == " drink" else 0.0,
    FeatureKey(1, 2): lambda t, i: 2.0 if i and t[i - 1] == " to" and t[i] in NAMES else 0.0,
    FeatureKey(2, 3): lambda t, i: 3.0 if t[i] == " Mary" and " John" in t[:i] else 0.0,
    FeatureKey(2, 4): lambda t, i: 1.0 if t[i] == "," and "," in t[:i] else 0.0,
}


def random_texts(count: int, seed: int, length: int = 14) -> list[str]:
    """Draw texts of words."""
    rng = np.random.default_rng(seed)
    # A feature's word has to be rare, or the corpus is as clear as any text about it.
    weight = np.array([0.2 if word == " drink" else 1.0 for word in WORDS])
    share = weight / weight.sum()
    return ["".join(rng.choice(WORDS, length, p=share)) for _ in range(count)]


def token_activations(text: str, key: FeatureKey) -> list[float]:
    """Return a feature's activation on each token."""
    tokens = [TOKENIZER.token(i) for i in TOKENIZER.encode(text)[1:]]
    return [float(RULES[key](tokens, i)) for i in range(len(tokens))]


def activations(texts: Sequence[str], keys: Sequence[FeatureKey]) -> np.ndarray:
    """Return the largest activation of every text and feature."""
    return np.array([[max([0.0, *token_activations(t, k)]) for k in keys] for t in texts])


def make_window(index: int, text: str, key: FeatureKey) -> Window:
    """Return a text as a window."""
    return Window(
        index,
        np.array(TOKENIZER.encode(text), np.int32),
        np.array([0.0, *token_activations(text, key)], np.float32),
    )


def make_examples(key: FeatureKey, count: int = 400, seed: int = 0) -> FeatureExamples:
    """Return what a pass over random texts would find: half of it to explain, half to score."""
    windows = [make_window(i, t, key) for i, t in enumerate(random_texts(count, seed))]
    active = sorted((w for w in windows if w.maximum > 0), key=lambda w: -w.maximum)[:60]
    silent = [w for w in windows if w.maximum == 0][:60]
    explaining = {w.index for group in (active, silent) for w in group[::2]}
    scoring = {w.index for group in (active, silent) for w in group[1::2]}
    return FeatureExamples(
        key=key,
        tokens_seen=count * 14,
        tokens_active=sum(int((w.activations > 0).sum()) for w in windows),
        maximum=max((w.maximum for w in windows), default=0.0),
        histogram=np.zeros(20, np.int64),
        top=tuple(active),
        deciles=((),) * 10,
        inactive=tuple(silent),
        neighbours=(),
        for_explaining=frozenset(explaining),
        for_scoring=frozenset(scoring),
    )


def make_shared(judge, *, natural: int = 200, preset: Preset = TINY, seed: int = 0, **more):
    """Return what scorers share."""
    pool = read_natural(random_texts(natural, 99), list(RULES), TOKENIZER, activations)
    return Shared(judge, TOKENIZER, activations, pool, preset, seed=seed, **more)


def explained(key: FeatureKey, text: str | None) -> Explanation:
    """Return an explanation."""
    return Explanation(key, text, "test", status="ok" if text else "failed")


class ScriptedChat:
    """A chat whose replies are raw texts, read by the real parsers; an exception is raised."""

    def __init__(self, answer: Callable[[Request], str | Exception]):
        self.config = LLMConfig("http://127.0.0.1:1/v1", "scripted")
        self.requests: list[Request] = []
        self._answer = answer

    async def complete(self, request: Request) -> Reply:
        """Return the parsed reply, as the client does."""
        self.requests.append(request)
        text = self._answer(request)
        if isinstance(text, Exception):
            raise text
        try:
            value = request.format.parse(text)
        except WireError as error:
            raise InvalidReply(str(error), (text,), 0.25) from error
        return Reply(value, text, "scripted", Usage(1, 1), 0.5, False, False, "key")


def asked_ids(request: Request) -> list[int]:
    """Return the ids that a request is about."""
    return [
        int(i) for i in re.findall(r'^\{"id": (\d+), "text"', request.messages[-1].content, re.M)
    ]

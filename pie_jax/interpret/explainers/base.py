"""The interface of an explainer: from a feature's examples to an explanation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pie_jax.features.records import Explanation, FeatureExamples, FeatureKey
from pie_jax.features.texts import ShowsTokens
from pie_jax.judges.base import Judge
from pie_jax.llm.chat import Chat


@dataclass(frozen=True)
class ExplainOptions:
    """`shown` windows in a prompt; `contrast` non-activating ones beside them; `candidates`
    explanations drawn, of which the best by detection is kept; `patterns` in a sentence."""

    shown: int = 40
    contrast: int = 0
    candidates: int = 1
    patterns: int = 3


@dataclass(frozen=True)
class ExplainInputs:
    """What explainers share. `promoted` are tokens that a feature's decoders make likelier."""

    tokenizer: ShowsTokens
    chat: Chat | None = None
    judge: Judge | None = None
    promoted: Mapping[FeatureKey, Sequence[str]] = field(default_factory=dict)
    options: ExplainOptions = ExplainOptions()


@dataclass(frozen=True)
class Explainer:
    """A way to explain a feature; a failed call is an explanation with a status, not an error."""

    name: str
    description: str
    explain: Callable[[FeatureExamples, ExplainInputs], Awaitable[Explanation]]
    needs_llm: bool = False

"""Explain without an LLM: the tokens and contexts that fire, as a sentence that can be applied."""

from __future__ import annotations

from collections.abc import Iterable

from pie_jax.interpret.explainers.base import Explainer, ExplainInputs
from pie_jax.interpret.patterns import learn_patterns, write
from pie_jax.interpret.patterns.measure import Fit, measure
from pie_jax.interpret.records import Explanation, FeatureExamples, Window
from pie_jax.interpret.texts import TokenText, window_text


async def explain(examples: FeatureExamples, inputs: ExplainInputs) -> Explanation:
    """Learn patterns from the windows for explaining; measure them on those kept for scoring."""

    def read(windows: Iterable[Window]) -> list[TokenText]:
        return [window_text(inputs.tokenizer, window) for window in windows]

    active = examples.explaining()
    silent = examples.inactive_for(examples.for_explaining)
    patterns = learn_patterns(read([*active, *silent]), inputs.options.patterns)
    if not patterns:
        return Explanation(examples.key, None, EXPLAINER.name, status="no-examples")
    held_out = [*examples.scoring(), *examples.inactive_for(examples.for_scoring)]
    text = write(patterns, _note(measure(patterns, read(held_out))))
    ids = tuple(window.index for window in (*active, *silent))
    return Explanation(examples.key, text, EXPLAINER.name, cost=0.0, example_ids=ids)


def _note(fit: Fit) -> str:
    numbers = ["undefined" if value is None else f"{value:.2f}" for value in fit]
    return f"patterns, no LLM; on held-out windows precision {numbers[0]}, recall {numbers[1]}"


EXPLAINER = Explainer(
    "patterns", "patterns of tokens learned from the windows, no LLM", explain=explain
)

"""Explain without an LLM: the tokens and contexts that fire, as a sentence that can be applied."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pie_jax.features.records import Explanation, FeatureExamples, Window
from pie_jax.features.texts import TokenText, window_text
from pie_jax.interpret.explainers.base import Explainer, ExplainInputs
from pie_jax.patterns import learn_patterns, write
from pie_jax.patterns.measure import Fit, measure
from pie_jax.patterns.sentence import strings
from pie_jax.patterns.strength import strongest_contexts


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
    stronger = strongest_contexts(read(active))
    text = write(patterns, _note(measure(patterns, read(held_out)), stronger))
    ids = tuple(window.index for window in (*active, *silent))
    return Explanation(examples.key, text, EXPLAINER.name, cost=0.0, example_ids=ids)


def _note(fit: Fit, stronger: Sequence[str]) -> str:
    """Return what stands in brackets: it is for the reader, no judge applies it."""
    where = f"strongest with {strings(stronger)} somewhere before; " if stronger else ""
    numbers = ["undefined" if value is None else f"{value:.2f}" for value in fit]
    return (
        f"{where}patterns, no LLM; on held-out windows precision {numbers[0]}, recall {numbers[1]}"
    )


EXPLAINER = Explainer(
    "patterns", "patterns of tokens learned from the windows, no LLM", explain=explain
)

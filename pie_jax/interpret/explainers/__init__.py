"""Explainers: one file each, entered in `EXPLAINERS`."""

from pie_jax.errors import InputError
from pie_jax.interpret.explainers import llm, patterns
from pie_jax.interpret.explainers.base import Explainer, ExplainInputs, ExplainOptions

EXPLAINERS: dict[str, Explainer] = {
    module.EXPLAINER.name: module.EXPLAINER for module in (patterns, llm)
}

__all__ = ["EXPLAINERS", "ExplainInputs", "ExplainOptions", "Explainer", "get_explainer"]


def get_explainer(name: str) -> Explainer:
    """Return an explainer by name; raises `InputError` for an unknown one."""
    if name not in EXPLAINERS:
        raise InputError(f"--explainer `{name}` is not known; use one of {', '.join(EXPLAINERS)}.")
    return EXPLAINERS[name]

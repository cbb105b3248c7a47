"""Checks of settings, before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterable

from pie_jax.errors import InputError
from pie_jax.models.gradient_rules import GRADIENT_RULES
from pie_jax.prune.batch.metrics import METRICS
from pie_jax.prune.methods import METHODS
from pie_jax.prune.options import PruneOptions


def check_options(options: PruneOptions) -> None:
    """Raise `InputError` for a setting that means nothing, naming the option."""
    _one_of("--method", options.methods, METHODS)
    _one_of("--metric", (options.metric,), METRICS)
    _one_of("--corruption", (options.corruption,), ("corrupted-prompt", "zero-features"))
    _one_of("--judge-corruptions", (options.judge_corruptions,), ("same", "unseen"))
    _one_of("integrated.objective", (options.integrated.objective,), ("metric", "kl"))
    _one_of("integrated.rule", (options.integrated.rule,), GRADIENT_RULES)
    _one_of("search.start", (options.search.start,), ("nothing", "everything"))
    _one_of("search.objective", (options.search.objective,), ("kl", "metric"))
    _one_of("search.rule", (options.search.rule,), GRADIENT_RULES)
    _one_of("--gradient", (options.gradient,), ("frozen", "full"))
    _one_of("--scope-layers", (options.scope_layers,), ("global", "per-layer"))
    _one_of("--on-bad-pair", (options.on_bad_pair,), ("error", "skip"))
    if options.judge_corruptions == "unseen" and options.corruption == "zero-features":
        raise InputError(
            "--judge-corruptions: unseen ones need corrupted prompts; zero-features has none."
        )
    if options.more_corruptions and options.corruption == "zero-features":
        raise InputError("--more-corruptions: zero-features has no corrupted prompts to vary.")
    if not _is_whole(options.more_corruptions, 0):
        raise InputError("--more-corruptions: must be a whole number of at least 0.")
    if options.search.exchanges and not options.search.grows:
        raise InputError(
            "search.exchanges: only for circuits grown from nothing by KL with full gradients; "
            "use 0, or leave search.start, search.objective and search.rule as they are."
        )
    if not 0 <= options.search.complement < float("inf"):
        raise InputError("search.complement: must be a finite number of at least 0.")
    if not options.budgets or not all(_is_whole(budget) for budget in options.budgets):
        raise InputError("--budget: every budget must be a whole number of at least 1.")
    if len(set(options.budgets)) < len(options.budgets):
        raise InputError("--budget: a budget is given twice; name each one once.")
    synergy = options.synergy
    positive = {
        "--batch-size": options.batch_size,
        "--min-tokens": options.min_tokens,
        "--synergy-boundary-cap": synergy.boundary_cap,
        "--synergy-partners": synergy.partners,
        "--synergy-partners-per-candidate": synergy.partners_per_candidate,
        "acdc.block": options.acdc.block,
        "acdc.bisections": options.acdc.bisections,
        "integrated.points": options.integrated.points,
        "search.candidates": options.search.candidates,
        "search.steps": options.search.steps,
    }
    if options.search.stages is not None:
        positive["search.stages"] = options.search.stages
    for name, value in positive.items():
        if not _is_whole(value):
            raise InputError(f"{name}: must be a whole number of at least 1, but it is {value}.")
    if not _is_whole(options.seed, 0):
        raise InputError(f"--seed: must be a whole number of at least 0, but it is {options.seed}.")
    if not _is_whole(options.search.exchanges, 0):
        raise InputError("search.exchanges: must be a whole number of at least 0.")
    if not 0 < options.search.rate < float("inf"):
        raise InputError("search.rate: must be a finite number above 0.")
    if not 0 < synergy.boundary_percent <= 100:
        raise InputError("--synergy-boundary-percent: must be above 0 and at most 100.")
    if not 0 <= synergy.weight < float("inf"):
        raise InputError("--synergy-lambda: must be a finite number of at least 0.")


def check_scope(scope: str) -> None:
    """Raise `InputError` for a scope that is not known."""
    _one_of("--scope", (scope,), ("prompt", "task"))


def _is_whole(value: object, least: int = 1) -> bool:
    return isinstance(value, int) and value >= least


def _one_of(option: str, values: Iterable[str], known: Iterable[str]) -> None:
    known, values = list(known), list(values)
    if not values:
        raise InputError(f"{option}: name at least one of {', '.join(known)}.")
    for value in values:
        if value not in known:
            raise InputError(f"{option}: `{value}` is not known; use {', '.join(known)}.")
    if len(set(values)) < len(values):
        raise InputError(f"{option}: the same name is given twice; name each one once.")

"""Settings of a pruning run, with the paper's values as defaults."""

from __future__ import annotations

from dataclasses import dataclass

import jax

from pie_jax.defaults import DEFAULT_METHODS, MIN_TOKENS, PAPER_BUDGETS


@dataclass(frozen=True)
class SynergyOptions:
    """FAP-Synergy's hyperparameters (PIE, arXiv 2604.16889); the published script's own defaults
    are lambda 5 and 50 percent."""

    weight: float = 3.0
    boundary_percent: float = 25.0
    boundary_cap: int = 32
    partners: int = 32
    partners_per_candidate: int = 8


@dataclass(frozen=True)
class AcdcOptions:
    """Settings of the ACDC-style baseline: candidates per block, and halvings of tau."""

    block: int = 16
    bisections: int = 8


@dataclass(frozen=True)
class IntegratedOptions:
    """Settings of integrated gradients: points on the path from null to clean, objective, rule.

    KL has no gradient at the clean run, which the points (middles of equal parts) never touch.
    """

    points: int = 10
    objective: str = "metric"  # or kl
    rule: str = "full"  # or frozen, relp


@dataclass(frozen=True)
class SearchOptions:
    """Settings of the circuit searches `staged`, `learned` and `auto`.

    `candidates`: occurrences considered in each prompt; `stages`: steps in which a circuit grows;
    `steps` and `rate` of learning; `exchanges`: at most so many final exchanges of one member;
    `complement`: weight of KL(nothing kept || everything but the circuit) beside the circuit's own
    while circuits of single prompts grow and are learned.
    For `staged` only: `start` of its path, `objective` of its gradients and their `rule`; other
    values than the defaults consider every occurrence and exchange nothing.
    """

    candidates: int = 4096
    stages: int | None = None  # 20, and more where a circuit would grow by over a third
    steps: int = 8
    rate: float = 0.2
    exchanges: int = 0
    complement: float = 0.1
    start: str = "nothing"  # or everything: shrunk instead of grown
    objective: str = "kl"  # or metric
    rule: str = "full"  # or frozen, relp

    @property
    def grows(self) -> bool:
        """Return whether `staged` is the usual one: from nothing, by KL, with full gradients."""
        return (self.start, self.objective, self.rule) == ("nothing", "kl", "full")


@dataclass(frozen=True)
class PruneOptions:
    """Settings of a pruning run; an unknown name or impossible value is an `InputError` of the run.

    `budgets` count occurrences kept in each prompt, or features of a task in `prune_task`;
    `chunk_bytes` bounds the memory of the interventions that run side by side; `plain` computes
    every run from the start instead of reusing the clean one.
    """

    methods: tuple[str, ...] = DEFAULT_METHODS
    budgets: tuple[int, ...] = PAPER_BUDGETS
    metric: str = "logit-diff"  # or logit-above-mean, logsumexp
    corruption: str = "corrupted-prompt"  # or zero-features
    judge_corruptions: str = "same"  # or unseen: half are kept aside for judging
    more_corruptions: int = 0  # of words that the pairs exchange; found on, never judged on
    judge_zero_features: bool = False  # also with what is not kept at zero: `kl_zero`
    gradient: str = "frozen"  # or full
    scope_layers: str = "global"  # or per-layer
    synergy: SynergyOptions = SynergyOptions()
    acdc: AcdcOptions = AcdcOptions()
    search: SearchOptions = SearchOptions()
    integrated: IntegratedOptions = IntegratedOptions()
    on_bad_pair: str = "error"  # or skip
    min_tokens: int = MIN_TOKENS  # shorter prompts, BOS counted, are bad pairs
    batch_size: int = 8
    seed: int = 0
    chunk_bytes: int | None = None  # by the device: 32 MiB on CPUs (their caches), 1 GiB elsewhere
    plain: bool = False  # every run whole and from the start: slow, for comparison

    def bytes_at_once(self) -> int:
        """Return `chunk_bytes`, or its default on the device at hand."""
        if self.chunk_bytes is not None:
            return self.chunk_bytes
        return 1 << 25 if jax.default_backend() == "cpu" else 1 << 30

"""What the printed tables show, as rows of numbers; what is undefined is None."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pie_jax.intervals import Mean

if TYPE_CHECKING:
    import pyarrow as pa

    from pie_jax.prune.results.tables import PruneResult
    from pie_jax.prune.task_circuits.results import TaskResult

Rows = list[dict[str, Any]]
NOTHING = "nothing kept"


def kl_rows(result: PruneResult) -> Rows:
    """Return mean KL in nats by method and budget, and with nothing kept."""
    rows: Rows = [{"method": NOTHING, "budget": 0, **_mean("kl", result.null())}]
    for method, means in result.summary().items():
        rows += [{"method": method, "budget": k, **_mean("kl", m)} for k, m in means.items()]
    return rows


def task_rows(result: TaskResult) -> Rows:
    """Return mean KL of every task circuit on seen and unseen pairs, and of single prompts' own."""
    rows: Rows = []
    for seen, mean in zip(("seen", "unseen"), result.null(), strict=True):
        rows.append({"method": NOTHING, "budget": 0, "pairs": seen, **_mean("kl", mean)})
    for one in result.summary():
        head = {"method": one.method, "budget": one.budget}
        for pairs, mean in (("seen", one.seen), ("unseen", one.unseen)):
            rows.append({**head, "pairs": pairs, **_mean("kl", mean), "features": one.features})
        alone = {**head, "pairs": "alone", **_mean("kl", one.prompts), "features": one.union}
        rows.append(alone)
    return rows


def score_rows(table: pa.Table) -> Rows:
    """Return the mean score of every group of explanations and scorer."""
    from pie_jax.evaluate.table import summarise

    rows: Rows = []
    for one in summarise(table):
        low, high = one.score.interval or (None, None)
        rows.append(
            {
                "explanations": one.group,
                "scorer": one.scorer,
                "score": one.score.value,
                "low": low,
                "high": high,
                "n": one.score.n,
                "undefined": sum(count for _, count in one.undefined),
                "chance": one.chance,
            }
        )
    return rows


def _mean(name: str, mean: Mean | None) -> dict[str, Any]:
    if mean is None:
        return {name: None, "low": None, "high": None, "n": 0}
    # One value has no interval.
    low, high = (mean.low, mean.high) if mean.n > 1 else (None, None)
    return {name: mean.mean, "low": low, "high": high, "n": mean.n}

"""The compiled passes: gradients, removals and behaviour against one slow pass at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from prune_helpers import (
    SlowPrompt,
    columns,
    forward,
    prepare,
    softmax,
    tiny_model,
    tiny_pairs,
    tiny_transcoder,
)
from slow_transformer import SlowTransformer

import pie_jax
from pie_jax.models.gradient_rules import FULL
from pie_jax.models.loader import LanguageModel, save_model
from pie_jax.prune.batch import occurrences
from pie_jax.prune.batch.metrics import METRICS, Prompt
from pie_jax.prune.engine import kl, passes
from pie_jax.prune.engine.evaluator import BatchEvaluator
from pie_jax.prune.engine.kl import kl_divergence
from pie_jax.prune.engine.passes import transcoder_inputs
from pie_jax.prune.engine.removals import run as cone_pass
from pie_jax.prune.methods import METHODS, acdc
from pie_jax.prune.options import AcdcOptions, PruneOptions, SearchOptions, SynergyOptions
from pie_jax.prune.search import grow, learn, space
from pie_jax.transcoders.store import Transcoder

LENGTHS = [16, 9, 12]
PROMPTS = range(len(LENGTHS))
PAIRS = tiny_pairs(LENGTHS)
# Logits reach twenty in float32; the same sums in another program.
TOLERANCE = 1e-4


@dataclass(eq=False)
class Case:
    model: LanguageModel
    transcoder: Transcoder
    inputs: BatchEvaluator
    plain: BatchEvaluator

    def slow(self, prompt: int) -> SlowPrompt:
        return SlowPrompt(self.inputs, self.transcoder, prompt)


@pytest.fixture(scope="module", params=["llama", "gemma"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A model with post-norms and one without; thresholds in the one, ReLU in the other."""
    gemma = request.param == "gemma"
    model = tiny_model(tmp_path_factory.mktemp("tiny"), gemma=gemma)
    transcoder = tiny_transcoder(model, jump=gemma)
    fast, plain = (
        prepare(model, transcoder, PAIRS, PruneOptions(batch_size=3, plain=plain))
        for plain in (False, True)
    )
    return Case(model, transcoder, fast, plain)


# Circuits and complements


def behaviour(case: Case, kept: np.ndarray) -> tuple[kl.Behaviour, np.ndarray]:
    return case.inputs.behaviour(kept.astype(np.int32))


def test_everything_kept_is_the_clean_model(case: Case):
    """And the complement of everything is the null: nothing kept."""
    kept = np.where(
        case.inputs.occurrences.valid, np.arange(case.inputs.occurrences.layer.shape[1]), -1
    )
    circuit, complement = behaviour(case, kept[:, None])
    clean, null = case.inputs.ends
    np.testing.assert_allclose(circuit.kl_last[:, 0], 0, atol=1e-6)
    np.testing.assert_allclose(circuit.kl_mean[:, 0], 0, atol=1e-6)
    assert not circuit.top1_changed.any()
    np.testing.assert_allclose(circuit.metric[:, 0], clean, atol=TOLERANCE)
    np.testing.assert_allclose(complement[:, 0], null.metric, atol=TOLERANCE)
    assert (np.abs(clean - null.metric) > 0.1).all()


def test_nothing_kept_is_the_null(case: Case):
    """And the complement of nothing is the clean model."""
    circuit, complement = behaviour(case, np.full((len(PROMPTS), 2, 3), -1))
    clean, null = case.inputs.ends
    for ours, theirs in zip(circuit, null, strict=True):
        np.testing.assert_allclose(
            ours, np.broadcast_to(theirs[:, None], ours.shape), atol=TOLERANCE
        )
    np.testing.assert_allclose(complement, np.stack([clean, clean], 1), atol=TOLERANCE)
    assert (null.kl_last > 1e-3).all()


def test_a_circuit_and_its_complement_change_places(case: Case):
    """Keeping S is removing the rest: computed as (all - S), and as the rest itself."""
    found = case.inputs.occurrences
    size = found.layer.shape[1]
    half = np.full((len(PROMPTS), 2, size), -1)
    for prompt, count in enumerate(found.count):
        shuffled = np.random.default_rng(prompt).permutation(count)
        first, second = shuffled[: count // 2], shuffled[count // 2 :]
        half[prompt, 0, : len(first)], half[prompt, 1, : len(second)] = first, second
    circuit, complement = behaviour(case, half)
    np.testing.assert_allclose(circuit.metric[:, 0], complement[:, 1], atol=TOLERANCE)
    np.testing.assert_allclose(circuit.metric[:, 1], complement[:, 0], atol=TOLERANCE)
    assert (np.abs(circuit.metric[:, 0] - circuit.metric[:, 1]) > 0.01).all()


def test_behaviour_equals_one_slow_pass_a_set(case: Case):
    found = case.inputs.occurrences
    kept = np.full((len(PROMPTS), 2, 3), -1)
    for prompt, count in enumerate(found.count):
        draw = np.random.default_rng(prompt).permutation(count)
        kept[prompt, 0], kept[prompt, 1, :2] = draw[:3], draw[3:5]
    circuit, complement = behaviour(case, kept)
    for prompt in PROMPTS:
        slow = case.slow(prompt)
        for at in range(2):
            members = set(kept[prompt, at][kept[prompt, at] >= 0].tolist())
            rest = [n for n in range(slow.count) if n not in members]
            assert circuit.metric[prompt, at] == pytest.approx(slow.metric(rest), abs=TOLERANCE)
            assert circuit.kl_last[prompt, at] == pytest.approx(slow.kl(rest), abs=TOLERANCE)
            changed = slow.logits(rest).argmax() != slow.clean_logits.argmax()
            assert circuit.top1_changed[prompt, at] == changed
            mean = slow_mean_kl(slow, rest)
            assert circuit.kl_mean[prompt, at] == pytest.approx(mean, abs=TOLERANCE)
            expected = slow.metric(members)
            assert complement[prompt, at] == pytest.approx(expected, abs=TOLERANCE)


def slow_mean_kl(slow: SlowPrompt, removed: list[int]) -> float:
    """Return KL(clean || changed) over the real positions."""
    added = jnp.asarray(slow.removal(removed), jnp.float32)
    clean, changed = (
        np.asarray(forward(slow.model, slow.tokens, delta), np.float64)
        for delta in (jnp.zeros_like(added), added)
    )
    total = 0.0
    for t in range(slow.last + 1):
        p, q = (softmax(x[t]) for x in (clean, changed))
        total += float(np.sum(p * (np.log(p) - np.log(q))))
    return total / (slow.last + 1)


def test_removal_effects_equal_one_slow_pass_a_set(case: Case):
    """Sets of one, two and three, with -1 in any place; in windows and cones, and plainly."""
    sets = np.array([[4, -1, -1], [-1, 7, 4], [0, 7, 30], [-1, -1, 0], [-1, -1, -1]], np.int32)
    whole = np.stack([sets] * len(PROMPTS))
    effects, plain = case.inputs.removal_effects(whole), case.plain.removal_effects(whole)
    for prompt in PROMPTS:
        slow = case.slow(prompt)
        expected = [slow.effect(row[row >= 0].tolist()) for row in sets]
        np.testing.assert_allclose(effects[prompt], expected, atol=TOLERANCE)
        np.testing.assert_allclose(plain[prompt], expected, atol=TOLERANCE)
        assert expected[-1] == 0


# Gradients


def test_fap_with_full_gradients_is_the_first_order_effect(case: Case, tmp_path: Path):
    """Removing a hundredth of an occurrence, in float64, against score / 100.

    Central differences leave the third order; scores are float32 sums of gradients.
    """
    before = case.inputs.options
    case.inputs.options = replace(before, gradient="full")
    scores = METHODS["fap"].scores(case.inputs)
    case.inputs.options = before
    save_model(case.model.transformer, tmp_path)
    model = SlowTransformer(tmp_path)
    step = 0.01
    for prompt in PROMPTS:
        slow = case.slow(prompt)
        tokens = np.asarray(slow.tokens)[: slow.last + 1].tolist()
        largest = float(np.abs(scores[prompt]).max())
        strongest = np.argsort(-np.abs(scores[prompt]))[:6].tolist()
        for n in [*strongest, *range(0, slow.count, slow.count // 6)]:
            values = []
            for scale in (step, -step):
                logits = model(tokens, slow.removal([n], scale)[:, : len(tokens)]).logits[-1]
                values.append(logits[slow.target] - logits[slow.distractor])
            slope = (values[1] - values[0]) / (2 * step)
            assert scores[prompt, n] == pytest.approx(slope, abs=2e-3 * largest)


def test_gradient_rules_differ_and_padding_scores_nothing(case: Case):
    found = {rule: case.inputs.attribution(rule) for rule in ("full", "frozen", "relp")}
    for rule, scores in found.items():
        assert not scores[~case.inputs.occurrences.valid].any()
        for other in found:
            if other != rule:
                assert np.abs(found[other] - scores).max() > 0.05 * np.abs(scores).max()


# Metrics and inputs


def test_metrics_read_the_last_real_position(case: Case):
    """Against the logits of the same prompt without padding."""
    model, prompts = case.inputs.problem.model, case.inputs.prompts
    for row in PROMPTS:
        length = LENGTHS[row]
        prompt = Prompt(*(array[row] for array in prompts))
        residual = model.streams(prompt.tokens).residual
        logits = np.asarray(model(prompt.tokens[:length]).logits, np.float64)
        difference = logits[-1, prompt.target] - logits[-1, prompt.distractor]
        ours = METRICS["logit-diff"].value(model, residual, prompt, FULL)
        assert float(ours) == pytest.approx(difference, abs=TOLERANCE)
        above = logits[-1, prompt.target] - logits[-1].mean()
        ours = METRICS["logit-above-mean"].value(model, residual, prompt, FULL)
        assert float(ours) == pytest.approx(above, abs=TOLERANCE)
        total = np.log(np.exp(logits).sum(axis=1)).sum()
        ours = METRICS["logsumexp"].value(model, residual, prompt, FULL)
        assert float(ours) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("site", ["resid_mid", "mlp_in", "ln2_normalized"])
def test_transcoder_inputs(case: Case, site: str):
    model, tokens = case.inputs.problem.model, case.inputs.prompts.tokens
    ours = np.asarray(transcoder_inputs(model, tokens, site))
    for row in PROMPTS:
        theirs = np.asarray(model.streams(tokens[row]).resid_mid)
        if site != "resid_mid":
            config = model.config
            weight = np.asarray(model.blocks.mlp_norm.weight[...]) + config.norm_offset
            weight = weight if site == "mlp_in" else np.ones_like(weight)
            square = np.mean(theirs.astype(np.float64) ** 2, axis=-1, keepdims=True)
            theirs = theirs / np.sqrt(square + config.norm_eps) * weight[:, None]
        np.testing.assert_allclose(ours[row], theirs, atol=1e-5, rtol=1e-5)


def test_kl_divergence():
    """Of three words by hand, and of logits whose probabilities vanish in float32."""
    p, q = np.array([0.5, 0.25, 0.25]), np.array([0.25, 0.25, 0.5])
    ours = kl_divergence(jnp.log(jnp.asarray(p)), jnp.log(jnp.asarray(q)) + 7)
    assert float(ours) == pytest.approx(0.25 * np.log(2))
    far = kl_divergence(jnp.array([0.0, -200.0]), jnp.array([-200.0, 0.0]))
    assert float(far) == pytest.approx(200, rel=1e-6)
    assert float(kl_divergence(jnp.arange(5.0), jnp.arange(5.0))) == 0


# Compilation

JITTED = {
    "metric_gradients": passes.metric_gradients,
    "attribute": passes.attribute,
    "total_writes": passes.total_writes,
    "read_windows": passes.read_windows,
    "cone_metrics": cone_pass.cone_metrics,
    "circuit_behaviour": kl.circuit_behaviour,
    "circuit_kl_last": kl.circuit_kl_last,
    "_union": occurrences._union,
    "sweep": acdc.sweep,
    "grow": grow.grow,
    "learn": learn.learn,
    "gather": space._gather,
}


@contextmanager
def compilations() -> Iterator[SimpleNamespace]:
    """Count what is traced and compiled meanwhile, by whomever."""
    seen = SimpleNamespace(events=[], on=True)

    def listen(event: str, duration: float, **rest: object) -> None:
        if seen.on and event.startswith("/jax/core/compile"):
            seen.events.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seen
    finally:
        seen.on = False


@pytest.mark.slow
@pytest.mark.parametrize("case", ["llama"], indirect=True)
def test_other_prompts_of_the_same_shape_compile_nothing(
    case: Case,
):
    options = PruneOptions(
        methods=tuple(METHODS),
        budgets=(3, 6),
        synergy=SynergyOptions(3.0, 50.0, 6, 4, 2),
        acdc=AcdcOptions(256, 2),
        search=SearchOptions(candidates=32, steps=3),
        judge_zero_features=True,
        batch_size=3,
    )

    def run(pairs: list[pie_jax.Pair], **changes: object) -> pie_jax.PruneResult:
        return pie_jax.prune(case.model, case.transcoder, pairs, replace(options, **changes))

    # Both sets change from as far back, by their class.
    first = run(tiny_pairs([16, 9, 12], seed=3))
    before = {name: function.count() for name, function in JITTED.items()}
    assert all(before.values())
    with compilations() as seen:
        second = run(tiny_pairs([14, 16, 9], seed=2))
    assert {name: function.count() for name, function in JITTED.items()} == before
    assert seen.events == []
    # The counter counts: another batch size compiles, and the prompts were others.
    with compilations() as seen:
        run(PAIRS, methods=("fap",), batch_size=2)
    assert len(seen.events) > 3
    assert columns(first.scores)["fap"].tolist() != columns(second.scores)["fap"].tolist()

"""Numbers of texts in a score: the paper's few, FADE's full counts, and a middle."""

from __future__ import annotations

from dataclasses import dataclass

from pie_jax.errors import InputError


@dataclass(frozen=True)
class Preset:
    """Counts for one feature.

    `writing_calls` x `texts_a_call` synthetic texts against `corpus_texts`; `rated` texts,
    `batch` a call; `sparse` is how many have to be rated 2, or one more round follows. Detection
    and fuzzing: `windows` activating and as many others, `windows_a_call` each. Steering: `prompts`
    cut after `prompt_tokens`, continued by `new_tokens`, at each of `factors` x the maximum; only
    where clarity and responsiveness reach `steer_from`. Features with fewer than `least_windows`
    windows for scoring are reported as such.
    """

    name: str
    writing_calls: int
    texts_a_call: int
    corpus_texts: int
    rated: int
    windows: int
    prompts: int
    factors: tuple[float, ...] = (-50.0, -10.0, -1.0, 0.0, 1.0, 10.0, 50.0)
    new_tokens: int = 30
    prompt_tokens: int = 16
    batch: int = 15
    sparse: int = 15
    windows_a_call: int = 5
    least_windows: int = 5
    steer_from: float = 0.5


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset("pie", 1, 5, 100, 20, 10, 10, sparse=3),
        Preset("default", 3, 10, 300, 100, 20, 20),
        Preset("fade", 15, 10, 1000, 500, 50, 50),
    )
}


def get_preset(name: str) -> Preset:
    """Return a preset by name; raises `InputError` for an unknown one."""
    if name not in PRESETS:
        raise InputError(f"--preset `{name}` is not known; use one of {', '.join(PRESETS)}.")
    return PRESETS[name]

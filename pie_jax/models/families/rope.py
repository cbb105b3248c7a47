"""RoPE's base and scaling, in every spelling of config.json."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pie_jax.errors import InputError
from pie_jax.models.config import LinearRope, Llama3Rope, ModelConfig, RopeScaling
from pie_jax.models.families.base import OFF, Fields, is_positive

# What transformers takes where a config has no `rope_theta`.
_DEFAULT_THETA = 10000.0
_Rope = tuple[float, RopeScaling | None]


def parse_rope(fields: Fields, default: float = _DEFAULT_THETA) -> _Rope:
    """Read RoPE's base and scaling in the old spelling (`rope_theta`, `rope_scaling`), the new one
    (`rope_parameters`), or both where they agree."""
    theta = fields.get("rope_theta")
    found: dict[str, _Rope] = {}
    for key in ("rope_parameters", "rope_scaling"):
        value = fields.get(key)
        if value is not None and not isinstance(value, dict):
            raise InputError(f"{fields.source}: `{key}` must be an object, but it is {value!r}.")
        if value:
            found[key] = _rope(dict(value), theta, default, fields.source)
    new = found.get("rope_parameters")
    if new is not None and theta is not None and new[0] != theta:
        own = fields.get("rope_parameters")["rope_theta"]
        raise InputError(
            f"{fields.source}: `rope_theta` is {theta!r} and `rope_parameters` has {own!r}; keep "
            "the one that the model was trained with."
        )
    if len(set(found.values())) > 1:
        both = " and ".join(f"`{key}` {fields.get(key)}" for key in found)
        raise InputError(
            f"{fields.source}: {both} say different things; keep the one that the model was "
            "trained with."
        )
    return next(iter(found.values()), None) or _rope({}, theta, default, fields.source)


def _rope(scaling: dict[str, Any], theta: Any, default: float, source: str) -> _Rope:
    base = scaling.pop("rope_theta", None)
    base = theta if base is None else base
    base = default if base is None else base
    if not is_positive(base):
        raise InputError(f"{source}: `rope_theta` must be a positive number, but it is {base!r}.")
    # Older files say `type`.
    kind = scaling.pop("rope_type", scaling.pop("type", "default"))
    scaling.pop("type", None)
    scaling = {key: v for key, v in scaling.items() if key not in OFF or v != OFF[key]}
    if kind == "default" and not scaling:
        return float(base), None
    names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    if kind == "linear" and list(scaling) == ["factor"] and is_positive(scaling["factor"]):
        return float(base), LinearRope(float(scaling["factor"]))
    if kind != "llama3" or sorted(scaling) != sorted(names):
        raise InputError(
            f"{source}: RoPE scaling {kind!r} with {sorted(scaling)} is not handled; known are "
            f"'default', 'linear' with a positive factor, and 'llama3' with {sorted(names)}."
        )
    values = [scaling[name] for name in names]
    if not all(is_positive(value) for value in values) or not values[1] < values[2]:
        raise InputError(
            f"{source}: RoPE scaling must be positive numbers, low_freq_factor below "
            f"high_freq_factor, but it is {scaling}."
        )
    return float(base), Llama3Rope(*values)


def unparse_rope(config: ModelConfig) -> dict[str, Any]:
    """Write RoPE in the old spelling, which every loader of these families reads."""
    scaling = config.rope_scaling
    kind = "linear" if isinstance(scaling, LinearRope) else "llama3"
    spelled = None if scaling is None else {"rope_type": kind, **asdict(scaling)}
    return {"rope_theta": config.rope_theta, "rope_scaling": spelled}

"""Model families: one file each, entered in `FAMILIES`."""

from pie_jax.models.families import gemma2, gemma3, gpt2, llama, mistral, qwen2, qwen3
from pie_jax.models.families.base import Family

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        llama.FAMILY,
        gemma2.FAMILY,
        gemma3.FAMILY,
        gpt2.FAMILY,
        mistral.FAMILY,
        qwen2.FAMILY,
        qwen3.FAMILY,
    )
}

__all__ = ["FAMILIES", "Family"]

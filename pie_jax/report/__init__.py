"""A pruning run as one self-contained HTML page."""

from pie_jax.features.promoted import PromotedTokens, promoted_tokens
from pie_jax.report.html import write_report

__all__ = ["PromotedTokens", "promoted_tokens", "write_report"]

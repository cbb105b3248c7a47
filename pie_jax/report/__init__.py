"""A pruning run as one self-contained HTML page."""

from pie_jax.report.html import write_report
from pie_jax.report.promoted import PromotedTokens, promoted_tokens

__all__ = ["PromotedTokens", "promoted_tokens", "write_report"]

"""Why calls failed, in the server's words, counted, with what helps."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from pie_jax.llm.config import LLMConfig
from pie_jax.llm.errors import InvalidReply, RequestFailed, RequestRefused, Truncated

_TOO_LONG = re.compile(
    r"context.{0,12}(length|window|size)|(length|window|size).{0,12}context|max_(completion_)?tokens"
    r"|too (long|large|many tokens)",
    re.IGNORECASE,
)


@dataclass
class Failures:
    """Calls of one client that failed, by reason."""

    reasons: Counter[str] = field(default_factory=Counter)

    def note(self, error: RequestFailed, config: LLMConfig) -> None:
        """Count a failed call."""
        self.reasons[f"{error}{_hint(error, config)}"] += 1

    def __bool__(self) -> bool:
        return bool(self.reasons)

    def sentence(self, name: str) -> str:
        """Return how many calls of `name` failed, and the commonest reason."""
        (reason, count), total = self.reasons.most_common(1)[0], self.reasons.total()
        share = "all" if count == total else f"{count} of them"
        return f"{total} calls of the {name} failed, {share} for this reason: {reason}"

    def record(self, name: str) -> list[dict[str, Any]]:
        """Return the reasons as stages.json keeps them, the commonest first."""
        return [
            {"client": name, "calls": count, "reason": reason}
            for reason, count in self.reasons.most_common()
        ]


def _hint(error: RequestFailed, config: LLMConfig) -> str:
    limit = config.max_output_tokens
    if isinstance(error, Truncated):
        return f" Raise --max-output-tokens ({limit}), or switch the model's reasoning off."
    if isinstance(error, RequestRefused) and _TOO_LONG.search(str(error)):
        return (
            f" Prompt and reply may be too long together: lower --max-output-tokens ({limit}), "
            "or serve the model with a longer context."
        )
    if isinstance(error, InvalidReply) and not any(reply.strip() for reply in error.replies):
        return (
            " The replies are empty: if the model reasons, its server may put everything under "
            f"`reasoning`; switch that off, or raise --max-output-tokens ({limit})."
        )
    return ""

"""The forms of reply: JSON schema, words that ask for it, and its parser."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any

from pie_jax.llm.parsing import wire
from pie_jax.llm.request import ReplyFormat


def _object(**properties: Any) -> dict[str, Any]:
    """Return the schema of an object as strict servers want it: all required, nothing else."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _list(items: Any) -> dict[str, Any]:
    return {"type": "array", "items": items}


_ID = {"type": "integer"}
_ONLY = "Reply with JSON only, nothing before or after it, in this form: "

TEXT = ReplyFormat("text", None, "Reply with text.", wire.parse_text)

EXPLANATION = ReplyFormat(
    "explanation",
    _object(explanation={"type": "string"}),
    f'{_ONLY}{{"explanation": "{wire.EXAMPLES[0]}"}}',
    wire.parse_explanation,
)

TEXTS = ReplyFormat(
    "texts",
    _object(texts=_list({"type": "string"})),
    f'{_ONLY}{{"texts": ["{wire.EXAMPLES[1]}", "{wire.EXAMPLES[2]}"]}}',
    wire.parse_texts,
)


def ratings(asked: Collection[int]) -> ReplyFormat[wire.Ratings]:
    """Return the form of a reply that rates the texts of these ids with 0, 1 or 2."""
    return ReplyFormat(
        "ratings",
        _object(
            ratings=_list(_object(id=_ID, rating={"type": "integer", "enum": list(wire.RATINGS)}))
        ),
        f'{_ONLY}{{"ratings": [{{"id": 3, "rating": 0}}]}}, with one entry for each id and a '
        "rating of 0, 1 or 2",
        partial(wire.parse_ratings, asked=tuple(asked)),
    )


def matches(asked: Collection[int]) -> ReplyFormat[wire.Matches]:
    """Return the form of a reply that names which of these ids match."""
    return ReplyFormat(
        "matches",
        _object(matches=_list(_ID)),
        f'{_ONLY}{{"matches": [3, 5]}}, with the ids that match and [] if none does',
        partial(wire.parse_matches, asked=tuple(asked)),
    )

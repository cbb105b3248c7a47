"""stages.json: the settings of stages II and III of a results folder, and what their calls took."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pie_jax.errors import InputError
from pie_jax.files.atomic import replacing

STAGES = "stages.json"


def load_stages(folder: str | Path) -> dict[str, dict[str, Any]]:
    """Return the record of each finished stage, none before the first is done."""
    path = Path(folder) / STAGES
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path}: not a record of stages; delete it.") from error


def save_stage(folder: str | Path, name: str, record: dict[str, Any]) -> None:
    """Enter a finished stage."""
    text = json.dumps({**load_stages(folder), name: record}, indent=2)
    with replacing(Path(folder) / STAGES) as temporary:
        temporary.write_text(f"{text}\n", encoding="utf-8")

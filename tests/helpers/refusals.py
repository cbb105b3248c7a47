"""How bad input must be refused, in every test that gives some."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pie_jax.errors import InputError, PieError


def refuses(call: Callable[[], Any], *named: str | Path, kind: type[PieError] = InputError) -> str:
    """Check that `call` fails with one sentence that names the file and the item.

    Returns the sentence.
    """
    with pytest.raises(PieError) as caught:
        call()
    message = str(caught.value)
    assert type(caught.value) is kind
    assert caught.value.exit_code == (2 if kind is InputError else 1)
    assert "\n" not in message
    assert message.endswith((".", "?"))
    for name in named:
        assert str(name) in message
    return message

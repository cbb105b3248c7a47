"""The API key: read from the environment when it is needed, and held nowhere."""

from __future__ import annotations

import os

from pie_jax.errors import InputError

# Placeholders of local servers (`EMPTY`, `none`) are no secrets, and may be words of an answer.
_SECRET_LENGTH = 12
_HIDDEN = "***"


class ApiKey:
    """The key in an environment variable; nothing but the variable's name is kept."""

    def __init__(self, variable: str):
        self.variable = variable
        if not _sendable(self._read()):
            raise InputError(
                f"{variable}: the key has characters that no HTTP header may hold; set it again."
            )

    def __repr__(self) -> str:
        return f"ApiKey({self.variable!r})"

    @property
    def is_set(self) -> bool:
        """Whether there is a key to send."""
        return bool(self._read())

    def authorization(self) -> str | None:
        """Return the value of the Authorization header, None without a key."""
        return f"Bearer {self._read()}" if self.is_set else None

    def hide(self, text: str) -> str:
        """Return the text without the key, which some servers repeat."""
        return text.replace(self._read(), _HIDDEN) if self._is_secret() else text

    def _is_secret(self) -> bool:
        return len(self._read()) >= _SECRET_LENGTH

    def _read(self) -> str:
        return os.environ.get(self.variable, "").strip() if self.variable else ""


def _sendable(key: str) -> bool:
    return all("!" <= character <= "~" for character in key)

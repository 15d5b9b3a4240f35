"""What must not be seen, and the keys that come of it."""

from __future__ import annotations

import base64
from typing import Any, Final

from tallyroll.errors import SettingsError

_LEAST_KEY_BYTES: Final = 32  # what keys come from
_HEX: Final = frozenset("0123456789abcdefABCDEF")
_URL_SAFE: Final = str.maketrans("-_", "+/")


class Secret:
    """A value that shows itself to nobody: ``repr``, ``str`` and formatting give ``***``; ``reveal()`` gives the value."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value itself; hand it to the client that needs it and to nothing else."""
        return self._value

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise TypeError("a secret is not pickled; hand over the setting that names its file")


def key_bytes(secret: Secret, name: str = "AUDIT_SECRET_KEY") -> bytes:
    """The bytes that a secret stands for, in hex or base64. Raises SettingsError where they are fewer than 32."""
    text = secret.reveal().strip()
    try:
        key = bytes.fromhex(text) if _HEX.issuperset(text) else base64.b64decode(_padded(text), validate=True)
    except ValueError:
        key = b""
    if len(key) < _LEAST_KEY_BYTES:
        raise SettingsError(name, f"expected hex or base64 of at least {_LEAST_KEY_BYTES} bytes; 'openssl rand -hex 32' makes one")
    return key


def _padded(text: str) -> str:
    return text.translate(_URL_SAFE) + "=" * (-len(text) % 4)

"""How many rows are handed to ``sqlite3``.

Of each ``bytes`` and each ``None`` among the values of a row it asks whether the object adapts itself; looking for the answer takes
longer than the row's own share in a statement of many. Of a ``bytearray`` and of a text it does not ask.
"""

from __future__ import annotations

from typing import Final

OPTIONAL: Final = "nullif(?, '')"
"""The place of a value that may be missing, and is the empty text then; a blob may well be empty."""


def blob(value: bytes | None) -> bytearray | str:
    """A blob for a place like ``OPTIONAL``."""
    return "" if value is None else bytearray(value)

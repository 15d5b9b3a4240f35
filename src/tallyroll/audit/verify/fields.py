"""Taking typed values out of JSON that somebody else wrote."""

from __future__ import annotations

from typing import Final

U64: Final = (1 << 64) - 1


class Malformed(ValueError):
    """A field is missing or not what it has to be. Caught where the record is read; never leaves this package."""


def mapping(value: object) -> dict[str, object]:
    """A JSON object."""
    if not isinstance(value, dict):
        raise Malformed("not an object")
    return value


def integer(value: object, most: int = U64) -> int:
    """A whole number from 0 to ``most``."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise Malformed("not a number within its bounds")
    return value


def optional(value: object, most: int = U64) -> int | None:
    """The same, or null."""
    return None if value is None else integer(value, most)


def digest(value: object, length: int = 32) -> bytes:
    """Bytes of that length, in lower-case hex."""
    if not isinstance(value, str) or len(value) != 2 * length or not set(value) <= set("0123456789abcdef"):
        raise Malformed("not hex of its length")
    return bytes.fromhex(value)


def text(value: object) -> str:
    """A text."""
    if not isinstance(value, str):
        raise Malformed("not a text")
    return value


def items(value: object, width: int = 0) -> list[list[object]]:
    """A list of lists of ``width`` values each."""
    found = []
    for item in array(value):
        if not isinstance(item, list) or len(item) != width:
            raise Malformed("not a row of its length")
        found.append(item)
    return found


def array(value: object) -> list[object]:
    """A list."""
    if not isinstance(value, list):
        raise Malformed("not a list")
    return value

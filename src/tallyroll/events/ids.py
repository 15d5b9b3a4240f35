"""Where ids and wall-clock time come from: the only source of randomness and time under ``events``.

UUIDv7 after RFC 9562 section 5.7: 48 bits of Unix milliseconds, then random bits. Ids made by one process in one
millisecond are not ordered among each other; order comes from positions in the log, never from ids.
"""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from random import Random
from typing import Final

_VERSION_AND_VARIANT = 0x7000_8000_0000_0000_0000
_RANDOM_MASK = 0x0FFF_3FFF_FFFF_FFFF_FFFF
_TEXT_CHARS: Final = 36
_VERSION_AT: Final = 14

# A source of our own: with the module's functions, a host program that calls random.seed(42) would make the same ids again,
# and readers would drop its events as repeats. Seeded by the operating system, and once more in every forked child.
_random: Final = Random()  # noqa: S311  # uniqueness is all that is needed
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_random.seed)


def new_id() -> str:
    """A new UUIDv7 in its canonical text form. Unique, not secret: it may be predicted."""
    tail = _random.getrandbits(80) & _RANDOM_MASK | _VERSION_AND_VARIANT
    text = f"{(time.time_ns() // 1_000_000) << 80 | tail:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def id_at(timestamp_us: int, digest: bytes) -> str:
    """The UUIDv7 for a moment and at least 10 bytes of a hash: the same input gives the same id, for imports and derived events."""
    tail = int.from_bytes(digest[:10]) & _RANDOM_MASK | _VERSION_AND_VARIANT
    text = f"{(timestamp_us // 1_000) << 80 | tail:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def made_us(event_id: str) -> int | None:
    """When the id was made, µs since 1970 to the millisecond; None for anything but a UUIDv7."""
    if len(event_id) != _TEXT_CHARS or event_id[_VERSION_AT] != "7":
        return None
    try:
        return int(event_id[:8] + event_id[9:13], 16) * 1_000
    except ValueError:
        return None


def utc_now() -> datetime:
    """The wall clock as an aware datetime in UTC, to the microsecond."""
    return datetime.now(UTC)

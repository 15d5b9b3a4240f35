"""What folding a batch did, and what was found in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["poison", "unknown_schema", "repeat", "duplicate", "conflict", "skew_exceeded"]


@dataclass(frozen=True, slots=True)
class Found:
    """Something about a record, by its index in the batch; ``reason`` and ``error`` as in a dead letter."""

    index: int
    kind: Kind
    reason: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Cut:
    """Event time at which the fold stops counting, inclusive, and how much disorder of the log is expected; both µs."""

    until_us: int
    skew_us: int


@dataclass(slots=True)
class Applied:
    """What a batch did: how many records changed a part, and what was found in others."""

    changed: int = 0
    found: list[Found] = field(default_factory=list)

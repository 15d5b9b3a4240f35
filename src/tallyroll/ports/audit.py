"""Who vouches for the ledger, who finds what is personal, and who has to forget it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple, Protocol


class Witness(Protocol):
    """Remembers the newest checkpoint of a ledger that it has cosigned, and cosigns only what continues it.

    Durable: it has remembered a checkpoint before it answers. Meant for another machine, or another organisation.
    Not promised: that it is there when it is asked; nor that two witnesses belong to two people.
    """

    @property
    def name(self) -> str:
        """What it is called in messages."""

    async def add(self, old_size: int, note: bytes, proof: Sequence[bytes]) -> bytes:
        """Its signature line under the signed note, newline included. ``proof``: the note continues the one of ``old_size``.

        Raises WitnessRefused, with the size that it remembers where ``old_size`` is another one; WitnessUnavailable.
        """

    async def close(self) -> None:
        """Idempotent."""


class WitnessMemory(Protocol):
    """What a witness remembers, in one place that several processes may share.

    Not promised: that nobody takes it back to an older content; keep it where the ledger's keeper cannot write.
    """

    def changing(self, change: Callable[[bytes], bytes]) -> None:
        """Replaces what is there by what ``change`` makes of it; one caller at a time, durable when it returns. Blocks.

        Nothing is changed where ``change`` raises, or gives the same. Raises WitnessUnavailable.
        """


class ErasureTarget(Protocol):
    """A store that may know a person, and can forget one. Not promised: backups of it that were made elsewhere."""

    @property
    def name(self) -> str:
        """What it is called in receipts."""

    async def forget(self, subject: str, handles: Collection[bytes]) -> int:
        """Removes what it holds of the person, durably; how many pieces that were. May be called again for the same person."""


class PiiCandidate(NamedTuple):
    """Where a pattern occurs in a text, in characters. It has the form; whether it is what it looks like is not said."""

    kind: str
    start: int
    end: int


class PiiFinder(Protocol):
    """Finds where patterns of personal data occur; it was made from patterns by kind, each with its value as group 1.

    The time rises with the length of the text and no faster, whatever the text.
    Not promised: that a candidate is personal data, checks come after; nor an order. Nor names of people in free text: they
    have no pattern.
    """

    def candidates(self, text: str) -> Sequence[PiiCandidate]:
        """Every occurrence of every kind; those of one kind do not overlap. Texts that are no valid Unicode are searched too."""

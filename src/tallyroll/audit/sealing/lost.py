"""A ledger that is not there, or behind: what the log knows to have been stored once, against what is stored. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from tallyroll.audit.sealing.finding import Finding
from tallyroll.errors import LedgerTampered
from tallyroll.events.position import TopicPartition


def look_for_lost(
    committed: Mapping[TopicPartition, int], stored: Mapping[TopicPartition, int], numbers: Mapping[TopicPartition, int]
) -> None:
    """Raises LedgerTampered where nothing is stored of a partition that was: made anew, it would be a second history.

    ``numbers`` says of each partition in question which one of the ledger it is.
    """
    for one, number in numbers.items():
        if one not in stored and committed.get(one, 0) > 0:
            detail = f"{one} was sealed up to {committed[one]}, and of that nothing is here: put the ledger back, or look where it lies"
            raise LedgerTampered("resume", number, 0, f"{detail}; if it is lost, 'tallyroll audit begin-anew'")


def rewound(
    committed: Mapping[TopicPartition, int], stored: Mapping[TopicPartition, int], numbers: Mapping[TopicPartition, int]
) -> list[Finding]:
    """Of each partition that is stored less far than it was."""
    return [
        Finding("rewound", f"ledger/{number}", f"{one} was sealed up to {committed[one]}, and here up to {stored.get(one, 0)}")
        for one, number in numbers.items()
        if committed.get(one, 0) > stored.get(one, 0)
    ]

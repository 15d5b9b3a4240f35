"""A ledger that is not there, or behind: what the log knows to have been stored once, against what is stored. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from tallyroll.audit.sealing.finding import Finding
from tallyroll.errors import LedgerTampered
from tallyroll.events.position import TopicPartition


def fallen_behind(committed: Mapping[TopicPartition, int], stored: Mapping[TopicPartition, int]) -> dict[TopicPartition, str]:
    """Of each partition that is stored less far than it was, how far it was and is."""
    return {
        one: f"{one} was sealed up to {position}, and here up to {stored.get(one, 'nothing')}"
        for one, position in sorted(committed.items())
        if position > stored.get(one, 0)
    }


def look_for_lost(
    committed: Mapping[TopicPartition, int], stored: Mapping[TopicPartition, int], numbers: Mapping[TopicPartition, int]
) -> None:
    """Raises LedgerTampered where nothing is stored of a partition that was: made anew, it would be a second history.

    ``numbers`` says of each partition in question which one of the ledger it is.
    """
    for one, said in fallen_behind(committed, stored).items():
        if one in numbers and one not in stored:
            detail = f"{said}: put the ledger back, or look where it lies; if it is lost, 'tallyroll audit begin-anew'"
            raise LedgerTampered("resume", numbers[one], 0, detail)


def rewound(
    committed: Mapping[TopicPartition, int], stored: Mapping[TopicPartition, int], numbers: Mapping[TopicPartition, int]
) -> list[Finding]:
    """A finding for each partition in question that is stored less far than it was."""
    return [Finding("rewound", f"ledger/{numbers[one]}", said) for one, said in fallen_behind(committed, stored).items() if one in numbers]

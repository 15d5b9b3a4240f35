"""A ledger that is not there, or behind, or before a log that is: what one knows of the other. Pure."""

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


def look_for_lost_log(
    stored: Mapping[TopicPartition, int], spans: Mapping[TopicPartition, tuple[int, int]] | None, numbers: Mapping[TopicPartition, int]
) -> None:
    """Raises LedgerTampered where the log ends before what was sealed of it: an older copy of it, another, or none.

    What is published to such a log gets offsets that were sealed already: it would be passed over, and nobody would see that once
    the log is as long again. ``spans`` has to be asked for behind ``stored``; None where the log cannot be asked.
    """
    for one, position in sorted(stored.items()):
        _, end = (spans or {}).get(one, (0, position))
        if one in numbers and position > end:
            detail = (
                f"{one} was sealed up to {position}, and the log ends at {end}: it is an older copy, or another; put the newest back, "
                "or, if that is lost, move the ledger to where it is kept as evidence, and 'tallyroll audit begin-anew'"
            )
            raise LedgerTampered("resume", numbers[one], 0, detail)


def rewound(
    committed: Mapping[TopicPartition, int], stored: Mapping[TopicPartition, int], numbers: Mapping[TopicPartition, int]
) -> list[Finding]:
    """A finding for each partition in question that is stored less far than it was."""
    return [Finding("rewound", f"ledger/{numbers[one]}", said) for one, said in fallen_behind(committed, stored).items() if one in numbers]

"""Offering a batch to a follower: whole, or record by record where one of them is at fault."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from tallyroll.errors import PositionConflict, TallyrollError
from tallyroll.events.batch import Batch
from tallyroll.ports import DeadLetter, Follower, Tracing

log: Final = logging.getLogger("tallyroll.follow")


def applied(follower: Follower, batch: Batch, tracing: Tracing | None) -> Sequence[DeadLetter]:
    """What the follower makes of the batch, within a span where something is traced. Raises as the follower does."""
    if tracing is None:
        return follower.apply(batch)
    with tracing.applying(follower.name, batch):
        return follower.apply(batch)


def one_by_one(follower: Follower, batch: Batch) -> list[DeadLetter]:
    """After a failure that is not going to pass: the record at fault is put aside, its neighbours are applied.

    Raises a retriable error or PositionConflict that comes up on the way.
    """
    letters: list[DeadLetter] = []
    for index in range(len(batch)):
        try:
            letters += [DeadLetter(index, letter.reason, letter.error) for letter in follower.apply(batch.slice(index, index + 1))]
        except Exception as error:  # the one place where anything a follower raises becomes a dead letter
            if isinstance(error, PositionConflict) or (isinstance(error, TallyrollError) and error.retriable):
                raise
            letters.append(DeadLetter(index, "follower_failed", type(error).__name__))
            log.exception(
                "%s could not apply %s", follower.name, batch.position(index), extra={"follower": follower.name, **batch.about(index)}
            )
    return letters

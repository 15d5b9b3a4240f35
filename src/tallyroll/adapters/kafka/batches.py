"""Messages of librdkafka as batches: columns instead of objects, one batch per partition."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import cast, overload

from confluent_kafka import Message

from tallyroll.events.batch import Batch, Headers


class _LazyHeaders(Sequence[Headers]):
    """The headers column, read from the messages when asked for: most folds never look at it."""

    __slots__ = ("_messages",)

    def __init__(self, messages: Sequence[Message]) -> None:
        self._messages = messages

    def __len__(self) -> int:
        return len(self._messages)

    @overload
    def __getitem__(self, index: int) -> Headers: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Headers]: ...
    def __getitem__(self, index: int | slice) -> Headers | Sequence[Headers]:
        if isinstance(index, slice):
            return _LazyHeaders(self._messages[index])
        return cast("Headers", self._messages[index].headers() or ())


def to_batches(messages: Sequence[Message]) -> list[Batch]:
    """One batch per partition, in order of first appearance; the messages carry no error."""
    # Without a step of Python per message: the client gives runs of one partition.
    places = cast("list[tuple[str, int]]", [*zip(map(Message.topic, messages), map(Message.partition, messages), strict=True)])
    groups: dict[tuple[str, int], list[Message]] = {}
    start = 0
    for where, run in groupby(places):
        stop = start + len([*run])
        groups.setdefault(where, []).extend(messages[start:stop])
        start = stop
    return [
        Batch(
            topic,
            partition,
            offsets=cast("list[int]", [*map(Message.offset, group)]),
            keys=cast("list[bytes | None]", [*map(Message.key, group)]),
            values=cast("list[bytes | None]", [*map(Message.value, group)]),
            timestamps_ms=[message.timestamp()[1] for message in group],
            headers=_LazyHeaders(group),
            leader_epoch=group[-1].leader_epoch(),
        )
        for (topic, partition), group in groups.items()
    ]

"""Messages of librdkafka as batches: columns instead of objects, one batch per partition."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Final, TypeVar, cast, overload

from confluent_kafka import Message

from tallyroll.events.batch import Batch, Headers

T = TypeVar("T")
_SECOND: Final = itemgetter(1)


class _Lazy(Sequence[T]):
    """A column that is read from the messages when asked for: most folds never look at it, and each call has its price.

    ``read`` takes any run of them, so that all are read without a step of Python for each.
    """

    __slots__ = ("_messages", "_read")

    def __init__(self, messages: Sequence[Message], read: Callable[[Iterable[Message]], Iterator[T]]) -> None:
        self._messages = messages
        self._read = read

    def __len__(self) -> int:
        return len(self._messages)

    def __iter__(self) -> Iterator[T]:
        return self._read(self._messages)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        if isinstance(index, slice):
            return _Lazy(self._messages[index], self._read)
        return next(self._read((self._messages[index],)))


def _keys(messages: Iterable[Message]) -> Iterator[bytes | None]:
    return cast("Iterator[bytes | None]", map(Message.key, messages))


def _timestamps_ms(messages: Iterable[Message]) -> Iterator[int]:
    return map(_SECOND, map(Message.timestamp, messages))


def _headers(messages: Iterable[Message]) -> Iterator[Headers]:
    return (cast("Headers", headers or ()) for headers in map(Message.headers, messages))


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
            keys=_Lazy(group, _keys),
            values=cast("list[bytes | None]", [*map(Message.value, group)]),
            timestamps_ms=_Lazy(group, _timestamps_ms),
            headers=_Lazy(group, _headers),
            leader_epoch=group[-1].leader_epoch(),
        )
        for (topic, partition), group in groups.items()
    ]

"""Where a record lies in the log."""

from __future__ import annotations

from typing import NamedTuple

import msgspec


class TopicPartition(NamedTuple):
    """One partition of one topic. Sorts by topic, then partition."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}"

    @classmethod
    def parse(cls, text: str) -> TopicPartition:
        """The partition that ``str()`` wrote. Raises ValueError on anything else."""
        try:
            topic, partition = text.rsplit("/", 1)
            return cls(topic, int(partition))
        except ValueError:
            raise ValueError(f"{text!r} is not topic/partition") from None


class Position(msgspec.Struct, frozen=True, order=True, gc=False):
    """One record's place: ``topic/partition/offset``. Its order means something within one partition only."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"

    @property
    def topic_partition(self) -> TopicPartition:
        """The partition the record lies in."""
        return TopicPartition(self.topic, self.partition)

    @classmethod
    def parse(cls, text: str) -> Position:
        """The position that ``str()`` wrote. Raises ValueError on anything else."""
        try:
            topic, partition, offset = text.rsplit("/", 2)
            return cls(topic, int(partition), int(offset))
        except ValueError:
            raise ValueError(f"{text!r} is not topic/partition/offset") from None

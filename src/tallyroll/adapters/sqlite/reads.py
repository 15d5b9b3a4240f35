"""Small questions to the log: starts, ends, moments, committed offsets. Each runs in a snapshot of its caller."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from tallyroll.adapters.sqlite.blocks import first_at
from tallyroll.events.position import TopicPartition

Numbers = Mapping[TopicPartition, int]


def firsts(connection: sqlite3.Connection, numbers: Numbers) -> dict[TopicPartition, int]:
    """The first offset that still exists, per partition."""
    return {partition: bounds[0] for partition, bounds in _bounds(connection, numbers).items()}


def ends(connection: sqlite3.Connection, numbers: Numbers) -> dict[TopicPartition, int]:
    """One past the last offset, per partition."""
    return {partition: bounds[1] for partition, bounds in _bounds(connection, numbers).items()}


def firsts_at(connection: sqlite3.Connection, numbers: Numbers, timestamp_ms: int) -> dict[TopicPartition, int]:
    """The first offset at or after a moment, else the end, per partition."""
    bounds = _bounds(connection, numbers)
    return {partition: first_at(connection, number, *bounds[partition], timestamp_ms) for partition, number in numbers.items()}


def committed(connection: sqlite3.Connection, group: str, numbers: Numbers) -> dict[TopicPartition, int]:
    """What the group has committed, where it has."""
    known = dict(connection.execute("SELECT number, next_offset FROM commits WHERE group_name = ?", (group,)))
    return {partition: known[number] for partition, number in numbers.items() if number in known}


def committed_or_first(connection: sqlite3.Connection, group: str, numbers: Numbers) -> dict[TopicPartition, int]:
    """Where a group goes on that nobody tells better."""
    return firsts(connection, numbers) | committed(connection, group, numbers)


def _bounds(connection: sqlite3.Connection, numbers: Numbers) -> dict[TopicPartition, tuple[int, int]]:
    rows = {number: (first, following) for number, first, following in
            connection.execute("SELECT number, first_offset, next_offset FROM partitions")}  # fmt: skip
    return {partition: rows[number] for partition, number in numbers.items()}

"""Who of a group holds which partitions: tables that every process of the host shares, and the rule that deals them out.

A member has a lease that it renews. A partition has at most one claim, and changes hands only when its holder has
released it or its lease has run out. ``generation`` rises whenever members have something to settle.

Leases run on the machine's monotonic clock, which all processes of a host share and nobody can set. Every function here
runs inside a writing transaction.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from tallyroll.events.position import TopicPartition


class Member(NamedTuple):
    """One subscription in a group."""

    group: str
    name: str
    topics: tuple[str, ...]
    lease_us: int


class Share(NamedTuple):
    """What belongs to a member now.

    ``claimed``: ours alone. ``to_release``: those of them that somebody else is to get. ``rejoined``: the lease had run
    out, so whatever we held before has been anybody's since.
    """

    generation: int
    claimed: frozenset[TopicPartition]
    to_release: frozenset[TopicPartition]
    rejoined: bool


def assign(
    members: Mapping[str, Iterable[str]], partitions: Sequence[TopicPartition], holders: Mapping[TopicPartition, str]
) -> dict[TopicPartition, str]:
    """Who is to hold each partition: fair to one partition where all have the same topics, with as few moves as that takes.

    Pure and deterministic: all members come to the same answer from the same tables. ``members`` maps names to topics.
    """
    topics = {name: frozenset(wanted) for name, wanted in members.items()}
    able = {topic: [name for name in sorted(topics) if topic in topics[name]] for topic in {partition.topic for partition in partitions}}
    order = sorted(partition for partition in partitions if able[partition.topic])
    dealt = {partition: holder for partition in order if (holder := holders.get(partition)) in able[partition.topic]}
    load = Counter(dealt.values())
    for partition in order:
        if partition not in dealt:
            dealt[partition] = min(able[partition.topic], key=load.__getitem__)
            load[dealt[partition]] += 1
    moved = True
    while moved:  # each move brings two loads closer, so it ends; one round is nearly always enough
        moved = False
        for partition in order:
            names = able[partition.topic]
            lightest, heaviest = min(names, key=load.__getitem__), max(load[name] for name in names)
            if load[dealt[partition]] == heaviest > load[lightest] + 1:
                load[dealt[partition]] -= 1
                load[lightest] += 1
                dealt[partition] = lightest
                moved = True
    return dealt


def join(connection: sqlite3.Connection, member: Member) -> None:
    """Enters the group; the others learn of it by the generation."""
    connection.execute(
        "INSERT OR REPLACE INTO members VALUES (?, ?, ?, ?, ?)",
        (member.group, member.name, json.dumps(member.topics), _now_us(), member.lease_us),
    )
    _bump(connection, member.group)


def renew(connection: sqlite3.Connection, member: Member) -> bool:
    """Renews the lease and removes members whose lease has run out; False when that had happened to ourselves."""
    _purge(connection, member.group, sparing=member.name)
    cursor = connection.execute(
        "UPDATE members SET renewed_us = ? WHERE group_name = ? AND member = ?", (_now_us(), member.group, member.name)
    )
    return cursor.rowcount == 1


def settle(connection: sqlite3.Connection, member: Member) -> Share:
    """Takes what is free and ours by the rule, and says what we are to release."""
    rejoined = not renew(connection, member)
    if rejoined:
        join(connection, member)
    query = connection.execute
    members = {
        name: json.loads(topics) for name, topics in query("SELECT member, topics FROM members WHERE group_name = ?", (member.group,))
    }
    wanted = {topic for topics in members.values() for topic in topics}
    rows = query("SELECT topic, partition, number FROM partitions ORDER BY topic, partition")
    numbers = {TopicPartition(topic, partition): number for topic, partition, number in rows if topic in wanted}
    partitions = {number: partition for partition, number in numbers.items()}
    claims = query("SELECT number, member FROM claims WHERE group_name = ?", (member.group,))
    holders = {partitions[number]: name for number, name in claims if number in partitions}
    dealt = assign(members, list(numbers), holders)
    free = [partition for partition, name in dealt.items() if name == member.name and partition not in holders]
    connection.executemany("INSERT INTO claims VALUES (?, ?, ?)", [(member.group, numbers[partition], member.name) for partition in free])
    claimed = frozenset(free).union(partition for partition, name in holders.items() if name == member.name)
    to_release = frozenset(partition for partition in claimed if dealt.get(partition) != member.name)
    return Share(_generation(connection, member.group), claimed, to_release, rejoined)


def release(connection: sqlite3.Connection, member: Member, numbers: Iterable[int]) -> None:
    """Gives partitions up; others may take them from now on."""
    connection.executemany(
        "DELETE FROM claims WHERE group_name = ? AND member = ? AND number = ?", [(member.group, member.name, number) for number in numbers]
    )
    _bump(connection, member.group)


def leave(connection: sqlite3.Connection, member: Member) -> None:
    """Ends the membership and gives everything up."""
    for table in ("claims", "members"):
        connection.execute(f"DELETE FROM {table} WHERE group_name = ? AND member = ?", (member.group, member.name))  # noqa: S608  # constants
    _bump(connection, member.group)


def commit(connection: sqlite3.Connection, member: Member, offsets: Mapping[int, int]) -> None:
    """Stores the next offset per partition number, of those that are ours: who has lost one must not set its successor back."""
    connection.executemany(
        "INSERT INTO commits SELECT ?1, ?2, ?3 WHERE EXISTS (SELECT 1 FROM claims WHERE group_name = ?1 AND number = ?2 AND member = ?4)"
        " ON CONFLICT DO UPDATE SET next_offset = excluded.next_offset",
        [(member.group, number, offset, member.name) for number, offset in offsets.items()],
    )


def _purge(connection: sqlite3.Connection, group: str, *, sparing: str) -> None:
    """Removes the dead: not renewed in time, or renewed in a future that only a clock before a reboot can have shown."""
    now_us = _now_us()
    dead = connection.execute(
        "DELETE FROM members WHERE group_name = ? AND member <> ? AND (renewed_us + lease_us < ? OR renewed_us > ?) RETURNING member",
        (group, sparing, now_us, now_us),
    ).fetchall()
    for (name,) in dead:
        connection.execute("DELETE FROM claims WHERE group_name = ? AND member = ?", (group, name))
    if dead:
        _bump(connection, group)


def _bump(connection: sqlite3.Connection, group: str) -> None:
    connection.execute("INSERT INTO groups VALUES (?, 1) ON CONFLICT DO UPDATE SET generation = generation + 1", (group,))


def _generation(connection: sqlite3.Connection, group: str) -> int:
    row = connection.execute("SELECT generation FROM groups WHERE name = ?", (group,)).fetchone()
    return 0 if row is None else int(row[0])


def _now_us() -> int:
    return time.monotonic_ns() // 1_000

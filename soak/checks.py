"""What must hold when everything is quiet again, each rule worked out anew from plain records. Pure: facts in, findings out."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any, Final, NamedTuple

from soak.told import Race, Recorded
from tallyroll.testing.checker import check
from tallyroll.testing.history import Entry, Invoke, Poll, Read

GARBAGE_KEY: Final = b"task:garbage"
"""Marks what was written to be unreadable."""

OWN_TYPES: Final = frozenset({"anomaly.detected", "compliance.violation", "audit.finding.recorded"})
"""What the system says by itself."""

_WINDOW: Final = 4_096  # as docs/reference/wire-format.md has it: offsets between what an author saw and its record
_LEASE_US: Final = 310_000_000  # as docs/explanation/audit.md has it, five minutes, and some seconds for a call under way
_GENESIS: Final = "0" * 64
_NOTICE: Final = "anomaly.detected"  # of an alert: sent at least once
_LINK: Final = ("sequence", "chainsession", "chainnumber", "chainprev")


class Finding(NamedTuple):
    """One thing that does not hold."""

    check: str
    what: str


class Record(NamedTuple):
    """One record of a topic of users; ``event`` is the JSON object of its value, or None."""

    partition: str
    offset: int
    key: bytes
    value: bytes
    event: Mapping[str, Any] | None
    timestamp_ms: int = -1

    @property
    def place(self) -> str:
        """Topic, partition and offset."""
        return f"{self.partition}/{self.offset}"

    @property
    def id(self) -> str:
        """The event's id; of garbage its place."""
        return str(self.event["id"]) if self.event is not None and self.key != GARBAGE_KEY else self.place


class Log:
    """The records of all topics of users, in offset order per partition, and what follows from them."""

    def __init__(self, records: Iterable[Record]) -> None:
        self.records = list(records)
        self.garbage = {record.place for record in self.records if record.key == GARBAGE_KEY}
        self.firsts: list[Record] = []
        """First copies: a record that its publisher sent again, under the same session and number, is left out."""
        seen: set[tuple[str, str, str]] = set()
        for record in self.events():
            event = record.event or {}
            link = record.partition, event.get("chainsession", ""), event.get("chainnumber", record.place)
            if link not in seen:
                seen.add(link)
                self.firsts.append(record)
        self.outrun = _outrun(self.firsts)
        """Ids of events that expected a version which another event took."""

    def events(self) -> Iterator[Record]:
        """All that is not garbage."""
        return (record for record in self.records if record.place not in self.garbage)

    def counting(self) -> list[Record]:
        """First copies that no other event has outrun."""
        return [record for record in self.firsts if record.id not in self.outrun]


def _outrun(firsts: Iterable[Record]) -> set[str]:
    last: dict[tuple[str, bytes], int] = {}
    outrun = set()
    for record in firsts:
        expects = (record.event or {}).get("expects")
        if expects:
            as_of = int(expects.partition("/")[2])
            if record.offset - as_of > _WINDOW or last.get((record.partition, record.key), -1) >= as_of:
                outrun.add(record.id)
            else:
                last[record.partition, record.key] = record.offset
    return outrun


def history(entries: Sequence[Entry], log: Log) -> Iterator[Finding]:
    """Acknowledged events are where it was said; none that was refused is there; a publisher's events of one key are in its order."""
    polls = defaultdict(list)
    for record in log.records:
        polls[record.partition].append(Read(record.partition, record.offset, record.id))
    report = check([*entries, *(Poll("judge", reads) for reads in polls.values())], repeats_allowed=True)
    yield from (Finding(f"history: {one.check}", f"{one.id} {one.what}") for one in report.findings)


def invented(entries: Iterable[Entry], log: Log) -> Iterator[Finding]:
    """Every event was handed over by somebody, or is of a type that the system makes itself."""
    known = {entry.id for entry in entries if isinstance(entry, Invoke)}
    for record in log.events():
        if record.event is None:
            yield Finding("invented", f"{record.place} cannot be read, and nobody wrote garbage there")
        elif record.id not in known and record.event["type"] not in OWN_TYPES:
            yield Finding("invented", f"{record.place} holds {record.id}, which nobody has published")


def chains(log: Log) -> Iterator[Finding]:
    """Numbers of each session are whole and in order, each with the hash of the one before; an event has one link, and keeps it.

    But for notices of alerts, which may be sent anew after a crash: their content stays.
    """
    numbers: dict[tuple[str, str], int] = {}
    hashes: dict[tuple[str, str], str] = {}
    links: dict[str, object] = {}
    for record in log.events():
        event = record.event or {}
        session, number = event.get("chainsession"), event.get("chainnumber")
        if session is None or number is None:
            yield Finding("chain", f"{record.place} has no link")
            continue
        link: object = record.partition, session, number, record.value
        if event["type"] == _NOTICE:
            link = {name: value for name, value in event.items() if name not in _LINK}
        if links.setdefault(record.id, link) != link:
            yield Finding("doubled", f"{record.place} holds {record.id} under another link, or with other bytes, than before")
        chain, at = (record.partition, session), int(number)
        newest = numbers.get(chain, 0)
        if at > newest + 1:
            yield Finding("chain", f"{record.place} is number {at} of session {session}, after {newest}")
        if at > newest:
            if at == newest + 1 and event.get("chainprev") != hashes.get(chain, _GENESIS):
                yield Finding("chain", f"{record.place} does not link to number {newest} of session {session}")
            numbers[chain], hashes[chain] = at, sha256(record.value).hexdigest()


def races(told: Iterable[Race], log: Log) -> Iterator[Finding]:
    """Versions of an aggregate go up by one; who was told to have won has, and nobody else."""
    version: Counter[bytes] = Counter()
    there: dict[str, tuple[bool, int]] = {}
    for record in log.firsts:
        expects = (record.event or {}).get("expects")
        if expects:
            expected, won = int(expects.partition("/")[0]), record.id not in log.outrun
            there[record.id] = won, expected
            if won and expected != version[record.key]:
                yield Finding("race", f"{record.place} took version {expected + 1} of an aggregate at {version[record.key]}")
            version[record.key] += won
    for race in told:
        won = there.get(race.event_id, (False, 0))[0]
        if race.outcome != "open" and won != (race.outcome == "won"):
            yield Finding("race", f"{race.event_id} was told to have {race.outcome}, and has {'won' if won else 'lost'}")


def trail(found: Sequence[Mapping[str, Any]], recorded: Iterable[Recorded], log: Log) -> Iterator[Finding]:
    """One entry for every event, one for everything that was recorded, none twice."""
    derived = Counter(entry["event_id"] for entry in found if entry["origin"] == "derived" and entry.get("event_id"))
    wanted = {record.id for record in log.firsts}
    yield from (Finding("trail", f"no entry of event {one}") for one in sorted(wanted - derived.keys()))
    yield from (Finding("trail", f"{derived[one]} entries of event {one}") for one in derived if derived[one] > 1)
    yield from (Finding("trail", f"an entry of event {one}, which is not in the log") for one in sorted(derived.keys() - wanted))
    ids = Counter(entry["audit_id"] for entry in found)
    yield from (Finding("trail", f"{count} entries {one}") for one, count in ids.items() if count > 1)
    yield from (Finding("trail", f"entry {one.audit_id} was recorded and is not there") for one in recorded if one.audit_id not in ids)


def letters(found: Iterable[tuple[str, str]], log: Log) -> Iterator[Finding]:
    """Dead letters, as (follower, place), are of garbage only; the state has put all garbage aside that it reads."""
    by_follower = defaultdict(set)
    for follower, place in found:
        by_follower[follower].add(place)
        if place not in log.garbage:
            yield Finding("dead letter", f"{follower} put {place} aside, which is no garbage")
    read = {place for place in log.garbage if place.startswith(("agent-", "task-", "workflow-"))}
    yield from (Finding("dead letter", f"no letter of {place}, which is garbage") for place in sorted(read - by_follower["state"]))


def views(found: Mapping[str, bytes], wanted: Mapping[str, str]) -> Iterator[Finding]:
    """Each ``view:id`` in Redis has the hash of what a full replay comes to; there is no other."""
    for name in sorted(found.keys() | wanted.keys()):
        if name not in found:
            yield Finding("redis", f"{name} is missing")
        elif name not in wanted:
            yield Finding("redis", f"{name} is there, and no event names it")
        elif sha256(found[name]).hexdigest() != wanted[name]:
            yield Finding("redis", f"{name} is not what its events come to")


def tasks_completed(states: Mapping[str, Mapping[str, Any]], log: Log, *, where: str) -> Iterator[Finding]:
    """The states of agents count each completed task once."""
    wanted = Counter(
        str((record.event or {})["data"]["agent_id"])
        for record in log.counting()
        if record.event is not None and record.event["type"] == "task.completed" and record.event["data"].get("agent_id")
    )
    for agent in sorted(states.keys() | wanted.keys()):
        said = states[agent].get("tasks_completed", 0) if agent in states else 0
        if said != wanted[agent]:
            yield Finding(where, f"agent {agent} has completed {wanted[agent]} tasks, and its state says {said}")


def messages(found: Iterable[str], types: Collection[str], log: Log) -> Iterator[Finding]:
    """Message ids: each event of these types that counts, once."""
    ids = Counter(found)
    wanted = {record.id for record in log.counting() if record.event is not None and record.event["type"] in types}
    yield from (Finding("nats", f"no message of {one}") for one in sorted(wanted - ids.keys()))
    yield from (Finding("nats", f"a message of {one}, which is not to be forwarded") for one in sorted(ids.keys() - wanted))
    yield from (Finding("nats", f"{count} messages of {one}") for one, count in ids.items() if count > 1)


def archived(
    found: Mapping[str, Sequence[tuple[int, bytes, bytes]]], log: Log, *, kept: Mapping[str, int] | None = None, pruned_us: int = 0
) -> Iterator[Finding]:
    """The archive has, by partition, offset, key and value of every record of the log, but for what was to be pruned.

    ``kept``: by partition the first offset that is left; nothing of ``pruned_us`` or later may be missing.
    """
    wanted, pruned = defaultdict(list), defaultdict(list)
    for record in log.records:
        if record.offset >= (kept or {}).get(record.partition, 0):
            wanted[record.partition].append((record.offset, record.key, record.value))
        else:
            pruned[record.partition].append(record)
    for records in pruned.values():
        yield from _too_soon(records, pruned_us)
    for partition in sorted(found.keys() | wanted.keys()):
        mine, theirs = found.get(partition, []), wanted.get(partition, [])
        if list(mine) != theirs:
            odd = next((at for at, (one, other) in enumerate(zip(mine, theirs, strict=False)) if one != other), min(len(mine), len(theirs)))
            yield Finding("archive", f"{partition} has {len(mine)} records, the log {len(theirs)}; record {odd} is the first that differs")


def _too_soon(pruned: Sequence[Record], pruned_us: int) -> Iterator[Finding]:
    """What of the pruned beginning of a partition was not to go.

    Of garbage nobody knows when it was: it goes with the events of its segment. A segment with nothing else goes with a later one
    only, so with garbage there are always events, and all of them are old.
    """
    dated = [(record.place, time) for record in pruned if (time := (record.event or {}).get("time")) is not None]
    for place, time in dated:
        if round(datetime.fromisoformat(str(time)).timestamp() * 1e6) >= pruned_us:
            yield Finding("archive", f"{place} is pruned, and was not old enough")
    if not dated:
        yield Finding("archive", f"{pruned[-1].place} is pruned, and no event with it that was old enough")


def persons(opened: Mapping[str, str | None], recorded: Iterable[Recorded], erased: Mapping[str, tuple[int, int]]) -> Iterator[Finding]:
    """What was recorded before its person was erased cannot be opened any more; all else opens to what was recorded.

    ``opened``: by entry the digest of its text, None where it was erased. ``erased``: by person when the last erasure that was
    done began and ended; what was recorded meanwhile may be either, and until recorders have let go of the destroyed key.
    """
    for one in recorded:
        if one.audit_id not in opened:
            continue
        began, ended = erased.get(one.person, (0, 0))
        text = opened[one.audit_id]
        if one.time_us < began and text is not None:
            yield Finding("erasure", f"entry {one.audit_id} can be read, and its person was erased after it was recorded")
        if (not ended or one.time_us > ended + _LEASE_US) and text != one.digest:
            yield Finding(
                "erasure", f"entry {one.audit_id} {'is erased' if text is None else 'reads otherwise'}, and nobody was to erase it"
            )


def in_clear(texts: Iterable[tuple[str, bytes]], forbidden: Mapping[str, bytes]) -> Iterator[Finding]:
    """No text, given with where it lies, holds anything of what must be sealed or secret; that is named, never shown."""
    for where, text in texts:
        yield from (Finding("in clear", f"{name} in {where}") for name, one in forbidden.items() if one in text)

"""The ledger's store in tables: what lies where, and how records are searched and taken apart."""

from __future__ import annotations

import contextlib
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Final

import msgspec

from tallyroll.adapters.sqlite.store_file import FileKind
from tallyroll.events.position import Position
from tallyroll.ports import LedgerFacts, LedgerIndexed, LedgerRow, LedgerWanted

# A record's id holds its partition and its number, so that a partition lies together and grows at its end. What a record is
# found by lies apart from it: searches read a tenth of the pages. What few values have (type, category, severity, outcome,
# frameworks, kind) is a trait, so that one index serves questions about any of them. Leaves are kept with their records;
# nodes above them in runs, as they became complete. A pruned record leaves its leaf, as a run of height 0. A name that a record does
# not have is the empty text, in older rows none. By owner records are sorted within some thousand numbers of a partition only: a
# commit has those of many owners, and in an index of the whole ledger it would write a page for each. So it writes the last few, and
# who looks for an owner looks into each stretch.
_STRETCH_BITS: Final = 14
_INDEXES: Final = f"""
CREATE INDEX fact_audit_id ON fact (audit_id) WHERE audit_id > '';
CREATE INDEX fact_agent ON fact (id >> {_STRETCH_BITS}, agent_id, ts_us) WHERE agent_id > '';
CREATE INDEX fact_task ON fact (id >> {_STRETCH_BITS}, task_id, ts_us) WHERE task_id > '';
CREATE INDEX fact_workflow ON fact (id >> {_STRETCH_BITS}, workflow_id, ts_us) WHERE workflow_id > '';
"""
_TABLES: Final = f"""
CREATE TABLE record (id INTEGER PRIMARY KEY, leaf BLOB NOT NULL, raw BLOB NOT NULL) STRICT;
CREATE TABLE fact (
    id INTEGER PRIMARY KEY, ts_us INTEGER NOT NULL, trait INTEGER NOT NULL, class INTEGER NOT NULL, day INTEGER NOT NULL,
    body INTEGER NOT NULL, parts INTEGER NOT NULL, sealed_us INTEGER NOT NULL, topic INTEGER, log_partition INTEGER,
    log_offset INTEGER, handles BLOB NOT NULL, audit_id TEXT, agent_id TEXT, task_id TEXT, workflow_id TEXT
) STRICT;
CREATE INDEX fact_trait ON fact (trait, ts_us);
{_INDEXES}
CREATE TABLE trait (
    number INTEGER PRIMARY KEY, kind INTEGER NOT NULL, event_type TEXT NOT NULL, category TEXT NOT NULL, severity TEXT NOT NULL,
    outcome TEXT NOT NULL, frameworks TEXT NOT NULL, UNIQUE (kind, event_type, category, severity, outcome, frameworks)
) STRICT;
CREATE TABLE handle (handle BLOB NOT NULL, id INTEGER NOT NULL, part INTEGER NOT NULL, PRIMARY KEY (handle, id, part))
    STRICT, WITHOUT ROWID;
CREATE TABLE topic (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE node (
    partition INTEGER NOT NULL, height INTEGER NOT NULL, first INTEGER NOT NULL, hashes BLOB NOT NULL,
    PRIMARY KEY (partition, height, first)
) STRICT, WITHOUT ROWID;
CREATE TABLE tail (partition INTEGER PRIMARY KEY, size INTEGER NOT NULL, start INTEGER NOT NULL, peaks BLOB NOT NULL) STRICT;
CREATE TABLE tip (
    partition INTEGER NOT NULL, writer BLOB NOT NULL, epoch INTEGER NOT NULL, packed BLOB NOT NULL, open INTEGER NOT NULL,
    PRIMARY KEY (partition, writer, epoch)
) STRICT, WITHOUT ROWID;
CREATE INDEX tip_open ON tip (partition) WHERE open;
CREATE TABLE progress (topic TEXT NOT NULL, partition INTEGER NOT NULL, next INTEGER NOT NULL, PRIMARY KEY (topic, partition))
    STRICT, WITHOUT ROWID;
CREATE TABLE leaf (number INTEGER PRIMARY KEY, partition INTEGER NOT NULL, size INTEGER NOT NULL, text TEXT NOT NULL) STRICT;
CREATE INDEX leaf_partition ON leaf (partition, size);
CREATE TABLE note (size INTEGER PRIMARY KEY, text BLOB NOT NULL) STRICT;
"""

# Version 1 had an index of its own for plain parts, whose handle is of zeros, where there are rows among the handles now.
_FROM_1: Final = """
INSERT OR IGNORE INTO handle
    WITH RECURSIVE place (part) AS (SELECT 0 UNION ALL SELECT part + 1 FROM place WHERE part < 255)
    SELECT zeroblob(16), fact.id, part FROM fact JOIN place ON part < length(handles) / 16
    WHERE instr(handles, zeroblob(16)) AND substr(handles, part * 16 + 1, 16) = zeroblob(16);
DROP INDEX fact_plain;
"""
# Version 2 sorted the whole ledger by owner, and by time whatever the trait, which no question went by.
_FROM_2: Final = f"""
DROP INDEX fact_time;
DROP INDEX fact_audit_id;
DROP INDEX fact_agent;
DROP INDEX fact_task;
DROP INDEX fact_workflow;
{_INDEXES}
"""

KIND: Final = FileKind(
    "audit ledger",
    application_id=0x74726C67,  # "trlg": tells the file from other SQLite files
    version=3,
    tables=_TABLES,
    page_bytes=16_384,
    cache_kib=65_536,  # inner pages of the indexes over some tens of millions of records
    synchronous="FULL",
    erasing=True,
    private=True,
    remedy="keep it as it is, it may be evidence, and start the version that wrote it",
    upgrades={1: _FROM_1, 2: _FROM_2},
)

HANDLE: Final = 16  # bytes
NUMBER_BITS: Final = 47
NUMBER: Final = (1 << NUMBER_BITS) - 1
_ROW: Final = "id, raw, leaf, sealed_us, name, log_partition, log_offset"
_FROM: Final = "fact JOIN record USING (id) LEFT JOIN topic ON topic.number = topic"
_FACTS: Final = (
    "kind, ts_us, class, day, handles, coalesce(audit_id, ''), event_type, category, severity, outcome, coalesce(agent_id, ''), "
    "coalesce(task_id, ''), coalesce(workflow_id, ''), frameworks"
)

_NEWEST: Final = "ORDER BY ts_us DESC, fact.id DESC"
# Stretches in which there are any records, each found from the one before it.
_STRETCHES: Final = f"""
WITH RECURSIVE stretch (number) AS (
    SELECT min(id) >> {_STRETCH_BITS} FROM fact
    UNION ALL
    SELECT (SELECT min(id) >> {_STRETCH_BITS} FROM fact WHERE id >= (number + 1) << {_STRETCH_BITS}) FROM stretch WHERE number IS NOT NULL
)
SELECT number FROM stretch
"""  # noqa: S608  # made here
STRETCH: Final = "fact.id BETWEEN ? AND ? ORDER BY fact.id LIMIT ?"
_ABOUT: Final = """
WITH RECURSIVE
    stretch AS MATERIALIZED (SELECT id, handles FROM fact WHERE id BETWEEN ? AND ?),
    place (part) AS (SELECT 0 UNION ALL SELECT part + 1 FROM place WHERE part < (SELECT max(length(handles)) / 16 - 1 FROM stretch))
SELECT stretch.id, place.part FROM stretch CROSS JOIN place CROSS JOIN handle
    ON handle.handle = substr(handles, place.part * 16 + 1, 16) AND handle.id = stretch.id AND handle.part = place.part
    WHERE place.part < length(handles) / 16
"""
KNOWN: Final = "SELECT audit_id, fact.id FROM json_each(?) CROSS JOIN fact INDEXED BY fact_audit_id ON audit_id = value WHERE audit_id > ''"
"""One statement for all ids: SQLite walks the list itself. The hint keeps it from walking the entries instead."""

_STRAYS: Final = f"""
SELECT id FROM (
    SELECT fact.id FROM fact LEFT JOIN tail ON tail.partition = fact.id >> {NUMBER_BITS}
        WHERE size IS NULL OR fact.id & {NUMBER} NOT BETWEEN start AND size - 1
    UNION
    SELECT record.id FROM record LEFT JOIN fact USING (id) WHERE fact.id IS NULL
    UNION
    SELECT handle.id FROM handle LEFT JOIN fact USING (id)
        WHERE handles IS NULL OR substr(handles, part * 16 + 1, 16) != handle.handle
) ORDER BY id LIMIT ?
"""  # noqa: S608  # made here

Trait = tuple[int, str, str, str, str, tuple[str, ...]]


def id_of(partition: int, number: int) -> int:
    """Where a record lies in the tables."""
    return partition << NUMBER_BITS | number


def place_of(record_id: int) -> tuple[int, int]:
    """Its partition and its number there."""
    return record_id >> NUMBER_BITS, record_id & NUMBER


trait_of: Final[Callable[[LedgerFacts], Trait]] = attrgetter("kind", "event_type", "category", "severity", "outcome", "frameworks")
"""What a record has in common with many others."""


def row_of(found: Sequence[Any]) -> LedgerRow:
    """A record, from the columns of ``select_rows``."""
    record_id, raw, leaf, sealed_us, topic, partition, offset = found
    source = None if None in (topic, partition, offset) else Position(topic, partition, offset)
    return LedgerRow(*place_of(record_id), raw, leaf, sealed_us, source)


def select_rows(connection: sqlite3.Connection, where: str, parameters: Sequence[object]) -> list[LedgerRow]:
    """The records of which the facts are as ``where`` says; it may order and limit them."""
    return [row_of(found) for found in connection.execute(f"SELECT {_ROW} FROM {_FROM} WHERE {where}", parameters)]  # noqa: S608  # made here


def select_with_facts(connection: sqlite3.Connection, where: str, parameters: Sequence[object]) -> list[tuple[LedgerRow, LedgerFacts]]:
    """As ``select_rows``, with the facts beside each record."""
    found = connection.execute(
        f"SELECT {_ROW}, {_FACTS} FROM {_FROM} JOIN trait ON trait.number = trait WHERE {where}",  # noqa: S608  # made here
        parameters,
    )
    return [(row_of(columns[:7]), _facts(columns[7:])) for columns in found]


def select_indexed(connection: sqlite3.Connection, bounds: Sequence[int]) -> list[LedgerIndexed]:
    """The records of a stretch beside everything that they are found by."""
    found = connection.execute(
        f"SELECT {_ROW}, body, parts, {_FACTS} FROM {_FROM} JOIN trait ON trait.number = trait WHERE {STRETCH}",  # noqa: S608  # made here
        bounds,
    ).fetchall()
    about: defaultdict[int, set[int]] = defaultdict(set)
    if found:
        for record_id, part in connection.execute(_ABOUT, (found[0][0], found[-1][0])):
            about[record_id].add(part)
    return [
        LedgerIndexed(row_of(columns[:7]), _facts(columns[9:]), frozenset(about[columns[0]]), bool(columns[7]), columns[8])
        for columns in found
    ]


def select_strays(connection: sqlite3.Connection, limit: int) -> list[tuple[int, int]]:
    """Places of rows that are no part of the ledger."""
    return [place_of(record_id) for (record_id,) in connection.execute(_STRAYS, (limit,))]


def _facts(columns: Sequence[Any]) -> LedgerFacts:
    kind, ts_us, retention_class, day, handles, *names, frameworks = columns
    each = tuple(handles[at : at + HANDLE] for at in range(0, len(handles), HANDLE))
    named = (*names, _frameworks(frameworks))
    return LedgerFacts(kind, ts_us, retention_class, day, each, *named)


def find(connection: sqlite3.Connection, where: str, values: Sequence[object], limit: int, offset: int) -> tuple[int, list[LedgerRow]]:
    """How many records are as ``where`` says, and a page of them, the newest first."""
    page = f"{where} {_NEWEST} LIMIT ? OFFSET ?"
    return _count(connection, where, values), select_rows(connection, page, [*values, limit, offset])


def find_owned(
    connection: sqlite3.Connection, where: str, values: Sequence[object], limit: int, offset: int
) -> tuple[int, list[LedgerRow]]:
    """As ``find``, where no index has them in that order: all are looked at, but once."""
    found = connection.execute(
        f"WITH hit AS MATERIALIZED (SELECT fact.id, ts_us FROM fact WHERE {where}) "  # noqa: S608  # made here
        f"SELECT id, (SELECT count(*) FROM hit) FROM hit ORDER BY ts_us DESC, id DESC LIMIT ? OFFSET ?",
        [*values, limit, offset],
    ).fetchall()
    ids = [record_id for record_id, _ in found]
    page = f"fact.id IN (SELECT value FROM json_each(?)) {_NEWEST}"  # noqa: S608  # made here
    rows = select_rows(connection, page, [msgspec.json.encode(ids).decode()])
    return (found[0][1] if found else _count(connection, where, values)), rows


def _count(connection: sqlite3.Connection, where: str, values: Sequence[object]) -> int:
    [[total]] = connection.execute(f"SELECT count(*) FROM fact WHERE {where}", values)  # noqa: S608  # made here
    return int(total)


def conditions(connection: sqlite3.Connection, wanted: LedgerWanted, as_of: Mapping[int, int] | None) -> tuple[str, list[object]]:
    """What is looked for, as a condition on facts and its parameters."""
    found: list[tuple[str, Sequence[object]]] = []
    named = (("agent_id", wanted.agent_id), ("task_id", wanted.task_id), ("workflow_id", wanted.workflow_id))
    owners = [(column, value) for column, value in named if value is not None]
    traits = _traits(connection, wanted)
    # The plus keeps SQLite from reading all of a trait where an owner has few.
    found.append((f"{'+' if owners else ''}trait IN ({_marks(traits)})", traits))
    for column, value in owners:
        # An index may be used where its own condition is said; without the hint SQLite takes that for the narrower of the two.
        found.append((f"{column} = ? AND likely({column} > '')", [value]))
    if owners:
        found.append((f"fact.id >> {_STRETCH_BITS} IN ({_STRETCHES})", []))
    if wanted.start_us is not None:
        found.append(("ts_us >= ?", [wanted.start_us]))
    if wanted.end_us is not None:
        found.append(("ts_us <= ?", [wanted.end_us]))
    if wanted.handles is not None:
        handles = list(wanted.handles)
        condition = f"fact.id IN (SELECT id FROM handle WHERE handle IN ({_marks(handles)}))"  # noqa: S608  # made here
        found.append((condition, handles))
    if as_of is not None:
        bounds = [(id_of(partition, 0), id_of(partition, size)) for partition, size in as_of.items()]
        # The plus keeps SQLite from reading whole partitions instead of using an index.
        ranges = " OR ".join("(+fact.id >= ? AND +fact.id < ?)" for _ in bounds) or "FALSE"
        found.append((f"({ranges})", [bound for pair in bounds for bound in pair]))
    condition = " AND ".join(one for one, _ in found) or "TRUE"
    return condition, [value for _, values in found for value in values]


def _traits(connection: sqlite3.Connection, wanted: LedgerWanted) -> list[int]:
    named = {
        "kind": wanted.kind, "event_type": wanted.event_type, "category": wanted.category, "severity": wanted.severity,
        "outcome": wanted.outcome,
    }  # fmt: skip
    asked = {column: value for column, value in named.items() if value is not None}
    where = " AND ".join(f"{column} = ?" for column in asked) or "TRUE"
    return [
        number
        for number, frameworks in connection.execute(f"SELECT number, frameworks FROM trait WHERE {where}", list(asked.values()))  # noqa: S608  # made here
        if wanted.framework is None or wanted.framework in _frameworks(frameworks)
    ]


def _frameworks(text: str) -> tuple[str, ...]:
    """None where they were altered so that nothing can be read: a verification says so, and questions go on."""
    with contextlib.suppress(msgspec.MsgspecError):
        return msgspec.json.decode(text, type=tuple[str, ...])
    return ()


def _marks(values: Collection[object]) -> str:
    return ",".join("?" * len(values))


def traits_of(connection: sqlite3.Connection, facts: Iterable[LedgerFacts], known: dict[Trait, int]) -> list[int]:
    """The numbers of their traits, one for each; those that are not among the known ones are added there."""
    found = []
    for trait in map(trait_of, facts):
        number = known.get(trait)
        if number is None:
            number = known[trait] = _number_of(connection, trait)
        found.append(number)
    return found


def _number_of(connection: sqlite3.Connection, trait: Trait) -> int:
    """The trait's number; a new one gets one."""
    kind, *names, frameworks = trait
    columns = (int(kind), *names, msgspec.json.encode(sorted(frameworks)).decode())
    connection.execute(
        "INSERT OR IGNORE INTO trait (kind, event_type, category, severity, outcome, frameworks) VALUES (?, ?, ?, ?, ?, ?)", columns
    )
    [number] = connection.execute(
        "SELECT number FROM trait WHERE (kind, event_type, category, severity, outcome, frameworks) = (?, ?, ?, ?, ?, ?)", columns
    ).fetchone()
    return int(number)


def topics_of(connection: sqlite3.Connection, names: Collection[str]) -> dict[str, int]:
    """The numbers of topics; those that are new get one."""
    connection.executemany("INSERT OR IGNORE INTO topic (name) VALUES (?)", [(name,) for name in sorted(names)])
    return {name: number for number, name in connection.execute("SELECT number, name FROM topic") if name in names}

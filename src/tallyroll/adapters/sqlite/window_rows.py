"""The tables of the window store, and how its rows are found, rolled up and removed.

Rows lie in the table in the order of writing, so that those of one time lie together: time is how they are written, read for
rankings, and removed. Two small indexes find them, by key and by time. Measured beside a table sorted by key: half the time
of a write, a quarter of that of a removal.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import msgspec

from tallyroll.adapters.sqlite.binding import ManyRows
from tallyroll.adapters.sqlite.store_file import FileKind
from tallyroll.events.position import TopicPartition
from tallyroll.ports import PaneAt, PaneRow

# A series is a dimension at one width; made_of_s is 0 for rows as they were written, else the width they were rolled up from.
# due: wider rows that are to be made, or made again. rolled: up to which start (exclusive) narrow rows of a partition have a
# wider row, unless it is due.
_TABLES: Final = """
CREATE TABLE progress (
    number INTEGER PRIMARY KEY, topic TEXT NOT NULL, partition INTEGER NOT NULL, spec_id TEXT NOT NULL, first INTEGER NOT NULL,
    next INTEGER NOT NULL, watermark_us INTEGER NOT NULL, repeats BLOB NOT NULL, UNIQUE (topic, partition)
) STRICT;
CREATE TABLE series (
    id INTEGER PRIMARY KEY, dimension TEXT NOT NULL, width_s INTEGER NOT NULL, made_of_s INTEGER NOT NULL,
    UNIQUE (dimension, width_s, made_of_s)
) STRICT;
CREATE TABLE pane (
    series INTEGER NOT NULL, key TEXT NOT NULL, start INTEGER NOT NULL, number INTEGER NOT NULL, revision INTEGER NOT NULL,
    data BLOB NOT NULL, UNIQUE (series, key, start, number)
) STRICT;
CREATE INDEX pane_by_time ON pane (series, start, number);
CREATE TABLE rolled (
    wide INTEGER NOT NULL, number INTEGER NOT NULL, narrow INTEGER NOT NULL, through INTEGER NOT NULL, PRIMARY KEY (wide, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE due (
    wide INTEGER NOT NULL, start INTEGER NOT NULL, key TEXT NOT NULL, number INTEGER NOT NULL, PRIMARY KEY (wide, start, key, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE pair (
    number INTEGER NOT NULL, pair TEXT NOT NULL, id TEXT NOT NULL, start_us INTEGER NOT NULL, since_us INTEGER NOT NULL,
    PRIMARY KEY (number, pair, id)
) STRICT, WITHOUT ROWID;
CREATE TABLE document (kind TEXT NOT NULL, id TEXT NOT NULL, data BLOB NOT NULL, PRIMARY KEY (kind, id)) STRICT;
CREATE TABLE version (number INTEGER NOT NULL) STRICT;
INSERT INTO version VALUES (0);
"""

# Version 1 took the start itself for the moment since which it waits.
_FROM_1: Final = """
CREATE TABLE waiting (
    number INTEGER NOT NULL, pair TEXT NOT NULL, id TEXT NOT NULL, start_us INTEGER NOT NULL, since_us INTEGER NOT NULL,
    PRIMARY KEY (number, pair, id)
) STRICT, WITHOUT ROWID;
INSERT INTO waiting SELECT number, pair, id, start_us, start_us FROM pair;
DROP TABLE pair;
ALTER TABLE waiting RENAME TO pair;
"""

_PANES: Final = ManyRows(
    "pane",
    ("series", "key", "start", "number", "revision", "data"),
    then="ON CONFLICT DO UPDATE SET revision = excluded.revision, data = excluded.data",
)
_DUE: Final = ManyRows("due", ("wide", "start", "key", "number"), then="ON CONFLICT DO NOTHING")
_PAIRS: Final = ManyRows(
    "pair",
    ("number", "pair", "id", "start_us", "since_us"),
    then="ON CONFLICT DO UPDATE SET start_us = excluded.start_us, since_us = excluded.since_us",
)

KIND: Final = FileKind(
    "window store",
    application_id=0x74727773,  # "trws": tells the file from other SQLite files
    version=2,
    tables=_TABLES,
    cache_kib=32_768,  # the rows of the open minute, which every flush writes again
    page_bytes=8_192,
    upgrades={1: _FROM_1},
)


class Series(NamedTuple):
    """A dimension at one width, as written or as rolled up from a narrower one."""

    dimension: str
    width_s: int
    made_of_s: int = 0


class Prunable(NamedTuple):
    """Rows of one series and partition that may go: those that begin before ``before``."""

    series: int
    number: int
    before: int
    wides: Sequence[tuple[int, int]]


def number_of(connection: sqlite3.Connection, partition: TopicPartition) -> int | None:
    """The number by which rows know a partition; None if nothing was written of it."""
    found = connection.execute("SELECT number FROM progress WHERE topic = ? AND partition = ?", partition).fetchone()
    return None if found is None else int(found[0])


def read_series(connection: sqlite3.Connection) -> dict[Series, int]:
    """All series there are; some tens."""
    return {
        Series(dimension, width_s, made_of_s): series_id
        for series_id, dimension, width_s, made_of_s in connection.execute("SELECT id, dimension, width_s, made_of_s FROM series")
    }


def _series_id(connection: sqlite3.Connection, known: dict[Series, int], series: Series) -> int:
    if series not in known:
        known[series] = int(
            connection.execute("INSERT INTO series (dimension, width_s, made_of_s) VALUES (?, ?, ?) RETURNING id", series).fetchone()[0]
        )
    return known[series]


def write_rows(connection: sqlite3.Connection, rows: Sequence[tuple[int, Sequence[tuple[PaneAt, int, bytes]]]]) -> None:
    """Writes the rows of some partitions, with the number of each, whole; and notes the wider ones that have to be made again."""
    known = read_series(connection)
    wanted = {(at.dimension, at.width_s) for _, some in rows for at, _, _ in some}
    ids = {place: _series_id(connection, known, Series(*place)) for place in wanted}
    _PANES.insert(
        connection,
        (
            (ids[at.dimension, at.width_s], at.key, at.start, number, revision, bytearray(data))
            for number, some in rows
            for at, revision, data in some
        ),
    )
    for number, some in rows:
        rolled = connection.execute(
            "SELECT narrow, wide, width_s, through FROM rolled JOIN series ON id = wide WHERE number = ?", (number,)
        ).fetchall()
        for narrow, wide, into_s, through in rolled:
            _DUE.insert(
                connection,
                (
                    (wide, at.start // into_s * into_s, at.key, number)
                    for at, _, _ in some
                    if at.start < through and ids[at.dimension, at.width_s] == narrow
                ),
            )


def write_pairs(connection: sqlite3.Connection, opened: Iterable[Sequence[object]], closed: Iterable[Sequence[object]]) -> None:
    """Writes pairs that are open, and removes those that are not any more; each begins with the number of its partition."""
    _PAIRS.insert(connection, iter(opened))
    connection.executemany("DELETE FROM pair WHERE number = ? AND pair = ? AND id = ?", closed)


def forget(connection: sqlite3.Connection, number: int) -> None:
    """Removes everything of one partition but its progress."""
    for table in ("pane", "rolled", "due", "pair"):
        connection.execute(f"DELETE FROM {table} WHERE number = ?", (number,))  # noqa: S608  # names of our own


# Reading

_Found = tuple[int, int, str, int, int, bytes]  # width, number, key, start, revision, data


def select_rows(  # noqa: PLR0913  # what the port asks
    connection: sqlite3.Connection, series: Series, start: int, end: int, keys: Sequence[str] | None, rolled_s: int | None
) -> list[PaneRow]:
    """As ``WindowStore.rows``."""
    known = read_series(connection)
    asked = _Asked(connection, keys)
    found: list[_Found] = []
    if (narrow := known.get(series)) is not None:
        wide = None if rolled_s is None else known.get(Series(series.dimension, rolled_s, series.width_s))
        if rolled_s is None or wide is None:
            found += [(series.width_s, *row) for row in asked.rows(narrow, start, end)]
        else:
            found += _mixed(connection, asked, (narrow, series.width_s), (wide, rolled_s), start, end)
    if rolled_s is not None and (beside := known.get(Series(series.dimension, rolled_s))) is not None:
        found += [(rolled_s, *row) for row in asked.rows(beside, start, end)]
    partitions = {
        number: TopicPartition(topic, partition)
        for number, topic, partition in connection.execute("SELECT number, topic, partition FROM progress")
    }
    rank = {number: place for place, number in enumerate(sorted(partitions, key=partitions.__getitem__))}
    found.sort(key=lambda row: (row[2], row[3], rank[row[1]]))
    return [
        PaneRow(partitions[number], PaneAt(series.dimension, key, width_s, begins), revision, data)
        for width_s, number, key, begins, revision, data in found
    ]


class _Asked:
    """Selects rows of the asked keys, or of all."""

    def __init__(self, connection: sqlite3.Connection, keys: Sequence[str] | None) -> None:
        self._connection = connection
        # Each key once: a join would give the rows of a repeated one twice.
        self._keys = None if keys is None else msgspec.json.encode(sorted(set(keys))).decode()

    def rows(self, series: int, start: int, end: int, more: str = "", *given: object) -> Iterable[tuple[int, str, int, int, bytes]]:
        """Number, key, start, revision and data of the rows that begin in that time, under one more condition."""
        columns, time = "number, pane.key, start, revision, data", "series = ? AND start >= ? AND start < ?"
        if start >= end:
            return ()
        if self._keys is None:
            return self._connection.execute(f"SELECT {columns} FROM pane WHERE {time} {more}", (series, start, end, *given))  # noqa: S608  # names of our own
        return self._connection.execute(
            f"SELECT {columns} FROM json_each(?) CROSS JOIN pane ON pane.key = value WHERE {time} {more}",  # noqa: S608  # as above
            (self._keys, series, start, end, *given),
        )


def _mixed(  # noqa: PLR0913  # one question
    connection: sqlite3.Connection, asked: _Asked, narrow: tuple[int, int], wide: tuple[int, int], start: int, end: int
) -> Iterator[_Found]:
    """Wide rows where they are up to date and lie inside, narrow ones for all the rest."""
    inside, outside = -(-start // wide[1]) * wide[1], end // wide[1] * wide[1]
    if inside >= outside:
        inside = outside = end
    due = "EXISTS (SELECT 1 FROM due WHERE wide = ? AND due.start = pane.start / ? * ? AND due.key = pane.key AND due.number = pane.number)"
    among = "AND number IN (SELECT value FROM json_each(?))"
    asking = (wide[0], wide[1], wide[1])
    for row in asked.rows(wide[0], inside, outside, f"AND NOT {due}", *asking):
        yield wide[1], *row
    edges = [*asked.rows(narrow[0], start, inside), *asked.rows(narrow[0], outside, end)]
    if connection.execute(
        "SELECT EXISTS (SELECT 1 FROM due WHERE wide = ? AND start >= ? AND start < ?)", (wide[0], inside, outside)
    ).fetchone()[0]:
        edges += asked.rows(narrow[0], inside, outside, f"AND {due}", *asking)
    through: defaultdict[int, list[int]] = defaultdict(list)
    for number, reached in connection.execute(
        "SELECT progress.number, coalesce(through, 0) FROM progress LEFT JOIN rolled ON rolled.number = progress.number AND wide = ?",
        (wide[0],),
    ):
        through[max(inside, reached)].append(number)
    for reached, numbers in through.items():
        edges += asked.rows(narrow[0], reached, outside, f"{among} AND NOT {due}", msgspec.json.encode(numbers).decode(), *asking)
    for row in edges:
        yield narrow[1], *row


def select_keys(connection: sqlite3.Connection, series: int, start: int, end: int, after: str, limit: int) -> list[str]:  # noqa: PLR0913  # as above
    """Keys of one series with a row in that time. Steps from key to key in the index, however many rows each has."""
    rows = connection.execute(
        "WITH RECURSIVE step (key) AS (SELECT min(key) FROM pane WHERE series = ?1 AND key > ?2 UNION ALL "
        "SELECT (SELECT min(key) FROM pane WHERE series = ?1 AND key > step.key) FROM step WHERE key IS NOT NULL) "
        "SELECT key FROM step WHERE EXISTS (SELECT 1 FROM pane WHERE series = ?1 AND pane.key = step.key AND start >= ?3 AND start < ?4) "
        "LIMIT ?5",
        (series, after, start, end, limit),
    )
    return [key for (key,) in rows]


# Rolling up


def note_due(connection: sqlite3.Connection, width_s: int, into_s: int, settle_s: int) -> list[tuple[int, int]]:
    """Notes the wider rows that can be made since last time; the pairs of narrow and wide series there are."""
    known, pairs = read_series(connection), []
    reached = {
        number: (watermark_us // 1_000_000 - settle_s) // into_s * into_s
        for number, watermark_us in connection.execute("SELECT number, watermark_us FROM progress")
    }
    for series in [one for one in known if (one.width_s, one.made_of_s) == (width_s, 0)]:
        narrow, wide = known[series], _series_id(connection, known, Series(series.dimension, into_s, width_s))
        pairs.append((narrow, wide))
        through = dict(connection.execute("SELECT number, through FROM rolled WHERE wide = ?", (wide,)))
        for number, upto in reached.items():
            since = through.get(number, 0)
            if upto > since:
                connection.execute(
                    "INSERT OR IGNORE INTO due (wide, start, key, number) SELECT DISTINCT ?, start / ? * ?, key, number FROM pane "
                    "WHERE series = ? AND start >= ? AND start < ? AND number = ?",
                    (wide, into_s, into_s, narrow, since, upto, number),
                )
                connection.execute("INSERT OR REPLACE INTO rolled VALUES (?, ?, ?, ?)", (wide, number, narrow, upto))
    return pairs


def roll(
    connection: sqlite3.Connection, pair: tuple[int, int], into_s: int, join: Callable[[Sequence[bytes]], bytes], limit: int
) -> tuple[int, int]:
    """Makes up to ``limit`` wider rows that are due; how many it looked at and how many it wrote."""
    narrow, wide = pair
    due = connection.execute("SELECT wide, start, key, number FROM due WHERE wide = ? LIMIT ?", (wide, limit)).fetchall()
    wrote = 0
    for _, start, key, number in due:
        parts = connection.execute(
            "SELECT data FROM pane WHERE series = ? AND key = ? AND start >= ? AND start < ? AND number = ? ORDER BY start",
            (narrow, key, start, start + into_s, number),
        ).fetchall()
        if parts:
            wrote += 1
            connection.execute(
                "INSERT INTO pane (series, key, start, number, revision, data) VALUES (?, ?, ?, ?, 0, ?) "
                "ON CONFLICT DO UPDATE SET revision = revision + 1, data = excluded.data",
                (wide, key, start, number, join([data for (data,) in parts])),
            )
    connection.executemany("DELETE FROM due WHERE wide = ? AND start = ? AND key = ? AND number = ?", due)
    return len(due), wrote


# Removing


def prunable(connection: sqlite3.Connection, width_s: int, keep_s: int) -> list[Prunable]:
    """Which rows of a width are old enough, and in a wider row where there are such."""
    known, found = read_series(connection), []
    watermarks = connection.execute("SELECT number, watermark_us FROM progress").fetchall()
    through = {(wide, number): upto for wide, number, upto in connection.execute("SELECT wide, number, through FROM rolled")}
    for series in [one for one in known if one.width_s == width_s]:
        wides = [(known[one], one.width_s) for one in known if (one.dimension, one.made_of_s) == (series.dimension, width_s)]
        wides = [] if series.made_of_s else wides
        for number, watermark_us in watermarks:
            upto = watermark_us // 1_000_000 - keep_s
            before = min([upto - width_s + 1, *(min(through.get((wide, number), 0), upto // into_s * into_s) for wide, into_s in wides)])
            if before > 0:
                found.append(Prunable(known[series], number, before, wides))
    return found


def prune(connection: sqlite3.Connection, span: Prunable, limit: int) -> int:
    """Removes up to ``limit`` rows of what may go; how many."""
    due = "".join(
        f" AND NOT EXISTS (SELECT 1 FROM due WHERE wide = {wide} AND due.start = pane.start / {into_s} * {into_s} "  # noqa: S608  # integers
        "AND due.key = pane.key AND due.number = pane.number)"
        for wide, into_s in span.wides
    )
    return connection.execute(
        f"DELETE FROM pane WHERE rowid IN (SELECT rowid FROM pane WHERE series = ? AND start < ? AND number = ? {due} LIMIT ?)",  # noqa: S608  # as above
        (span.series, span.before, span.number, limit),
    ).rowcount

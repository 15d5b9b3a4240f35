"""Many rows in few statements."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest

from tallyroll.adapters.sqlite.binding import ManyRows

ROWS = ManyRows("t", ("id", "body"), optional=("name", "place"))
NEWEST = ManyRows("t", ("id", "body"), then="ON CONFLICT DO UPDATE SET body = excluded.body")


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    made = sqlite3.connect(":memory:", isolation_level=None)
    made.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB NOT NULL, name TEXT, place INTEGER) STRICT")
    yield made
    made.close()


@pytest.mark.parametrize("count", [0, 1, 31, 127, 128, 129, 300])
def test_every_row_is_there_whole_in_its_place(connection: sqlite3.Connection, count: int) -> None:
    rows = [(at, bytearray(b"%d" % at), f"n{at}" if at % 3 else "", at if at % 2 else "") for at in range(count)]
    ROWS.insert(connection, iter(rows))
    assert connection.execute("SELECT * FROM t ORDER BY id").fetchall() == [
        (at, b"%d" % at, name or None, None if place == "" else place) for at, _, name, place in rows
    ]


def test_a_nought_and_an_empty_blob_are_not_missing(connection: sqlite3.Connection) -> None:
    ROWS.insert(connection, iter([(1, bytearray(), "a", 0)]))
    assert connection.execute("SELECT * FROM t").fetchall() == [(1, b"", "a", 0)]


def test_what_is_refused_is_refused_with_all_that_its_transaction_did(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN")
    with pytest.raises(sqlite3.IntegrityError):
        ROWS.insert(connection, iter([(at % 200, bytearray(), "", "") for at in range(300)]))
    connection.execute("ROLLBACK")
    assert connection.execute("SELECT count(*) FROM t").fetchone() == (0,)


def test_what_follows_the_rows_holds_for_each_of_them(connection: sqlite3.Connection) -> None:
    NEWEST.insert(connection, iter([(at % 150, b"%d" % at) for at in range(300)]))
    assert connection.execute("SELECT id, body FROM t ORDER BY id").fetchall() == [(at, b"%d" % (at + 150)) for at in range(150)]


def test_a_run_of_rows_takes_few_steps(connection: sqlite3.Connection) -> None:
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    ROWS.insert(connection, iter([(at, bytearray(), "", "") for at in range(300)]))
    assert len(statements) == 2 + 1 + 1 + 4

"""How many rows are handed to ``sqlite3``.

Of each ``bytes`` and each ``None`` among the values of a row it asks whether the object adapts itself; looking for the answer takes
longer than the row's own share in a statement of many. Of a ``bytearray`` and of a text it does not ask.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Final


def blob(value: bytes | None) -> bytearray | str:
    """A blob for an optional column of ``ManyRows``, where the empty text stands for none; a blob may well be empty."""
    return "" if value is None else bytearray(value)


class ManyRows:
    """Inserts many rows with few steps of SQLite: the binding gives up the interpreter's lock at each, and may get it back late.

    Columns in ``optional`` stand behind the others, and are missing where the value is the empty text. ``then``: what follows the rows.
    A row that is refused leaves those before it: for use in a transaction that is undone then.
    """

    def __init__(self, table: str, columns: Sequence[str], *, optional: Sequence[str] = (), then: str = "") -> None:
        # To be able to undo the rows before a refused one, SQLite would copy each page that it changes into a file; a function in the
        # statement would make it do so all the same.
        names = [*columns, *optional]
        into = f"INSERT OR FAIL INTO {table} ({', '.join(names)}) VALUES "  # noqa: S608  # names of our own
        places = [
            ", ".join([_place(first + at, is_optional=at > len(columns)) for at in range(1, len(names) + 1)])
            for first in range(0, _ROWS[0] * len(names), len(names))
        ]
        self._of = {rows: f"{into}{', '.join([f'({one})' for one in places[:rows]])} {then}" for rows in _ROWS}

    def insert(self, connection: sqlite3.Connection, rows: Iterator[Sequence[object]]) -> None:
        """Inserts them in their order."""
        while some := [*islice(rows, _ROWS[0])]:
            for length, statement in self._of.items():
                while len(some) >= length:
                    connection.execute(statement, [*chain.from_iterable(some[:length])])
                    del some[:length]


def _place(number: int, *, is_optional: bool) -> str:
    # A place with a number has a name, which the binding looks for among all the others.
    return f"CASE ?{number} WHEN '' THEN NULL ELSE ?{number} END" if is_optional else "?"


# How many at once: SQLite takes 32,766 values in one statement, and of more rows none is quicker. What is left goes in fewer, since
# some partitions at a time have some rows each.
_ROWS: Final = (128, 32, 8, 1)

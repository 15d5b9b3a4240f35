"""SQL over the sealed files of the archive. Reads them where they lie; can write nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import duckdb

from tallyroll.errors import SegmentDamaged, SettingsError

_ROWS_AT_ONCE: Final = 1_000
# What people ask for, in the order in which they look; the raw bytes stay in ``records``. What views take out of payloads
# follows, without the prefix that keeps it apart from the rest in the files.
_VIEW: Final = """
CREATE VIEW events AS
SELECT topic, partition, "offset", make_timestamp(time_us) AS "time", type, agent, aggregate, event_id, session, sequence, version,
       user_id, correlation_id, "data"::JSON AS "data"{values}
FROM records WHERE verdict = 'first'
"""
_VALUE: Final = "value."


_READING: Final = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)


class Answer:
    """The rows of a query, a thousand at a time; ``columns`` are their names."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection, files: Sequence[tuple[str, int, Path]]) -> None:
        self._cursor = cursor
        self._files = files
        self.columns: list[str] = [str(one[0]) for one in cursor.description or ()]

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """The rows. Raises as ``query``."""
        try:
            while some := self._cursor.fetchmany(_ROWS_AT_ONCE):
                yield from some
        except duckdb.Error as error:
            raise _told(error, self._files) from None


def query(files: Sequence[tuple[str, int, Path]], sql: str) -> Answer:
    """The answer of one statement over ``events``, the first copies of readable records, and ``records``, everything.

    ``files`` are topic, partition and path of every sealed segment. Blocks while the statement is planned; rows come as they
    are asked for. Raises ValueError with DuckDB's words for a statement that is wrong, SettingsError if nothing is sealed,
    SegmentDamaged for a file that is missing or cannot be read.

    Not promised: what came after the last seal; sooner or later ``tallyroll archive seal`` puts it into a file.
    """
    if not files:
        raise SettingsError("archive", "nothing is sealed yet; do it with: tallyroll archive seal")
    connection = duckdb.connect(":memory:")
    try:
        statements = connection.extract_statements(sql)
        if len(statements) != 1 or statements[0].type not in _READING:
            raise ValueError("one SELECT at a time; nothing can be written from here")
        connection.execute("CREATE TABLE segments (file VARCHAR, topic VARCHAR, partition INTEGER)")
        connection.executemany("INSERT INTO segments VALUES (?, ?, ?)", [(str(path), topic, number) for topic, number, path in files])
        listed = ", ".join("'" + str(path).replace("'", "''") + "'" for _, _, path in files)
        connection.execute(
            f"CREATE VIEW records AS SELECT topic, partition, r.* EXCLUDE (filename) "  # noqa: S608  # paths of our own, quoted
            f"FROM read_parquet([{listed}], union_by_name = true, filename = true) r JOIN segments ON file = filename"
        )
        names = [str(row[0]) for row in connection.execute("DESCRIBE records").fetchall()]
        values = "".join(f', "{name}" AS "{name.removeprefix(_VALUE)}"' for name in names if name.startswith(_VALUE))
        connection.execute(_VIEW.format(values=values))
        folders = ", ".join(f"'{folder}'" for folder in sorted({str(path.parent).replace("'", "''") for _, _, path in files}))
        connection.execute(f"SET allowed_directories = [{folders}]")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        return Answer(connection.execute(sql), files)
    except duckdb.Error as error:
        raise _told(error, files) from None


def _told(error: duckdb.Error, files: Sequence[tuple[str, int, Path]]) -> Exception:
    """The error as ours: of the statement, unless a file turns out to be what is wrong."""
    # What reading garbage raises is an IOException, or of no class of its own; statements have theirs.
    if type(error) is duckdb.Error or isinstance(error, duckdb.IOException | duckdb.InvalidInputException | duckdb.InternalException):
        for topic, number, path in files:
            if (reason := _damage(path)) is not None:
                return SegmentDamaged(f"{topic}/{number}/{path.name}", reason)
    return ValueError(str(error).splitlines()[0])


def _damage(path: Path) -> str | None:
    """What is wrong with a file; reads all of it."""
    if not path.exists():
        return "the file is missing"
    try:
        duckdb.connect(":memory:").execute("SELECT max(hash(r)) FROM read_parquet(?) r", [str(path)]).fetchall()
    except duckdb.Error:
        return "it cannot be read"
    return None

"""What lies in the spools of a folder, without touching them: for operators, beside running publishers."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import NamedTuple


class SpoolReport(NamedTuple):
    """All spool files of a folder together; ``damaged`` names files that could not be read or were moved aside."""

    files: int
    waiting: int
    refused: int
    damaged: list[str]


def spool_report(folder: Path) -> SpoolReport:
    """Counts records that wait and that the log refused. Claims no file and takes over none; a missing folder is empty.

    Not promised: a moment's exact truth while a publisher writes.
    """
    files, waiting, refused = 0, 0, 0
    damaged = [path.name for path in sorted(folder.glob("*.damaged"))]
    for path in sorted(folder.glob("*.db")):
        files += 1
        try:
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
                row = connection.execute("SELECT count(*) FILTER (WHERE refused IS NULL), count(refused) FROM record").fetchone()
        except sqlite3.Error:
            damaged.append(path.name)
        else:
            waiting += row[0]
            refused += row[1]
    return SpoolReport(files, waiting, refused, damaged)

"""What the programs of a run write down while they are being killed: one JSON object a line, whole once it is acknowledged."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, Literal, TypeVar

import msgspec

from tallyroll.testing.history import Entry, dump, load


class Race(msgspec.Struct, frozen=True):
    """An event that expected a version: won (it took the next one), lost (it does not count), open (nobody knows)."""

    event_id: str
    aggregate: str
    expected: int
    outcome: Literal["won", "lost", "open"]


class Recorded(msgspec.Struct, frozen=True):
    """An entry that was recorded about a person, at ``time_us``; ``digest`` is of the text that only its sealed part has."""

    audit_id: str
    person: str
    digest: str
    time_us: int


Fact = Race | Recorded
_KINDS: Final = {"races": Race, "entries": Recorded}
T = TypeVar("T", Race, Recorded)


class Diary:
    """The file of one life of one program. A line is with the kernel once ``write`` returns: it survives the death of the process."""

    def __init__(self, folder: Path, name: str) -> None:
        self._files = {
            kind: os.open(folder / f"{name}.{kind}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) for kind in ("history", *_KINDS)
        }

    def happened(self, *entries: Entry) -> None:
        """Writes entries of the history."""
        os.write(self._files["history"], dump(entries))

    def fact(self, fact: Fact) -> None:
        """Writes what became of a race or an entry."""
        os.write(self._files["races" if isinstance(fact, Race) else "entries"], msgspec.json.encode(fact) + b"\n")


def history_in(folder: Path) -> list[Entry]:
    """Every entry of every life, each life's in its own order."""
    return [entry for file in sorted(folder.glob("*.history")) for entry in load(file.read_bytes())]


def races_in(folder: Path) -> list[Race]:
    """Every race of every life."""
    return list(_facts(folder.glob("*.races"), Race))


def entries_in(folder: Path) -> list[Recorded]:
    """Every recorded entry of every life."""
    return list(_facts(folder.glob("*.entries"), Recorded))


def _facts(files: Iterable[Path], kind: type[T]) -> Iterator[T]:
    for file in sorted(files):
        lines: Sequence[bytes] = file.read_bytes().split(b"\n")
        for line in lines[:-1]:  # a line without its end was cut off by the death of its process
            yield msgspec.json.decode(line, type=kind)

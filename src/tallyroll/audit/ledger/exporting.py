"""The files an auditor is given. ``docs/reference/ledger-format.md`` says what is in each; ``verify`` reads them.

Pure: makes bytes; whoever calls it writes them into a folder or a zip.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from tallyroll.audit.ledger.layout import META, Record, pack_record

RECORDS: Final = b"AUDLREC1"
LEAVES: Final = b"AUDLLEA1"
NOTES: Final = b"AUDLNOT1"
PROOFS: Final = b"AUDLPRF1"


def name_of(partition: int, what: str) -> str:
    """The name of a partition's file, or of the tree over all: ``00003.records``, ``meta.notes``."""
    return f"meta.{what}" if partition == META else f"{partition:05}.{what}"


def records_file(partition: int, records: Iterable[Record], *, start: int = 0, peaks: Sequence[bytes] = ()) -> Iterator[bytes]:
    """The records of one partition from ``start`` on, in pieces. ``peaks`` stand for what was pruned before."""
    yield _header(RECORDS, partition, start, peaks)
    for record in records:
        yield _framed(pack_record(record))


def leaves_file(texts: Iterable[str], *, start: int = 0, peaks: Sequence[bytes] = ()) -> Iterator[bytes]:
    """The leaves of the tree over all partitions: note texts, in the order they were appended."""
    yield _header(LEAVES, META, start, peaks)
    for text in texts:
        yield _framed(text.encode())


def notes_file(notes: Iterable[bytes]) -> Iterator[bytes]:
    """Signed notes, by rising size."""
    yield NOTES
    for packed in notes:
        yield _framed(packed)


def proofs_file(proofs: Iterable[tuple[int, int, Sequence[bytes]]]) -> Iterator[bytes]:
    """Consistency proofs as (old size, new size, path): between sizes that were noted and then pruned away."""
    yield PROOFS
    for old, new, path in proofs:
        yield _framed(old.to_bytes(8) + new.to_bytes(8) + b"".join(path))


def _header(magic: bytes, partition: int, start: int, peaks: Sequence[bytes]) -> bytes:
    return b"".join((magic, partition.to_bytes(2), start.to_bytes(8), len(peaks).to_bytes(1), *peaks))


def _framed(body: bytes) -> bytes:
    return len(body).to_bytes(4) + body

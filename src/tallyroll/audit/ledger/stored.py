"""Records as a store gives them back. Whoever can write its file may have changed them; then that is said, with the place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import msgspec

from tallyroll.audit.ledger.layout import Core, Record, is_dated, unpack_core, unpack_record
from tallyroll.errors import LedgerTampered, Undecodable
from tallyroll.ports import LedgerRow

Read = tuple[LedgerRow, Record, Core]
"""A row, and the record that was read from it."""


def record_in(row: LedgerRow) -> tuple[Record, Core]:
    """The record and its core, read. Raises LedgerTampered."""
    try:
        record = unpack_record(row.raw)
        core = unpack_core(record.core)
    except Undecodable as error:
        raise LedgerTampered("frame", row.partition, row.number, error.reason) from None
    if not is_dated(core):
        raise LedgerTampered("core", row.partition, row.number, "its time is in no calendar")
    return record, core


def read_of(rows: Iterable[LedgerRow]) -> tuple[list[Read], list[LedgerTampered]]:
    """The records, and what is wrong with those that nobody can read."""
    read, damaged = [], []
    for row in rows:
        try:
            read.append((row, *record_in(row)))
        except LedgerTampered as error:
            damaged.append(error)
    return read, damaged


@contextmanager
def steering(row: LedgerRow) -> Iterator[None]:
    """Around the reading of what a record of the registry says. Raises LedgerTampered where that is nothing that it can say."""
    try:
        yield
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError, TypeError, AttributeError, OverflowError, ValueError) as error:
        if isinstance(error, LedgerTampered):
            raise
        raise LedgerTampered("control", row.partition, row.number) from None

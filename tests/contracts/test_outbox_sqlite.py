"""The outbox in SQLite keeps the contract of outboxes."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from tallyroll.adapters.sqlite.outbox import SqliteOutbox
from tallyroll.errors import StoreUnavailable
from tallyroll.ports import Outbox, OutboxRow
from tallyroll.testing.outbox_contract import CASES, Case


def name_of(case: object) -> str:
    return case.__name__


async def case_in(case: Case, path: Path, kind: type[SqliteOutbox] = SqliteOutbox) -> None:
    async def opener() -> Outbox:
        return await kind.open(path)

    await case(opener)


@pytest.mark.parametrize("case", CASES, ids=name_of)
async def test_contract(case: Case, tmp_path: Path) -> None:
    await case_in(case, tmp_path / "folder" / "outbox.db")


class Careless(SqliteOutbox):
    async def lease(self, row, until_us):
        return await self._change("UPDATE outbox SET until_us = ? WHERE id = ?", until_us, row.id) == 1

    async def ready(self, row_id, event, until_us):
        return await self._change("UPDATE outbox SET event = ?, until_us = ? WHERE id = ?", event, until_us, row_id) == 1


@pytest.mark.parametrize("case", CASES[1:], ids=name_of)
async def test_the_contract_notices_an_outbox_that_does_not_compare(case: Case, tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        await case_in(case, tmp_path / "outbox.db", Careless)


async def test_in_memory_it_is_its_own() -> None:
    outbox = await SqliteOutbox.open(None)
    row = OutboxRow("one", 1, 2, b"secret", b"secret")
    await outbox.put(row)
    assert list(await outbox.rows()) == [row]
    assert "secret" not in repr(row)
    await outbox.close()
    await outbox.close()
    with pytest.raises(StoreUnavailable):
        await outbox.rows()


async def test_a_file_of_another_kind_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    with sqlite3.connect(path) as foreign:
        foreign.execute("CREATE TABLE theirs (x)")
    foreign.close()
    with pytest.raises(StoreUnavailable, match="no outbox of this version; choose another folder"):
        await SqliteOutbox.open(path)

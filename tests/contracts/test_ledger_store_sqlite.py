"""The SQLite ledger store keeps the contract of ledger stores, in memory and on disk, and leaves nothing of what it removes."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from functools import partial
from hashlib import sha256
from pathlib import Path

import pytest
from msgspec.structs import replace

from tallyroll.adapters.sqlite.ledger_store import SqliteLedgerStore
from tallyroll.audit.ledger.layout import Record, leaf_hash, pack_core, pack_mark, pack_record, take_out
from tallyroll.audit.ledger.tree import CompactRange
from tallyroll.errors import StoreUnavailable
from tallyroll.ports import LedgerAppend, LedgerCommit, LedgerFacts, LedgerRemoval, LedgerRow, LedgerWanted
from tallyroll.testing.ledger_store_contract import CASES, SHARED_CASES, Case


def name_of(case: object) -> str:
    return case.__name__


@pytest.mark.parametrize("case", CASES, ids=name_of)
async def test_in_memory(case: Case) -> None:
    await case(partial(SqliteLedgerStore.open, None, take_out))


@pytest.mark.parametrize("case", [*CASES, *SHARED_CASES], ids=name_of)
async def test_on_disk(case: Case, tmp_path: Path) -> None:
    await case(partial(SqliteLedgerStore.open, tmp_path / "audit" / "ledger.sqlite", take_out))


def append_of(texts: list[bytes]) -> LedgerAppend:
    leaves, rows, facts, handle = [], [], [], b"h" * 16
    for number, text in enumerate(texts):
        core = pack_core(
            0, bytes(38), seq=number, ts_us=0, mac_epoch=0, retention_class=0, keep_until_day=0, prev=bytes(32),
            env_hash=sha256(b"{}").digest(), marks=[pack_mark(1, handle, bytes(12), text)],
        )  # fmt: skip
        leaves.append(leaf_hash(core))
        rows.append(LedgerRow(0, number, pack_record(Record(core, b"{}", (text,), bytes(32))), leaves[-1], 0, None))
        facts.append(LedgerFacts(0, 0, 0, 0, (handle,), str(number)))
    tree = CompactRange()
    return LedgerAppend(0, 0, rows, facts, tree.extend(leaves), tree.peaks)


def found_in(folder: Path, needle: bytes) -> list[str]:
    return [path.name for path in folder.iterdir() if needle in path.read_bytes()]


@pytest.mark.parametrize("size", [60, 900, 20_000], ids=["small", "a quarter of a page", "many pages"])
@pytest.mark.parametrize("whole", [True, False], ids=["pruned", "parts"])
async def test_no_file_holds_what_was_removed(tmp_path: Path, size: int, *, whole: bool) -> None:
    store = await SqliteLedgerStore.open(tmp_path / "ledger.sqlite", take_out)
    texts = [f"secret-{number:03}-of-a-person".encode() * (1 + size // 24) for number in range(20)]
    await store.commit(LedgerCommit([append_of(texts)]))
    assert found_in(tmp_path, b"secret-003")
    if whole:
        await store.prune(0, 10)
    else:
        await store.remove([LedgerRemoval(0, number, 0) for number in range(10)])
    assert not [name for number in range(10) for name in found_in(tmp_path, b"secret-%03d" % number)]
    assert found_in(tmp_path, b"secret-013"), "a negative control: what was kept is found"
    await store.close()


async def test_a_file_of_another_program_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"not a database at all, but long enough to be read as one" * 40)
    with pytest.raises(StoreUnavailable) as caught:
        await SqliteLedgerStore.open(path, take_out)
    assert "long enough" not in str(caught.value)


async def test_a_commit_that_fails_half_way_leaves_nothing() -> None:
    store = await SqliteLedgerStore.open(None, take_out)
    append = append_of([b"one", b"two"])
    with pytest.raises(StoreUnavailable):
        await store.commit(LedgerCommit([append._replace(rows=[append.rows[0], replace(append.rows[1], sealed_at_us="never")])]))
    assert (await store.sizes(), await store.rows(0, 0, 9)) == ({}, [])
    await store.commit(LedgerCommit([append]))
    assert await store.sizes() == {0: 2}
    await store.close()


async def test_the_contract_notices_a_store_that_does_not_compare() -> None:
    class Loose(SqliteLedgerStore):
        async def commit(self, change: LedgerCommit) -> None:
            sizes = await self.sizes()
            await super().commit(change._replace(appends=[one._replace(size=sizes.get(one.partition, 0)) for one in change.appends]))

    broken = next(case for case in CASES if case.__name__ == "who_does_not_build_on_what_is_stored_is_refused")
    with pytest.raises(AssertionError, match="refused"):
        await broken(partial(Loose.open, None, take_out))


async def test_a_file_of_the_first_version_is_brought_up_to_date(tmp_path: Path) -> None:
    path, plain = tmp_path / "ledger.sqlite", bytes(16)
    store = await SqliteLedgerStore.open(path, take_out)
    append = append_of([b"sealed", b"in clear"])
    facts = [append.facts[0], replace(append.facts[1], handles=(b"h" * 16, plain))]
    await store.commit(LedgerCommit([append._replace(facts=facts)]))
    wanted = LedgerWanted(handles=(plain,))
    assert [row.number for row in (await store.find(wanted, limit=9))[1]] == [1]
    await store.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DELETE FROM handle WHERE handle = zeroblob(16)")
        connection.execute("CREATE INDEX fact_plain ON fact (ts_us) WHERE instr(handles, zeroblob(16))")
        connection.execute("PRAGMA user_version = 1")
        connection.commit()
    store = await SqliteLedgerStore.open(path, take_out)
    assert [row.number for row in (await store.find(wanted, limit=9))[1]] == [1]
    await store.close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT part FROM handle WHERE handle = zeroblob(16)").fetchall() == [(1,)]
        connection.execute("PRAGMA user_version = 3")
    with pytest.raises(StoreUnavailable, match="it may be evidence"):
        await SqliteLedgerStore.open(path, take_out)

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
from tallyroll.events.position import Position
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


VERSION_2 = """
    UPDATE fact SET audit_id = nullif(audit_id, ''), agent_id = nullif(agent_id, ''), task_id = nullif(task_id, ''),
        workflow_id = nullif(workflow_id, '');
    DROP INDEX fact_audit_id; DROP INDEX fact_agent; DROP INDEX fact_task; DROP INDEX fact_workflow;
    CREATE INDEX fact_time ON fact (ts_us);
    CREATE INDEX fact_audit_id ON fact (audit_id) WHERE audit_id IS NOT NULL;
    CREATE INDEX fact_agent ON fact (agent_id, ts_us) WHERE agent_id IS NOT NULL;
    CREATE INDEX fact_task ON fact (task_id, ts_us) WHERE task_id IS NOT NULL;
    CREATE INDEX fact_workflow ON fact (workflow_id, ts_us) WHERE workflow_id IS NOT NULL;
    PRAGMA user_version = 2;
"""
ASKED = (
    LedgerWanted(), LedgerWanted(kind=None, start_us=4), LedgerWanted(agent_id="a1"), LedgerWanted(agent_id="a1", start_us=3, end_us=8),
    LedgerWanted(task_id="t"), LedgerWanted(workflow_id="w", agent_id="a2"), LedgerWanted(agent_id=""), LedgerWanted(agent_id="nobody"),
    LedgerWanted(event_type="b", agent_id="a0"), LedgerWanted(outcome="failure"),
)  # fmt: skip


async def test_a_file_of_the_second_version_answers_the_same_and_is_written_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def facts(number: int) -> LedgerFacts:
        names = {"agent_id": f"a{number % 3}", "task_id": "t" if number % 4 == 0 else "", "workflow_id": "w" if number > 6 else ""}
        told = LedgerFacts(
            number % 5 == 4, number, 0, 0, (b"h" * 16,), str(number), "ab"[number % 2], "", "", "failure" if number == 5 else "success"
        )
        return replace(told, **names) if number % 5 < 4 else replace(told, audit_id="")

    async def answers(store: SqliteLedgerStore) -> list[object]:
        found = [await store.find(one, limit=limit, offset=offset) for one in ASKED for limit, offset in ((99, 0), (2, 1), (2, 99))]
        known = [store.known([str(number) for number in range(12)]), await store.entry("7"), await store.entry("")]
        return [*found, *known, await store.rows(0, 0, 99), await store.indexed(0, 0, 99)]

    path, growing = tmp_path / "ledger.sqlite", append_of([b"text %d" % number for number in range(12)])
    sources = [Position("log", 1, number) if number % 5 < 4 else None for number in range(12)]
    rows = [replace(row, source=source) for row, source in zip(growing.rows, sources, strict=True)]
    append = growing._replace(rows=rows, facts=[facts(number) for number in range(12)])
    store = await SqliteLedgerStore.open(path, take_out)
    await store.commit(LedgerCommit([append]))
    wanted = await answers(store)
    assert [total for total, _ in wanted[: 3 * len(ASKED) : 3]] == [10, 8, 3, 1, 2, 2, 0, 0, 1, 1]
    await store.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(VERSION_2)
    assert "is brought from version" not in caplog.text
    store = await SqliteLedgerStore.open(path, take_out)
    assert await answers(store) == wanted
    assert "is brought from version 2" in caplog.text, "of a large ledger it takes long"
    more = append_of([b"text %d" % number for number in range(14)])
    leaves = CompactRange()
    leaves.extend([row.leaf for row in more.rows])
    fresh = append._replace(size=12, rows=more.rows[12:], facts=[facts(15), facts(16)], nodes=[], peaks=leaves.peaks)
    await store.commit(LedgerCommit([fresh]))
    total, found = await store.find(LedgerWanted(agent_id="a0"), limit=1)
    assert (total, [row.number for row in found]) == (4, [12])
    await store.close()


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
        connection.executescript(VERSION_2)
        connection.execute("DELETE FROM handle WHERE handle = zeroblob(16)")
        connection.execute("CREATE INDEX fact_plain ON fact (ts_us) WHERE instr(handles, zeroblob(16))")
        connection.execute("PRAGMA user_version = 1")
        connection.commit()
    store = await SqliteLedgerStore.open(path, take_out)
    assert [row.number for row in (await store.find(wanted, limit=9))[1]] == [1]
    await store.close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT part FROM handle WHERE handle = zeroblob(16)").fetchall() == [(1,)]
        connection.execute("PRAGMA user_version = 4")
    with pytest.raises(StoreUnavailable, match="it may be evidence"):
        await SqliteLedgerStore.open(path, take_out)

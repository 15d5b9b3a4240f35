"""What is read of a ledger is the same from a SQLite store as from memory."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.ledgers import Opened, fill, new_ledger
from tests.unit.readable_ledger import ReadableStore, Reading, put_into
from tests.unit.stored_ledger import LedgerClock
from tests.unit.test_audit_integrity import Keys, _swapped, entries
from tests.unit.test_audit_report import Desk, lively

from tallyroll.adapters.crypto import is_signed
from tallyroll.adapters.sqlite.ledger_schema import id_of
from tallyroll.adapters.sqlite.ledger_store import SqliteLedgerStore
from tallyroll.audit.ledger import proving
from tallyroll.audit.ledger.layout import take_out
from tallyroll.audit.reading.integrity import Integrity, Trusted, Verification
from tallyroll.audit.reading.query import Wanted
from tallyroll.audit.reading.reader import LedgerReader
from tallyroll.errors import LedgerTampered
from tallyroll.events.position import TopicPartition
from tallyroll.ports import LedgerWanted
from tallyroll.testing.ledger import MemoryLedger


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    made = lively(tmp_path_factory.mktemp("desk"))
    made.house.entry("carl", plain=True)
    made.house.ledger.checkpoint()
    return made


def on_both(ledger: MemoryLedger, ask: Callable[[Any], Awaitable[Any]]) -> tuple[Any, Any]:
    async def asked() -> tuple[Any, Any]:
        store = await SqliteLedgerStore.open(None, take_out)
        await put_into(store, ledger)
        try:
            return await ask(ReadableStore(ledger)), await ask(store)
        finally:
            await store.close()

    return asyncio.run(asked())


@pytest.mark.parametrize(
    "wanted",
    [
        {}, {"user_id": "anna-canary"}, {"user_id": "carl"}, {"user_id": "bert-canary", "agent_id": "agent-1"},
        {"compliance_framework": "gdpr"}, {"severity": "high"}, {"event_type": "audit.read", "outcome": "success"}, {"task_id": "none"},
    ],
)  # fmt: skip
def test_queries(desk: Desk, wanted: dict[str, str]) -> None:
    async def ask(store: Any) -> list[Any]:
        async def nothing(*_: object, **__: object) -> None: ...

        reader = LedgerReader(
            store, desk.house.ring, desk.house.aes, clock=LedgerClock(desk.house.ledger), record=nothing, catch_up=nothing
        )
        answer = await reader.query(Wanted(**wanted))
        again = await reader.query(Wanted(**wanted), limit=3, offset=1, as_of=answer.as_of)
        return [answer.page(), again.page(), [entry.to_dict() async for entry in reader.each(Wanted(**wanted), page=2)]]

    memory, sqlite = on_both(desk.house.ledger, ask)
    assert memory == sqlite
    assert memory[2] == memory[0]["entries"]


def verification(ledger: MemoryLedger, store: Any) -> Verification:
    trusted = Trusted((str(ledger.key),), tuple(str(one.key) for one in ledger.witnesses), 1)

    async def spans() -> dict[TopicPartition, tuple[int, int]]:
        return {TopicPartition("audit-events", number): (0, len(part.records)) for number, part in ledger.partitions.items()}

    return Verification(store, Keys(ledger), trusted, is_signed, clock=LedgerClock(ledger), checkpoint=store.sizes, log_spans=spans)


def test_verification_and_proofs(desk: Desk) -> None:
    async def ask(store: Any) -> tuple[Integrity, list[bytes | None]]:
        rows = await store.rows(0, 5, 4)
        proofs = [await proving.proof_of(store, row) for row in rows]
        return await verification(desk.house.ledger, store).verify(), [*proofs, await proving.continuation(store, 3)]

    memory, sqlite = on_both(desk.house.ledger, ask)
    assert memory == sqlite
    assert memory[0]["valid"]


def test_neighbours_swapped_in_the_store_show() -> None:
    ledger = fill(new_ledger(), 12)
    ledger.checkpoint()
    index = entries(ledger)[5]
    ledger.partitions[0].records = _swapped(Opened.of(ledger.export()), index, index + 1).records[0]

    async def ask(store: Any) -> Integrity:
        return await verification(ledger, store).verify()

    memory, sqlite = on_both(ledger, ask)
    assert memory == sqlite
    assert "root" in memory["counts"]


@pytest.mark.parametrize(
    "forgery",
    [
        "UPDATE fact SET ts_us = ts_us - 1000000 WHERE id = {record}",
        "UPDATE fact SET trait = (SELECT max(number) FROM trait WHERE number != trait) WHERE id = {record}",
        "UPDATE fact SET agent_id = 'somebody' WHERE id = {record}",
        "UPDATE fact SET day = 1 WHERE id = {record}",
        "UPDATE record SET leaf = zeroblob(32) WHERE id = {record}",
        "DELETE FROM handle WHERE id = {record} AND part = 0",
        "UPDATE handle SET handle = x'11112222333344445555666677778888' WHERE id = {record} AND part = 0",
        "INSERT INTO handle SELECT (SELECT handle FROM handle WHERE id != {record} LIMIT 1), {record}, 7",
        "UPDATE fact SET body = 0 WHERE id = {record}",
        "UPDATE fact SET parts = 0 WHERE id = {record}",
    ],
)
def test_an_entry_that_questions_would_miss_is_found(desk: Desk, tmp_path: Path, forgery: str) -> None:
    ledger, record = desk.house.ledger, entries(desk.house.ledger)[1]
    found = asyncio.run(_forged(ledger, tmp_path / "ledger.sqlite", forgery.format(record=record)))
    assert not found["valid"]
    assert [(one["code"], one["partition"], one["index"]) for one in found["findings"]] == [("index", 0, record)]
    assert found["verified_entries"] == found["total_entries"] - 1


RESUMED = [
    "UPDATE tip SET packed = x'00' WHERE partition = 0",
    "UPDATE tip SET packed = (SELECT packed FROM tip WHERE partition = 65535 LIMIT 1) WHERE partition = 0",
    "UPDATE tip SET open = NOT open WHERE partition = 0",
    "UPDATE tip SET writer = randomblob(16) WHERE partition = 0",
    "UPDATE tip SET epoch = epoch + 1 WHERE partition = 0",
    "DELETE FROM tip WHERE partition = 0",
    "INSERT INTO tip SELECT 0, writer, epoch + 1, packed, 0 FROM tip WHERE partition = 0 LIMIT 1",
    "UPDATE progress SET next = next - 1 WHERE partition = 0",
    "UPDATE progress SET next = 0",
    "UPDATE progress SET next = next + 1 WHERE partition = 0",
    "UPDATE progress SET partition = 77 WHERE partition = 0",
    "UPDATE progress SET topic = 'another' WHERE partition = 0",
    "DELETE FROM progress WHERE partition = 0",
]


@pytest.mark.parametrize("forgery", RESUMED)
def test_where_sealing_would_go_on_elsewhere_is_found(desk: Desk, tmp_path: Path, forgery: str) -> None:
    """It would drop a chain's next records as repeats, or pass over what is in the log."""
    ledger = desk.house.ledger
    found = asyncio.run(_forged(ledger, tmp_path / "ledger.sqlite", forgery))
    assert not found["valid"]
    assert {(one["code"], one["partition"], one["index"]) for one in found["findings"]} == {
        ("resume", 0, len(ledger.partitions[0].records))
    }
    assert found["verified_entries"] == found["total_entries"], "nothing is said against what is there"


SOURCES = [
    "UPDATE fact SET log_offset = log_offset + 1 WHERE id = {record}",
    "UPDATE fact SET log_offset = log_offset - 1 WHERE id = {record}",
    "UPDATE fact SET log_offset = 1 << 60 WHERE id = {record}",
    "UPDATE fact SET log_partition = 1 WHERE id = {record}",
    "UPDATE fact SET topic = NULL WHERE id = {record}",
    "UPDATE fact SET log_offset = NULL WHERE id = {record}",
]


@pytest.mark.parametrize("forgery", SOURCES)
def test_a_record_that_is_said_to_have_come_from_elsewhere_is_found(desk: Desk, tmp_path: Path, forgery: str) -> None:
    ledger, record = desk.house.ledger, entries(desk.house.ledger)[1]
    found = asyncio.run(_forged(ledger, tmp_path / "ledger.sqlite", forgery.format(record=record)))
    assert not found["valid"]
    places = {(one["code"], one["partition"], one["index"]) for one in found["findings"]}
    assert {("index", 0, record), ("index", 0, record + 1)} & places
    assert {code for code, *_ in places} <= {"index", "resume"}


BESIDE = [
    ("UPDATE node SET hashes = zeroblob(length(hashes)) WHERE partition = 0 AND height = 1", "index"),
    ("UPDATE node SET hashes = zeroblob(length(hashes)) WHERE partition = 65534 AND height = 0", "index"),
    ("DELETE FROM node WHERE height = 1", "index"),
    ("UPDATE node SET hashes = x'' WHERE height = 1", "index"),
    ("UPDATE tail SET peaks = zeroblob(length(peaks)) WHERE partition = 0", "index"),
    ("UPDATE tail SET size = size + 1 WHERE partition = 0", "index"),
    ("UPDATE tail SET size = 1 << 46 WHERE partition = 0", "index"),
    ("UPDATE tail SET partition = 1 << 40 WHERE partition = 0", "index"),
    ("UPDATE tail SET start = -1 WHERE partition = 0", "size"),
    ("DELETE FROM trait WHERE number = (SELECT trait FROM fact WHERE id = {record})", "index"),
    ("DELETE FROM fact WHERE id = {record}", "index"),
    ("UPDATE trait SET frameworks = '[' WHERE frameworks != '[]'", "index"),
    ("UPDATE leaf SET text = 'no note' WHERE number = (SELECT max(number) FROM leaf)", "note"),
    ("DELETE FROM note WHERE size = (SELECT max(size) FROM note)", "note_missing"),
    ("UPDATE note SET size = -size WHERE size = (SELECT max(size) FROM note)", "note_missing"),
    ("UPDATE note SET text = x'ff' WHERE size = (SELECT max(size) FROM note)", "note"),
    ("UPDATE record SET raw = x'00' WHERE id = (SELECT max(id) FROM record)", "size"),
]


@pytest.mark.parametrize(("forgery", "code"), BESIDE, ids=[forgery for forgery, _ in BESIDE])
def test_what_lies_beside_records_is_verified_too(desk: Desk, tmp_path: Path, forgery: str, code: str) -> None:
    ledger, record = desk.house.ledger, entries(desk.house.ledger)[1]
    found = asyncio.run(_forged(ledger, tmp_path / "ledger.sqlite", forgery.format(record=record)))
    assert not found["valid"]
    assert code in found["counts"], found["counts"]


def test_no_proof_is_given_that_would_not_hold(desk: Desk, tmp_path: Path) -> None:
    ledger, path = desk.house.ledger, tmp_path / "ledger.sqlite"

    async def asked() -> None:
        await _forged(ledger, path, "UPDATE node SET hashes = zeroblob(length(hashes)) WHERE partition = 0")
        store = await SqliteLedgerStore.open(path, take_out)
        (row,) = await store.rows(0, entries(ledger)[1], 1)
        with pytest.raises(LedgerTampered):
            await proving.proof_of(store, row)
        await store.close()

    asyncio.run(asked())


async def _forged(ledger: MemoryLedger, path: Path, forgery: str) -> Integrity:
    """What verification says of the ledger in a store, after somebody wrote into its file."""
    store = await SqliteLedgerStore.open(path, take_out)
    await put_into(store, ledger)
    await store.close()
    with sqlite3.connect(path) as connection:
        assert connection.execute(forgery).rowcount > 0
    connection.close()
    store = await SqliteLedgerStore.open(path, take_out)
    found = await verification(ledger, store).verify()
    await store.close()
    return found


@pytest.mark.parametrize("place", [(0, 9_999), (9, 0)], ids=["behind the end", "in no partition"])
def test_a_record_that_is_no_part_of_the_ledger_is_found(desk: Desk, tmp_path: Path, place: tuple[int, int]) -> None:
    """Questions would give it, though no tree has it."""
    ledger, record, path = desk.house.ledger, entries(desk.house.ledger)[1], tmp_path / "ledger.sqlite"

    async def asked() -> Integrity:
        store = await SqliteLedgerStore.open(path, take_out)
        await put_into(store, ledger)
        assert (await verification(ledger, store).verify())["valid"]
        with sqlite3.connect(path) as connection:
            columns = [name for _, name, *_ in connection.execute("PRAGMA table_info (fact)")][1:]
            new = id_of(*place)
            connection.execute("INSERT INTO record SELECT ?, leaf, raw FROM record WHERE id = ?", (new, record))
            connection.execute(f"INSERT INTO fact SELECT ?, {', '.join(columns)} FROM fact WHERE id = ?", (new, record))  # noqa: S608  # its own columns
        connection.close()
        assert place in [(row.partition, row.number) for row in (await store.find(LedgerWanted(), limit=1_000))[1]]
        found = await verification(ledger, store).verify()
        await store.close()
        return found

    found = asyncio.run(asked())
    assert not found["valid"]
    assert [(one["code"], one["partition"], one["index"]) for one in found["findings"]] == [("index", *place)]


@pytest.mark.slow
def test_a_pruned_store_verifies(tmp_path: Path) -> None:
    house = Reading(tmp_path)
    for _ in range(13):
        house.entry("anna")
        house.ledger.checkpoint()
    house.wait_days(3000)
    house.entry("anna")

    async def asked() -> Integrity:
        await house.retention.run(operator="op-1", prune=True)
        house.ledger.checkpoint()
        start, house.ledger.partitions[0].start = house.ledger.partitions[0].start, 0
        store = await SqliteLedgerStore.open(tmp_path / "ledger.sqlite", take_out)
        await put_into(store, house.ledger)
        await store.prune(0, start)
        found = await verification(house.ledger, store).verify()
        await store.close()
        return found

    found = asyncio.run(asked())
    assert found["valid"], found["findings"]
    assert found["coverage"]["pruned"]["0"] > 12

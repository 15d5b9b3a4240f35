"""What the store's own verification says: of a whole ledger, of every attack on stored records, and what it counts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from pathlib import Path

import pytest
from tests.unit.ledgers import Opened, fill, new_ledger, relink, signer, standard, with_core
from tests.unit.readable_ledger import ReadableStore, Reading
from tests.unit.stored_ledger import LedgerClock

from tallyroll.adapters.crypto import is_signed
from tallyroll.audit.ledger import layout
from tallyroll.audit.ledger.layout import Kind, Record
from tallyroll.audit.ledger.records import Stretch
from tallyroll.audit.reading.integrity import Integrity, Trusted, Verification
from tallyroll.errors import KeyGone
from tallyroll.testing.ledger import MemoryLedger


class Keys:
    """The first MAC keys of a ledger in memory, as a ring would give them."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self._ledger = ledger

    def missing(self, handles: Collection[bytes]) -> Sequence[bytes]:  # noqa: ARG002  # as the port says
        return []

    def k0(self, writer: bytes, epoch: int) -> bytes:
        try:
            return self._ledger.k0[writer, epoch]
        except KeyError:
            raise KeyGone(writer) from None


def verify(
    ledger: MemoryLedger, *, quorum: int = 1, checkpoint: bool = False, notes: tuple[bytes, ...] = (), **period: datetime
) -> Integrity:
    async def note_now() -> None:
        if checkpoint:
            ledger.checkpoint()

    trusted = Trusted((str(ledger.key),), tuple(str(one.key) for one in ledger.witnesses), quorum, notes)
    verification = Verification(ReadableStore(ledger), Keys(ledger), trusted, is_signed, clock=LedgerClock(ledger), checkpoint=note_now)
    return asyncio.run(verification.verify(*period.values()))


@pytest.fixture
def ledger() -> MemoryLedger:
    made = fill(new_ledger(), 12)
    made.checkpoint()
    return made


def entries(ledger: MemoryLedger, partition: int = 0) -> list[int]:
    return [n for n, one in enumerate(ledger.partitions[partition].records) if layout.unpack_core(one.core).kind == Kind.ENTRY]


def test_an_untouched_ledger(ledger: MemoryLedger) -> None:
    found = verify(ledger)
    total = len(entries(ledger)) + len(entries(ledger, 1))
    assert found["valid"]
    assert (found["total_entries"], found["verified_entries"]) == (total, total)
    assert (found["broken_links"], found["integrity_failures"], found["findings"], found["first_bad_position"]) == (0, 0, [], None)
    assert found["snapshot"]["size"] == ledger.meta.size
    assert found["snapshot"]["partitions"]["0"] == ledger.partitions[0].tree.size
    assert found["coverage"]["macs"]
    assert found["coverage"]["witness"]
    assert not found["coverage"]["remembered_note"]


def test_what_is_not_noted_yet_is_noted_first(ledger: MemoryLedger) -> None:
    before = verify(ledger)["total_entries"]
    writer = ledger.enrol(b"writer-c")
    ledger.write(writer, 0, b"{}")
    assert verify(ledger)["total_entries"] == before
    beyond = sum(len(one.records) for one in ledger.partitions.values()) - sum(verify(ledger)["snapshot"]["partitions"].values())
    assert verify(ledger)["coverage"]["beyond_notes"] == beyond > 0, "the snapshot ends where the newest note does"
    assert verify(ledger, checkpoint=True)["total_entries"] == before + 1


def test_an_empty_ledger_is_valid_and_one_without_any_note_is_not(tmp_path: Path) -> None:
    ledger = new_ledger()
    assert "note_missing" in verify(ledger)["counts"]
    ledger.partitions = {}
    assert verify(ledger) == {**verify(ledger), "valid": True, "total_entries": 0}
    assert tmp_path.exists()


def test_the_period_says_what_is_counted_and_everything_is_verified(ledger: MemoryLedger) -> None:
    start = datetime.fromtimestamp(1_800_000_000, UTC)
    some = verify(ledger, start_time=start + timedelta(seconds=2), end_time=start + timedelta(seconds=4))
    assert (some["total_entries"], some["verified_entries"]) == (6, 6)
    assert some["coverage"]["entries"] == verify(ledger)["coverage"]["entries"]
    ledger.change(0, entries(ledger)[-1], lambda record: record._replace(env=b"{}"))
    found = verify(ledger, start_time=start + timedelta(seconds=2), end_time=start + timedelta(seconds=4))
    assert not found["valid"], "also where it is broken outside of the period"
    assert (found["total_entries"], found["verified_entries"]) == (6, 6)
    with pytest.raises(ValueError, match="start_time"):
        verify(ledger, start_time=datetime(2027, 1, 1))  # noqa: DTZ001  # that is the point


def core_changed(record: Record) -> Record:
    return with_core(record, ts_us=layout.unpack_core(record.core).ts_us + 1)


def _dropped(attack: Opened, index: int) -> Opened:
    del attack.records[0][index]
    return attack


def _inserted(attack: Opened, index: int) -> Opened:
    attack.records[0].insert(index, attack.records[0][index])
    return attack


def _swapped(attack: Opened, one: int, two: int) -> Opened:
    kept = attack.records[0]
    kept[one], kept[two] = kept[two], kept[one]
    return attack


ATTACKS: dict[str, tuple[Callable[[Opened, int], Opened], set[str]]] = {
    "A1 env": (lambda a, n: a.change(0, n, lambda one: one._replace(env=b"{}")), {"env_hash"}),
    "A2 core": (lambda a, n: a.change(0, n, core_changed), {"mac", "root", "link"}),
    "A3 ciphertext": (lambda a, n: a.change(0, n, lambda one: one._replace(parts=(bytes(30),))), {"part_hash"}),
    "A4 deleted": (_dropped, {"sequence", "size"}),
    "A5 repeated": (_inserted, {"duplicate", "root"}),
    "A6 order": (lambda a, n: _swapped(a, n, a.find(0, writer=b"writer-a", kind=0)[4]), {"order", "root"}),
    "A7 two writers swapped": (lambda a, n: _swapped(a, n, n + 1), {"root"}),
    "A8 chain recomputed": (
        lambda a, n: relink(a.change(0, n, lambda one: one._replace(env=b"{}")), 0, b"writer-a", lambda _, leaf: sha256(leaf).digest()),
        {"mac", "root"},
    ),
    "A9 MAC stripped": (lambda a, n: a.change(0, n, partial(Record._replace, mac=layout.NO_MAC)), {"mac_missing"}),
    "A13 env dropped": (lambda a, n: a.change(0, n, partial(Record._replace, env=None)), {"env_missing"}),
    "A14 part dropped": (lambda a, n: a.change(0, n, partial(Record._replace, parts=(None,))), {"part_missing"}),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_on_the_store_show_with_their_place(ledger: MemoryLedger, name: str) -> None:
    attack, codes = ATTACKS[name]
    changed = attack(Opened.of(ledger.export()), entries(ledger)[3] if "A7" not in name else _neighbours(ledger))
    ledger.partitions[0].records = changed.records[0]
    found = verify(ledger)
    assert not found["valid"]
    assert codes <= set(found["counts"])
    assert found["verified_entries"] < found["total_entries"]
    assert found["first_bad_position"].startswith("audit-events/0/")
    assert found["broken_links"] + found["integrity_failures"] == sum(found["counts"].values())
    assert {"code", "partition", "index", "seq", "detail"} <= set(found["findings"][0])


def _neighbours(ledger: MemoryLedger) -> int:
    opened = Opened.of(ledger.export())
    return next(n for n in entries(ledger)[3:] if opened.core(0, n).chain.writer != opened.core(0, n + 1).chain.writer)


def test_one_bad_record_is_taken_off_and_a_bad_root_takes_its_partition(ledger: MemoryLedger) -> None:
    index, total = entries(ledger)[3], verify(ledger)["total_entries"]
    ledger.change(0, index, lambda record: record._replace(env=b"{}"))
    found = verify(ledger)
    assert (found["verified_entries"], found["first_bad_position"]) == (total - 1, f"audit-events/0/{index}")
    assert (found["broken_links"], found["integrity_failures"]) == (0, 1)
    neighbours = _neighbours(ledger)
    kept = ledger.partitions[0].records
    kept[neighbours], kept[neighbours + 1] = kept[neighbours + 1], kept[neighbours]
    assert verify(ledger)["verified_entries"] == len(entries(ledger, 1))


def test_the_tail_cut_shows_by_the_note_and_notes_cut_show_by_a_remembered_one(ledger: MemoryLedger) -> None:
    seen = ledger.notes[-1].packed()
    del ledger.partitions[0].records[-2:]
    assert "size" in verify(ledger)["counts"]
    other = fill(new_ledger(), 4)
    other.checkpoint()
    assert verify(other, quorum=0)["valid"]
    assert "rolled_back" in verify(other, quorum=0, notes=(seen,))["counts"]


def test_a_logged_erasure_and_an_expiry_leave_it_valid(tmp_path: Path) -> None:
    house = Reading(tmp_path)
    for _ in range(3):
        house.entry("anna", subject="cust-123")
    asyncio.run(house.eraser.erase("cust-123"))
    assert verify(house.ledger, checkpoint=True)["valid"]
    house.wait_days(400)
    asyncio.run(house.retention.run(operator="op-1"))
    found = verify(house.ledger, checkpoint=True)
    assert found["valid"], found["findings"]
    assert found["verified_entries"] == found["total_entries"] == 3


def test_a_pruned_prefix_verifies_from_the_store(tmp_path: Path) -> None:
    house = Reading(tmp_path)
    for _ in range(7):
        house.entry("anna")
        house.ledger.checkpoint()
    house.wait_days(400)
    house.entry("anna")
    asyncio.run(house.retention.run(operator="op-1", prune=True))
    found = verify(house.ledger, checkpoint=True)
    assert found["valid"], found["findings"]
    assert found["coverage"]["pruned"] == {"0": house.ledger.partitions[0].start}
    house.ledger.retain("body", Stretch(0, 0, 1, 1, 1))
    assert house.ledger.partitions[0].start > 7


def test_a_ledger_whose_key_was_rotated_verifies_under_the_first_key(ledger: MemoryLedger) -> None:
    ledger.rotate(signer(seed=b"second"))
    ledger.checkpoint()
    ledger.checkpoint()
    assert verify(ledger)["valid"]


def test_a_missing_mac_key_is_said_and_another_one_is_found(ledger: MemoryLedger) -> None:
    key = next(iter(ledger.k0))
    k0 = ledger.k0.pop(key)
    found = verify(ledger)
    assert found["valid"]
    assert found["coverage"]["writer_epochs_with_keys"] == found["coverage"]["writer_epochs"] - 1
    ledger.k0[key] = sha256(k0).digest()
    assert "key_mismatch" in verify(ledger)["counts"]


def test_the_standard_attack_ledger_is_the_same_for_export_and_store() -> None:
    ledger, _ = standard()
    assert verify(ledger)["coverage"]["entries"] == verify(ledger)["coverage"]["macs_checked"]

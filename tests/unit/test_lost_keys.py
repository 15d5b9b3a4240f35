"""A key that is lost is told from one that was destroyed: by whom a trail is read, verified, reported and exported."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import shutil
import zipfile
from collections.abc import Collection, Sequence
from pathlib import Path

import pytest
from tests.unit.ledgers import signer
from tests.unit.readable_ledger import Reading
from tests.unit.stored_ledger import Killed, LedgerClock

from tallyroll.adapters.crypto import FileKeyRing, is_signed
from tallyroll.audit.compliance.library import library
from tallyroll.audit.ledger.contents import AuditEntry
from tallyroll.audit.reading.evidence import Evidence
from tallyroll.audit.reading.integrity import Integrity, Trusted, Verification
from tallyroll.audit.reading.ocsf import ocsf_event
from tallyroll.audit.reading.query import KEY_HOLDER, Reader, Wanted
from tallyroll.audit.reading.reader import LedgerReader
from tallyroll.audit.reading.report import Reporting
from tallyroll.audit.reading.report_page import report_page
from tallyroll.audit.reading.sheet import csv_lines
from tallyroll.audit.removal.lost_keys import LostKeys
from tallyroll.audit.verify.report import MAX_LISTED
from tallyroll.errors import KeyGone, KeyLost, KeyRingUnavailable, SubjectErased

CLERK = Reader("clerk-1")


class Ring:
    """The house's ring, with the MAC keys of its ledger; ``first`` is done before the ring says what it lacks."""

    def __init__(self, house: Reading) -> None:
        self._house = house
        self.first = lambda: None
        self.away = False

    def __getattr__(self, name: str) -> object:
        if self.away:
            raise KeyRingUnavailable("keys", "away")
        return getattr(self._house.ring, name)

    def k0(self, writer: bytes, epoch: int) -> bytes:
        try:
            return self._house.ledger.k0[writer, epoch]
        except KeyError:
            raise KeyGone(writer) from None

    def missing(self, handles: Collection[bytes]) -> Sequence[bytes]:
        if self.away:
            raise KeyRingUnavailable("keys", "away")
        self.first()
        return self._house.ring.missing(handles)


class Office:
    """A house, who reads and verifies in it, and copies of its ring."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.house = Reading(folder)
        self.house.begin()  # who erases has the store that can be cut
        self.ring = Ring(self.house)
        ledger, store, clock = self.house.ledger, self.house.store, LedgerClock(self.house.ledger)
        trusted = Trusted((str(ledger.key),), tuple(str(one.key) for one in ledger.witnesses), 1)
        self.reader = LedgerReader(store, self.ring, self.house.aes, clock=clock, record=self._nothing, catch_up=self._nothing)
        self.verification = Verification(store, self.ring, trusted, is_signed, clock=clock, checkpoint=self._checkpoint)
        lost = LostKeys(store, self.ring)
        self.reporting = Reporting(store, self.verification, library, lost=lost, keys=trusted.keys, clock=clock)
        self.evidence = Evidence(store, self.reporting, trusted, signer())

    async def _nothing(self, *_: object, **__: object) -> None: ...

    async def _checkpoint(self) -> None:
        self.house.ledger.checkpoint()

    def copy(self, name: str) -> Path:
        """A copy of the ring without its guard, as backups have it."""
        to = self.folder / name
        to.mkdir()
        for file in (self.house.path, self.house.path.with_name(f"{self.house.path.name}.recent")):
            shutil.copy(file, to / file.name)
        return to

    def put_back(self, copy: Path) -> None:
        for file in copy.iterdir():
            shutil.copy(file, self.house.path.with_name(file.name))

    def get(self, audit_id: str, reader: Reader = KEY_HOLDER) -> AuditEntry:
        return asyncio.run(self.reader.entry(audit_id, reader=reader))

    def verify(self) -> Integrity:
        return asyncio.run(self.verification.verify())

    def erase(self, name: str) -> None:
        asyncio.run(self.house.eraser.erase(name))


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path)


@pytest.fixture
def robbed(office: Office) -> tuple[Office, dict[str, str], Path]:
    """Four entries: one that every ring opens, one of a person who was erased, and two whose keys are lost; the newest ring."""
    made = {"kept": office.house.entry("anna", subject="cust-1", compliance_frameworks=["gdpr"])}
    made["erased"] = office.house.entry("anna", subject="cust-2", compliance_frameworks=["gdpr"])
    old = office.copy("old")
    made["lost"] = office.house.entry("anna", subject="cust-3", compliance_frameworks=["gdpr"])
    made["nobody"] = office.house.entry("anna", compliance_frameworks=["gdpr"])  # with a key of its own
    office.erase("cust-2")
    new = office.copy("new")
    office.put_back(old)
    return office, made, new


def test_an_entry_whose_key_is_lost_says_so_and_one_that_was_erased_says_that(robbed: tuple[Office, dict[str, str], Path]) -> None:
    office, made, new = robbed
    for lost in (made["lost"], made["nobody"]):
        entry = office.get(lost)
        assert (entry.user_id, entry.payload, entry.erased) == ("anna", {"key_lost": True}, ())
        assert {"payload", "description"} <= set(entry.key_lost)
        assert "user_id" not in entry.key_lost
        assert office.get(lost, CLERK).payload == {"key_lost": True}, "that it is lost may be known by everybody"
        with pytest.raises(KeyLost, match="lost"):
            asyncio.run(office.reader.clear_text(lost))
    erased = office.get(made["erased"])
    assert (erased.payload, erased.key_lost) == ({"erased": True}, ())
    with pytest.raises(SubjectErased):
        asyncio.run(office.reader.clear_text(made["erased"]))
    kept = office.get(made["kept"])
    assert (kept.erased, kept.key_lost, kept.payload["customer"]) == ((), (), "cust-1")
    assert [bool(one.key_lost) for one in asyncio.run(office.reader.query(Wanted())).entries] == [True, True, False, False]
    office.put_back(new)
    for lost, customer in (("lost", "cust-3"), ("nobody", "nobody")):
        assert office.get(made[lost]).payload["customer"] == customer
        assert office.get(made[lost]).key_lost == ()
    assert office.get(made["erased"]).payload == {"erased": True}, "the newest ring does not bring back who was forgotten"


def test_a_verification_counts_what_lost_its_key_and_says_what_to_do(robbed: tuple[Office, dict[str, str], Path]) -> None:
    office, made, new = robbed
    found = office.verify()
    assert (found["valid"], found["counts"]) == (False, {"key_lost": 2})
    assert (found["broken_links"], found["integrity_failures"]) == (0, 0)
    assert found["verified_entries"] == found["total_entries"] == 4, "what was recorded is all there, and proven"
    places = {(office.get(made[one]).partition, office.get(made[one]).index) for one in ("lost", "nobody")}
    assert {(one["partition"], one["index"]) for one in found["findings"]} == places
    for one in found["findings"]:
        assert one["severity"] == "loss"
        assert "put its newest copy back" in one["detail"]
    office.put_back(new)
    assert (office.verify()["valid"], office.verify()["findings"]) == (True, [])


def test_a_key_that_somebody_destroyed_beside_the_ledger_is_lost(office: Office) -> None:
    mine = office.house.entry("anna", subject="cust-1")
    office.house.ring.destroy([office.house.ring.handle_of("cust-1")])
    assert office.get(mine).payload == {"key_lost": True}
    assert office.verify()["counts"] == {"key_lost": 1}
    assert office.get(mine).erased == ()


def test_what_is_about_several_is_lost_with_the_key_of_one_and_erased_with_the_erasure_of_one(office: Office) -> None:
    for name in ("cust-1", "cust-2", "cust-3"):
        office.house.ring.subjects([name])
    office.house.write("cust-1", "cust-2")
    office.house.write("cust-1", "cust-3")
    office.house.write("cust-2", "cust-3")
    office.erase("cust-2")
    assert office.verify()["counts"] == {}
    office.house.ring.destroy([office.house.ring.handle_of("cust-3")])
    assert office.verify()["counts"] == {"key_lost": 1}
    gone = [(bool(one.erased), bool(one.key_lost)) for one in asyncio.run(office.reader.query(Wanted())).entries]
    assert gone == [(True, False), (False, True), (True, False)]


def test_an_entry_of_which_one_part_was_erased_and_another_lost_its_key_says_both(office: Office) -> None:
    mine = office.house.entry("anna", subject="cust-1")
    office.erase("cust-1")
    office.house.ring.destroy([office.house.ring.handle_of("anna")])
    entry = office.get(mine)
    assert entry.payload == {"erased": True, "key_lost": True}
    assert "user_id" in entry.key_lost
    assert "user_id" in entry.erased, "which of the two it was nobody can tell"


@pytest.mark.parametrize("cut", [0, 1, 2])
def test_an_erasure_that_was_cut_short_has_lost_no_key(office: Office, cut: int) -> None:
    mine = office.house.entry("anna", subject="cust-1")
    office.house.store.cut = cut
    with pytest.raises(Killed):
        office.erase("cust-1")
    office.house.store.cut = None
    assert office.verify()["counts"] == {}
    assert office.get(mine).key_lost == ()


def test_an_erasure_that_is_under_way_while_somebody_reads_has_lost_no_key(office: Office) -> None:
    mine = office.house.entry("anna", subject="cust-1")

    def erase() -> None:
        office.ring.first = lambda: None
        handle = office.house.ring.handle_of("cust-1")
        asyncio.run(office.house.eraser.erase("cust-1"))
        assert handle in office.house.ring.missing([handle])

    office.ring.first = erase
    assert office.get(mine).key_lost == ()


def test_a_key_that_went_with_its_part_when_its_time_was_over_is_not_lost(office: Office) -> None:
    """The keys of nobody known go before the parts, and an end may come between."""
    mine = office.house.entry(None, keep={"retention_class": 2})
    office.house.wait_days(31)
    other = office.house.entry(None, keep={"retention_class": 2})
    office.house.store.cut = 1
    with pytest.raises(Killed):
        asyncio.run(office.house.retention.run(operator="night job"))
    office.house.store.cut = None
    [gone] = office.house.ring.missing([bytes.fromhex(office.get(one).subjects[0]) for one in (mine, other)])
    assert gone.hex() in office.get(mine).subjects, "its key is gone, and its part is there"
    assert (office.get(mine).payload, office.get(mine).key_lost) == ({"erased": True}, ())
    assert "key_lost" not in office.verify()["counts"]
    office.house.ring.destroy([bytes.fromhex(office.get(other).subjects[0])])
    assert office.get(other).payload == {"key_lost": True}
    assert office.verify()["counts"]["key_lost"] == 1


def test_of_a_person_the_time_of_a_part_accounts_for_the_part_and_not_for_the_key(office: Office) -> None:
    mine = office.house.entry(None, subject="cust-1", keep={"retention_class": 2})
    office.house.wait_days(31)
    office.house.store.cut = 1
    with pytest.raises(Killed):
        asyncio.run(office.house.retention.run(operator="night job"))
    office.house.store.cut = None
    assert office.get(mine).payload["customer"] == "cust-1", "named by the registry, and not removed yet"
    office.house.ring.destroy([office.house.ring.handle_of("cust-1")])
    assert office.get(mine).payload == {"key_lost": True}
    assert office.verify()["counts"]["key_lost"] == 1
    asyncio.run(office.house.retention.run(operator="night job"))
    assert (office.get(mine).payload, office.get(mine).key_lost) == ({"erased": True}, ()), "of what is removed no key is missed"
    assert "key_lost" not in office.verify()["counts"]


def test_who_reads_what_is_in_clear_needs_no_ring(robbed: tuple[Office, dict[str, str], Path]) -> None:
    office, made, _ = robbed
    office.ring.away = True
    assert office.get(made["lost"], CLERK).key_lost == ()
    with pytest.raises(KeyRingUnavailable):
        office.get(made["lost"])


def test_exports_reports_and_packs_say_which_keys_are_lost(robbed: tuple[Office, dict[str, str], Path], tmp_path: Path) -> None:
    office, made, new = robbed
    entry = office.get(made["lost"])
    head, row = csv.reader(io.StringIO("".join(csv_lines([entry]))))
    cells = dict(zip(head, row, strict=True))
    assert (cells["erased"], cells["payload"]) == ("", '{"key_lost": true}')
    assert "description" in cells["key_lost"]
    assert "description" in ocsf_event(entry, ledger="here")["unmapped"]["key_lost"]

    pack = tmp_path / "pack.zip"
    packed = asyncio.run(office.evidence.write(pack, "gdpr"))
    with zipfile.ZipFile(pack) as zipped:
        rows = {one["audit_id"]: one for one in csv.DictReader(io.StringIO(zipped.read("entries.csv").decode()))}
        events = [json.loads(line) for line in zipped.read("entries.ocsf.jsonl").splitlines()]
    said = {name: (bool(rows[audit_id]["erased"]), bool(rows[audit_id]["key_lost"])) for name, audit_id in made.items()}
    assert said == {"kept": (False, False), "erased": (True, False), "lost": (False, True), "nobody": (False, True)}
    assert sum("key_lost" in one["unmapped"] for one in events) == 2
    assert packed.report["integrity_certificate"]["counts"] == {"key_lost": 2}
    assert "keys of 2 records" in packed.report["recommendations"][0]
    assert not any("does not verify" in one for one in packed.report["recommendations"])
    page = report_page(packed.report)
    assert "verifies, and lacks keys" in page
    assert "does not verify" not in page
    office.put_back(new)
    assert "lacks keys" not in report_page(asyncio.run(office.reporting.report("gdpr")))


def test_all_of_many_are_counted_and_some_are_listed(office: Office) -> None:
    office.house.pause = 0
    for _ in range(MAX_LISTED + 5):
        office.house.entry(None, subject="cust-1")
    office.house.ring.destroy([office.house.ring.handle_of("cust-1")])
    found = office.verify()
    assert found["counts"] == {"key_lost": MAX_LISTED + 5}
    assert len(found["findings"]) == MAX_LISTED


def test_a_ring_of_another_ledger_opens_nothing_and_everything_is_lost(office: Office, tmp_path: Path) -> None:
    made = [office.house.entry("anna", subject="cust-1"), office.house.entry("bert")]
    office.house.ring = FileKeyRing(tmp_path / "other" / "keys", b"s" * 32)
    assert [office.get(one).payload for one in made] == [{"key_lost": True}] * 2
    assert office.verify()["counts"] == {"key_lost": 2}

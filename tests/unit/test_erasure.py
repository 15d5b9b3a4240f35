"""A person is forgotten: nobody can read what was sealed about them, the proofs stay valid, and an erasure survives its own end."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.unit.ledgers import signer
from tests.unit.stored_ledger import House, Killed

from tallyroll.adapters.crypto import is_signed
from tallyroll.audit.ledger import note
from tallyroll.audit.ledger.layout import unpack_core
from tallyroll.audit.ledger.note import NoteKey
from tallyroll.audit.ledger.subjects import text_of
from tallyroll.errors import KeyGone


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def erase(house: House, subject: str = "cust-123", **options: object):
    return asyncio.run(house.eraser.erase(subject, **options))


def readable(house: House, index: int, part: int = 0) -> bool:
    record = house.records()[index]
    if record.parts[part] is None:
        return False
    try:
        text_of(house.ring, house.aes, record, part)
    except KeyGone:
        return False
    return True


def test_parts_and_keys_go_and_the_proofs_stay(house: House) -> None:
    mine = [house.write("cust-123"), house.write("cust-123", partition=0)]
    ours, theirs = house.write("cust-123", "cust-77"), house.write("cust-77")
    assert house.findings() == {}
    receipt = erase(house)
    assert receipt.state == "done"
    assert (receipt.entries, receipt.parts_removed) == (3, 3)
    assert "cust" not in repr(receipt)
    assert not any(readable(house, index) for index in [*mine, ours])
    assert readable(house, theirs)
    assert house.ring.handle_of("cust-123") is None
    assert house.findings() == {}


def test_a_removal_that_no_erasure_names_is_found(house: House) -> None:
    index = house.write("cust-77")
    house.write("cust-123")
    erase(house)
    house.ledger.drop_part(0, index, 0)
    assert "part_missing" in house.findings()


def test_the_certificate_is_signed_and_names_nobody(house: House) -> None:
    house.write("cust-123")
    receipt = erase(house)
    certificate = note.parse(receipt.certificate.encode())
    assert certificate.signed_by(NoteKey(signer().name, note.ED25519, signer().public), is_signed)
    assert receipt.request_id in certificate.text
    assert "cust-123" not in receipt.certificate
    assert receipt.copies_until is not None


def test_asking_again_finds_nothing_and_harms_nobody(house: House) -> None:
    house.write("cust-123")
    erase(house)
    again = erase(house)
    assert again.state == "nothing_found"
    assert erase(house, "never-seen").state == "nothing_found"
    assert house.findings() == {}


def test_who_comes_back_is_sealed_under_a_new_key_and_can_go_again(house: House) -> None:
    house.write("cust-123")
    erase(house)
    back = house.write("cust-123")
    assert readable(house, back)
    assert erase(house).entries == 1
    assert not readable(house, back)
    assert house.findings() == {}


class TestDeep:
    def test_free_text_that_names_the_person_goes_and_other_text_stays(self, house: House) -> None:
        named, other = house.write(text="called cust-123 back"), house.write(text="called cust-1234 and xcust-123 back")
        elses = house.write("cust-77", text="cust-77 paid for cust-123")
        plain = house.write_plain("about cust-123")
        receipt = erase(house)
        assert (receipt.state, receipt.entries) == ("done", 3)
        assert [readable(house, index) for index in (named, other, elses, plain)] == [False, True, False, False]
        handle = unpack_core(house.records()[named].core).parts[0].handle
        with pytest.raises(KeyGone):
            house.ring.key(handle)
        assert house.ring.handle_of("cust-77") is not None, "another's key is not destroyed"
        assert house.findings() == {}

    def test_a_shallow_erasure_leaves_it(self, house: House) -> None:
        named = house.write(text="called cust-123 back")
        assert erase(house, deep=False).state == "nothing_found"
        assert readable(house, named)

    def test_names_in_clear_are_counted(self, house: House) -> None:
        house.write("cust-123", clear="cust-123")
        house.write(clear="cust-123")
        assert erase(house).in_clear == 2


class TestAgainst:
    @pytest.mark.parametrize("how", ["person", "stretch", "everything"])
    def test_a_hold_restricts_and_is_named(self, house: House, how: str) -> None:
        index = house.write("cust-123")
        group = house.write("cust-123", "cust-77")
        where = {"person": {"subject": "cust-123"}, "stretch": {"partition": 0, "start": index, "end": index + 1}, "everything": {}}[how]
        holds = asyncio.run(house.retention.set_hold(who="counsel", why="case 7", **where))
        receipt = erase(house)
        assert receipt.state == "restricted"
        assert receipt.restricted == f"hold {holds[0]}" or how != "person"
        assert readable(house, index)
        assert readable(house, group)
        assert bytes.fromhex(receipt.handles[0]) in asyncio.run(house.eraser.standing()).restricted
        assert house.findings() == {}
        asyncio.run(house.retention.release_hold(holds[0], who="counsel", why="closed"))
        assert erase(house).state == "done"
        assert not readable(house, index)
        assert asyncio.run(house.eraser.standing()).restricted == {}
        assert house.findings() == {}

    def test_a_binding_rule_restricts_until_its_day(self, tmp_path: Path) -> None:
        house = House(tmp_path, binding=["SOX-001"])
        house.write("cust-123", rule_ids=["SOX-001"], keep_days=10)
        assert erase(house).restricted == "rule SOX-001"
        house.wait_days(12)
        assert erase(house).state == "done"
        assert house.findings() == {}

    def test_a_hold_on_another_restricts_nothing(self, house: House) -> None:
        house.write("cust-123")
        house.write("cust-77")
        asyncio.run(house.retention.set_hold(who="counsel", why="case 7", subject="cust-77"))
        assert erase(house).state == "done"

    def test_a_hold_on_who_is_not_known(self, house: House) -> None:
        with pytest.raises(LookupError):
            asyncio.run(house.retention.set_hold(who="counsel", why="case 7", subject="nobody"))
        with pytest.raises(LookupError):
            asyncio.run(house.retention.release_hold("no such hold", who="counsel", why="closed"))


def changes_of(house: House) -> int:
    house.store.cut = 1_000
    erase(house)
    return 1_000 - house.store.cut


def people(house: House) -> list[int]:
    return [house.write("cust-123"), house.write("cust-123", "cust-77"), house.write(text="for cust-123")]


def test_a_crash_at_any_step_leaves_a_ledger_that_verifies_and_an_erasure_that_ends(tmp_path: Path) -> None:
    counting = House(tmp_path / "counting")
    people(counting)
    for stop in range(changes_of(counting)):
        house = House(tmp_path / str(stop))
        indexes = people(house)
        house.store.cut = stop
        with pytest.raises(Killed):
            erase(house)
        house.store.cut = None
        assert house.findings() == {}, f"after step {stop}"
        asyncio.run(house.eraser.resume())
        if stop == 0:
            assert erase(house).state == "done", "nothing had been asked for durably"
        assert not any(readable(house, index) for index in indexes)
        assert asyncio.run(house.eraser.standing()).pending == {}
        assert all(house.records()[index].parts == (None,) for index in indexes), f"after step {stop}"
        assert house.findings() == {}


def test_a_ring_from_before_is_put_back_and_the_erasure_holds(house: House, tmp_path: Path) -> None:
    index = house.write("cust-123")
    old = {file: file.read_bytes() for file in tmp_path.iterdir() if file.name.startswith("keys") and file.is_file()}
    erase(house)
    house.ring.close()
    for file, content in old.items():
        file.write_bytes(content)  # guard and all: a whole machine taken back
    house.begin()
    assert house.ring.handle_of("cust-123") is not None
    asyncio.run(house.eraser.resume())
    assert house.ring.handle_of("cust-123") is None
    assert not readable(house, index)


class Store:
    name = "elsewhere"

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.away = True

    async def forget(self, subject, _handles) -> int:
        if self.away:
            raise ConnectionError
        self.asked.append(subject)
        return 1


def test_a_store_that_is_away_is_pending_and_asked_again(tmp_path: Path) -> None:
    other = Store()
    house = House(tmp_path, targets=[other])
    house.write("cust-123")
    receipt = erase(house)
    assert (receipt.state, receipt.pending) == ("pending", ("elsewhere",))
    other.away = False
    assert erase(house).state == "done"
    assert other.asked == ["cust-123"]


def test_what_comes_late_is_swept(house: House) -> None:
    house.write("cust-123")
    part = house.ring.subjects(["cust-123"])[0]
    late = house.ledger.seal(house.writer, 0, _draft(house, part))
    erase(house)
    house.ledger.offer(*late)
    index = len(house.records()) - 1
    assert house.records()[index].parts[0] is not None
    run = asyncio.run(house.retention.run(operator="op-1"))
    assert run.swept == 1
    assert house.records()[index].parts == (None,)
    assert house.findings() == {}


def _draft(house: House, key):
    from tallyroll.audit.ledger.chain import Draft, Part
    from tallyroll.audit.ledger.layout import Kind, PartType
    from tallyroll.testing.ledger import DAY_US

    return Draft(Kind.ENTRY, b"{}", [Part(PartType.SUBJECT, key.handle, key.key, b"{}")], 1, house.ledger.now_us // DAY_US + 9)

"""A ledger that was replaced as a whole, or deleted and made anew: what those say of it who have cosigned the one before."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from hashlib import sha256
from pathlib import Path

import pytest
from tests.flows.sealing import House, Running

from tallyroll.adapters.crypto import Ed25519Signer, is_signed
from tallyroll.adapters.sqlite.ledger_store import SqliteLedgerStore
from tallyroll.audit.ledger.layout import META, take_out
from tallyroll.audit.ledger.note import ED25519, NoteKey
from tallyroll.audit.reading.integrity import Integrity, Trusted, Verification
from tallyroll.audit.reading.witnessed import ask_all
from tallyroll.audit.sealing.witnessing import KeptWitness
from tallyroll.errors import WitnessUnavailable
from tallyroll.opening import file_witness


class Away:
    """A witness that is asked and does not answer; ``said``: what it answers instead."""

    name = "w.example"

    def __init__(self, said: bytes | None = None) -> None:
        self._said = said

    async def add(self, *_: object) -> bytes:
        if self._said is None:
            raise WitnessUnavailable(self.name, "timed out")
        return self._said

    async def close(self) -> None: ...


@pytest.fixture
async def house(tmp_path: Path) -> House:
    house = await House.open(tmp_path / "house")
    yield house
    await house.store.close()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> None:
    (tmp_path / "house").mkdir()


@pytest.fixture
def witness(tmp_path: Path, house: House) -> KeptWitness:
    return file_witness(tmp_path / "witness", [house.key])


async def grow(house: House, *witnesses: KeptWitness, times: int = 2) -> None:
    """A sealer at work, whose checkpoints are cosigned."""
    running = await Running(house, witnesses=witnesses).hold()
    for _ in range(times):
        house.say()
        house.clock.advance(5)
        await running.seal()
        await running.note()
        await running.checkpoints.witness()
    await running.stop()
    await running.checkpoints.note()
    await running.checkpoints.witness()


async def begin_anew(house: House) -> None:
    """The ledger is deleted; its keys and the log are kept."""
    await house.store.close()
    for path in house.folder.glob("ledger.sqlite*"):
        path.unlink()
    house.store = await SqliteLedgerStore.open(house.path, take_out)


async def verified(house: House, *witnesses: object, known: Sequence[str] = ()) -> Integrity:
    trusted = Trusted((house.key,), tuple(known))
    keys = [NoteKey.parse(one) for one in known]
    asked = partial(ask_all, witnesses, house.store, house.signer, keys, is_signed)
    verification = Verification(
        house.store, house.ring, trusted, is_signed, clock=house.clock, checkpoint=house.store.sizes, witnesses=asked
    )
    return await verification.verify()


async def test_a_ledger_that_goes_on_from_what_its_witness_has_seen(house: House, witness: KeptWitness) -> None:
    await grow(house, witness)
    found = await verified(house, witness, known=[str(witness.key)])
    assert (found["valid"], found["counts"]) == (True, {})
    assert found["coverage"]["witnesses"] == {witness.name: found["snapshot"]["size"]}
    before = found["snapshot"]["size"]
    await grow(house)  # the witness was away meanwhile
    found = await verified(house, witness)
    assert (found["valid"], found["counts"]) == (True, {})
    assert found["coverage"]["witnesses"] == {witness.name: before}
    assert before < found["snapshot"]["size"]


async def test_a_ledger_that_was_deleted(house: House, witness: KeptWitness) -> None:
    await grow(house, witness)
    await begin_anew(house)
    assert (await verified(house))["valid"], "nobody who is asked knows better"
    found = await verified(house, witness)
    assert (found["valid"], found["counts"], found["integrity_failures"]) == (False, {"rolled_back": 1}, 1)
    assert [one["partition"] for one in found["findings"]] == [META]


@pytest.mark.parametrize(("times", "code"), [(1, "rolled_back"), (6, "split_view")])
async def test_a_ledger_that_was_made_anew_from_the_log(house: House, witness: KeptWitness, times: int, code: str) -> None:
    await grow(house, witness, times=3)
    await begin_anew(house)
    await grow(house, times=times)
    plain = await verified(house)
    assert (plain["valid"], plain["coverage"]["witnesses"]) == (True, {})
    found = await verified(house, witness)
    assert (found["valid"], found["counts"]) == (False, {code: 1})
    assert found["verified_entries"] == 0


async def test_another_ledger_under_another_key(house: House, witness: KeptWitness) -> None:
    await grow(house, witness)
    house.signer = Ed25519Signer(house.signer.name, sha256(b"another").digest())
    await begin_anew(house)
    await grow(house)
    assert str(NoteKey(house.signer.name, ED25519, house.signer.public)) == house.key
    found = await verified(house, witness)
    assert (found["valid"], found["counts"]) == (False, {"witness": 1})


async def test_nodes_that_are_missing_are_no_proof(house: House, witness: KeptWitness) -> None:
    await grow(house, witness)
    await grow(house)
    with closing(sqlite3.connect(house.path)) as connection, connection:
        connection.execute("CREATE TABLE aside AS SELECT * FROM node WHERE partition = ?", (META,))
        assert connection.execute("DELETE FROM node WHERE partition = ?", (META,)).rowcount > 0
    found = await verified(house, witness)
    assert (found["valid"], found["counts"]) == (False, {"split_view": 1, "index": 1})
    assert found["coverage"]["witnesses"] == {witness.name: None}, "it vouches for nothing"
    with closing(sqlite3.connect(house.path)) as connection, connection:
        connection.execute("INSERT INTO node SELECT * FROM aside")
        connection.execute("DROP TABLE aside")
    found = await verified(house, witness)
    assert (found["valid"], found["counts"]) == (True, {}), "nothing else was wrong"
    assert found["coverage"]["witnesses"][witness.name] < found["snapshot"]["size"], "and it had not taken it meanwhile"


async def test_a_witness_that_knows_nothing_yet_is_told_apart_and_learns_nothing_by_being_asked(house: House, witness: KeptWitness) -> None:
    await grow(house)
    for _ in range(2):
        found = await verified(house, witness)
        assert (found["valid"], found["coverage"]["witnesses"]) == (True, {witness.name: 0})


async def test_a_witness_that_is_away_is_a_warning_and_one_that_is_another_a_finding(house: House, witness: KeptWitness) -> None:
    await grow(house, witness)
    found = await verified(house, Away(), witness)
    assert (found["valid"], found["counts"]) == (True, {"witness_away": 1})
    assert found["coverage"]["witnesses"] == {"w.example": None, witness.name: found["snapshot"]["size"]}
    other = Ed25519Signer("w.example", sha256(b"w").digest())
    line = await witness.add(found["snapshot"]["size"], found["snapshot"]["note"].encode(), [])
    assert (await verified(house, Away(b"<html>")))["counts"] == {"witness_away": 1}
    assert (await verified(house, Away(line), known=[str(witness.key)]))["valid"]
    assert (await verified(house, Away(line), known=[str(NoteKey(other.name, 4, other.public))]))["counts"] == {"note_signature": 1}

"""The file witness and the one over HTTP keep the contract of witnesses, and their cosignatures hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.flows.sealing import House, Running
from tests.patience import PATIENCE_S

from tallyroll.adapters.crypto import Ed25519Signer, is_signed
from tallyroll.adapters.http.server import Answer, served
from tallyroll.adapters.http.witness import HttpWitness
from tallyroll.audit.ledger import note
from tallyroll.audit.ledger.note import ED25519, Checkpoint, NoteKey
from tallyroll.audit.sealing.witnessing import PATH, KeptWitness, answer_to, read_request
from tallyroll.errors import SettingsError, Undecodable, WitnessUnavailable
from tallyroll.opening import file_witness, open_witnesses
from tallyroll.ports import Witness
from tallyroll.settings import Settings
from tallyroll.testing.witness_contract import CASES, Case


def name_of(case: object) -> str:
    return case.__name__


class Served:
    """Witnesses over HTTP, each on a folder of its own process."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.stack = stack

    def serve(self, key: str) -> str:
        kept = file_witness(self.folder, [key])
        return self.stack.enter_context(served("127.0.0.1", 0, {}, setting="--listen", posts={PATH: lambda body: answered(kept, body)}))

    async def open(self, key: str) -> HttpWitness:
        return HttpWitness(self.serve(key))


def answered(kept: KeptWitness, body: bytes) -> Answer:
    status, text = answer_to(kept, body)
    return Answer(status, "text/plain", text)


@pytest.fixture
def over_http(tmp_path: Path) -> Iterator[Served]:
    with ExitStack() as stack:
        yield Served(tmp_path / "witness", stack)


@pytest.mark.parametrize("case", CASES, ids=name_of)
async def test_in_a_folder(case: Case, tmp_path: Path) -> None:
    async def opener(key: str) -> KeptWitness:
        return file_witness(tmp_path / "witness", [key])

    await case(opener, Ed25519Signer)


def by_its_setting(folder: Path, key: str) -> Witness:
    (witness,) = open_witnesses(Settings(url="sqlite://:memory:", audit_witness=f"file:{folder}"), key)
    return witness


@pytest.mark.parametrize("case", CASES, ids=name_of)
async def test_in_a_folder_that_is_opened_when_it_is_first_asked(case: Case, tmp_path: Path) -> None:
    async def opener(key: str) -> Witness:
        return by_its_setting(tmp_path / "witness", key)

    await case(opener, Ed25519Signer)


async def test_one_that_cannot_be_opened_is_away_until_it_can(tmp_path: Path) -> None:
    signer = Ed25519Signer("log/1", sha256(b"log").digest())
    witness = by_its_setting(tmp_path / "witness", str(NoteKey("log/1", ED25519, signer.public)))
    signed = note.sign(Checkpoint("log/1", 1, bytes(32)).text(), [signer]).packed()
    (tmp_path / "witness").write_text("no folder")
    with pytest.raises(WitnessUnavailable, match=f"witness tallyroll/witness: {tmp_path}/witness/key: "):
        await witness.add(0, signed, ())
    (tmp_path / "witness").unlink()
    assert (await witness.add(0, signed, ())).startswith("— tallyroll/witness ".encode())


@pytest.mark.server
@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=name_of)
async def test_over_http(case: Case, over_http: Served) -> None:
    await case(over_http.open, Ed25519Signer)


async def test_the_contract_notices_a_witness_that_forgets(tmp_path: Path) -> None:
    opened = iter(range(9))

    async def opener(key: str) -> KeptWitness:
        return file_witness(tmp_path / str(next(opened)), [key])

    broken = next(case for case in CASES if case.__name__ == "it_remembers_after_a_restart")
    with pytest.raises(AssertionError):
        await broken(opener, Ed25519Signer)


async def test_a_memory_that_cannot_be_written_gives_no_cosignature(tmp_path: Path) -> None:
    signer = Ed25519Signer("log/1", sha256(b"log").digest())
    kept = file_witness(tmp_path / "witness", [str(NoteKey("log/1", ED25519, signer.public))])
    (tmp_path / "witness" / "seen.tmp").mkdir()
    with pytest.raises(WitnessUnavailable):
        await kept.add(0, note.sign(Checkpoint("log/1", 1, bytes(32)).text(), [signer]).packed(), ())


def test_what_is_no_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError):
        file_witness(tmp_path / "witness", ["no key"])
    assert not (tmp_path / "witness").exists(), "nothing is made before the words are looked at"


@given(
    st.binary(max_size=200) | st.builds(lambda text, rest: f"old {text}\n\n".encode() + rest, st.text(max_size=25), st.binary(max_size=9))
)
def test_any_request_is_read_or_refused(raw: bytes) -> None:
    try:
        asked = read_request(raw)
    except Undecodable:
        return
    assert raw.startswith(b"old %d\n" % asked.old_size)


@pytest.mark.server
@pytest.mark.slow
@pytest.mark.parametrize(("path", "length", "status"), [("/elsewhere", None, 404), (PATH, 1 << 20, 413), (PATH, None, 400)])
def test_what_is_posted_is_bounded(over_http: Served, path: str, length: int | None, status: int) -> None:
    key = str(NoteKey("log/1", ED25519, Ed25519Signer("log/1", bytes(32)).public))
    headers = {} if length is None else {"Content-Length": str(length)}
    request = Request(over_http.serve(key) + path, b"xxx", headers, method="POST")  # noqa: S310  # our own server
    with pytest.raises(HTTPError) as caught:
        urlopen(request, timeout=PATIENCE_S)  # noqa: S310  # as above
    with caught.value as answer:
        assert answer.status == status


async def reopened(house: House) -> House:
    again = await House.open(house.folder)
    again.log, again.events = house.log, house.events
    return again


async def test_a_ledger_that_is_rolled_back_is_not_cosigned_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "house").mkdir()
    house = await House.open(tmp_path / "house")
    witness = file_witness(tmp_path / "witness", [house.key])
    running = await Running(house, witnesses=[witness]).hold()
    house.say()
    await running.seal()
    await running.note()
    await house.store.close()
    backup = house.path.read_bytes()
    house = await reopened(house)
    running = await Running(house, witnesses=[witness]).hold()
    house.say()
    await running.seal()
    await running.upkeep.finish()
    report = await house.report(witnesses=[str(witness.key)])
    assert dict(report.counts) == {}
    assert report.coverage["witnessed_size"] == report.coverage["leaves"]
    await house.store.close()
    house.path.write_bytes(backup)
    for path in house.path.parent.glob("ledger.sqlite-*"):
        path.unlink()
    again = await reopened(house)
    rolled_back = await Running(again, witnesses=[witness]).hold()
    await rolled_back.seal()
    await rolled_back.checkpoints.note()
    await rolled_back.checkpoints.witness()
    assert "409" in again.refusals[0]
    await again.store.close()


def test_a_cosignature_holds(tmp_path: Path) -> None:
    signer = Ed25519Signer("log/1", sha256(b"log").digest())
    kept = file_witness(tmp_path / "witness", [str(NoteKey("log/1", ED25519, signer.public))])
    signed = note.sign(Checkpoint("log/1", 1, bytes(32)).text(), [signer])
    line = note.cosignature_in(kept.add_now(0, signed.packed(), ()))
    assert note.Note(signed.text, (line,)).signed_by(kept.key, is_signed)


@pytest.mark.parametrize("damage", [b"xx", b"\xc1", b"\x81\xa1a\x01"])
async def test_what_it_cannot_read_it_does_not_take_for_nothing_remembered(tmp_path: Path, damage: bytes) -> None:
    """Else who damages its memory has made it forget, and it cosigns another history."""
    signer = Ed25519Signer("ledger", sha256(b"log").digest())
    witness = file_witness(tmp_path, [str(NoteKey("ledger", ED25519, signer.public))])
    signed = note.sign(Checkpoint("ledger", 1, bytes(32)).text(), [signer]).packed()
    await witness.add(0, signed, [])
    (tmp_path / "seen").write_bytes(damage)
    with pytest.raises(WitnessUnavailable, match="restore it"):
        await witness.add(0, signed, [])
    assert (tmp_path / "seen").read_bytes() == damage

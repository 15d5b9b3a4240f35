"""A key ring that another host keeps: it keeps the contract, and whoever carries its messages learns and changes nothing."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from http import HTTPStatus
from pathlib import Path

import pytest
from tests.environment import environment
from tests.patience import PATIENCE_S, READ_WAIT_MS

from tallyroll import Roll
from tallyroll.adapters.crypto import AesGcm, FileKeyRing, RemoteKeyRing, RingKeeper, SecretRoot
from tallyroll.adapters.http.key_ring import PATH, HttpKeyRing
from tallyroll.adapters.http.server import Answer, served
from tallyroll.errors import KeyRingUnavailable, SealingRequired, SettingsError
from tallyroll.ports import KeyRing
from tallyroll.settings import Secret, Settings
from tallyroll.testing.key_ring_contract import CASES, SEALING_CASES, Case, SealingCase

ROOT = SecretRoot(sha256(b"secret of the tests").digest())
NOW_US = 1_800_000_000_000_000


def name_of(case: object) -> str:
    return case.__name__


class Wire:
    """Carries questions, and remembers them as an eavesdropper would; ``change`` alters an answer on its way."""

    def __init__(self, ring: KeyRing) -> None:
        self.keeper = RingKeeper(ring, ROOT)
        self.questions: list[bytes] = []
        self.answers: list[bytes] = []
        self.change: Callable[[bytes], bytes] = lambda answer: answer

    def carry(self, question: bytes) -> bytes:
        self.questions.append(question)
        self.answers.append(self.keeper.answer(question))
        return self.change(self.answers[-1])


@pytest.fixture
def wire(tmp_path: Path) -> Wire:
    return Wire(FileKeyRing(tmp_path / "ring", ROOT))


@pytest.fixture
def ring(wire: Wire) -> RemoteKeyRing:
    return RemoteKeyRing("elsewhere", ROOT, wire.carry)


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_the_contract(wire: Wire, case: Case) -> None:
    case(lambda: RemoteKeyRing("elsewhere", ROOT, wire.carry))


@pytest.mark.parametrize("case", SEALING_CASES, ids=name_of)
def test_the_contract_of_sealing(wire: Wire, case: SealingCase) -> None:
    case(lambda: RemoteKeyRing("elsewhere", ROOT, wire.carry), AesGcm())


@contextmanager
def serving(keeper: RingKeeper) -> Iterator[str]:
    def answer(question: bytes) -> Answer:
        try:
            return Answer(HTTPStatus.OK, "application/octet-stream", keeper.answer(question))
        except ValueError:
            return Answer(HTTPStatus.FORBIDDEN, "text/plain", b"no\n")

    with served("127.0.0.1", 0, {}, setting="test", posts={PATH: answer}) as url:
        yield url


def test_over_http_also_what_is_large(tmp_path: Path) -> None:
    kept = FileKeyRing(tmp_path / "ring", ROOT)
    with serving(RingKeeper(kept, ROOT)) as url:
        ring = RemoteKeyRing("elsewhere", ROOT, HttpKeyRing(url).carry)
        names = [f"customer-{number:05}-{'x' * 100}" for number in range(3_000)]
        assert [key.key for key in ring.subjects(names)] == [kept.key(kept.handle_of(name)) for name in names]
        assert len({key.key for key in ring.draw(8_192)}) == 8_192
        other = HttpKeyRing(url)
        with pytest.raises(KeyRingUnavailable, match="secret"):
            RemoteKeyRing("elsewhere", SecretRoot(b"y" * 32), other.carry).draw(1)
    with pytest.raises(KeyRingUnavailable, match="does not answer"):
        ring.draw(1)


def test_nobody_on_the_way_reads_a_name_or_a_key(wire: Wire, ring: RemoteKeyRing) -> None:
    (key,) = ring.subjects(["anna-canary"])
    enrolled = ring.enrol(NOW_US)
    for message in [*wire.questions, *wire.answers]:
        assert not [secret for secret in (b"canary", key.key, key.handle, enrolled.k0, enrolled.token.encode()) if secret in message]
    assert "anna" not in repr(ring)


def test_a_question_that_is_asked_again_does_nothing(wire: Wire, ring: RemoteKeyRing) -> None:
    """Somebody has recorded the question after a person's key, and asks it when the person was forgotten."""
    (key,) = ring.subjects(["anna"])
    recorded = [*wire.questions]
    ring.destroy([key.handle])
    for question in recorded:
        wire.keeper.answer(question)
    assert ring.handle_of("anna") is None
    epoch = ring.enrol(NOW_US)
    recorded = [*wire.questions]
    for question in recorded:
        wire.keeper.answer(question)
    assert ring.enrol(NOW_US, writer=epoch.writer).epoch == epoch.epoch + 1, "nor was an epoch given to nobody"


def test_an_answer_to_another_question_is_none(wire: Wire, ring: RemoteKeyRing) -> None:
    ring.subjects(["anna"])
    for wrong in (wire.answers[-1], b"", b"TRKA1", os.urandom(200), wire.questions[-1]):
        wire.change = lambda _, wrong=wrong: wrong
        with pytest.raises(KeyRingUnavailable):
            ring.handle_of("bert")
    wire.change = lambda answer: answer[:-1] + bytes([answer[-1] ^ 1])
    with pytest.raises(KeyRingUnavailable):
        ring.handle_of("bert")
    wire.change = lambda answer: answer
    assert ring.handle_of("bert") is None


def test_who_has_another_root_is_told_nothing_and_does_nothing(wire: Wire, tmp_path: Path) -> None:
    before = (tmp_path / "ring").read_bytes()
    stranger = RemoteKeyRing("elsewhere", SecretRoot(b"x" * 32), wire.carry)
    for ask in (lambda: stranger.draw(1), lambda: stranger.destroy([b"h" * 16]), stranger.rotate):
        with pytest.raises(KeyRingUnavailable):
            ask()
    for noise in (b"", b"TRKQ1", os.urandom(100), b"TRKQ1" + os.urandom(100)):
        with pytest.raises(ValueError, match="not a message"):
            wire.keeper.answer(noise)
    assert (tmp_path / "ring").read_bytes() == before


def test_a_keeper_that_begins_anew_and_many_that_ask_are_no_trouble(tmp_path: Path) -> None:
    kept = FileKeyRing(tmp_path / "ring", ROOT)
    wire = Wire(kept)
    rings = [RemoteKeyRing("elsewhere", ROOT, wire.carry) for _ in range(1_500)]
    for ring in rings:  # more than there are tickets
        ring.handle_of("anna")
    (key,) = rings[0].subjects(["anna"])
    wire.keeper = RingKeeper(kept, ROOT)
    assert all(ring.handle_of("anna") == key.handle for ring in rings)


@pytest.mark.slow
async def test_a_recorder_whose_host_has_no_ring_and_a_sealer_on_another(tmp_path: Path) -> None:
    """Two hosts, and one log; the one that records asks the other for its keys, and never has them on its disk."""
    log, keys = f"sqlite:///{tmp_path / 'log'}", tmp_path / "keeper" / "keys"
    keeping = Settings(url=log, audit_secret_key=Secret("5f" * 32), audit_keyring=f"file:{keys}", read_wait_ms=READ_WAIT_MS)
    environ = environment(TALLYROLL_URL=log, AUDIT_SECRET_KEY="5f" * 32, AUDIT_KEYRING=f"file:{keys}")
    command = [sys.executable, "-m", "tallyroll", "audit", "keys", "serve", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as keeper:  # noqa: ASYNC220  # takes no time
        try:
            assert keeper.stdout is not None
            url = (await asyncio.wait_for(asyncio.to_thread(keeper.stdout.readline), PATIENCE_S)).strip()
            recording = Settings(url=log, audit_secret_key=Secret("5f" * 32), audit_keyring=url, read_wait_ms=READ_WAIT_MS)
            async with Roll.open(recording) as recorder:
                made = await recorder.audit.create_audit_entry(
                    "customer.read", "data_access", "read", "reads", user_id="anna", payload={"customer_id": "cust-9"}
                )
            async with Roll.open(keeping) as roll:
                await roll.follow("audit")
                for position in recorder.publisher.last_positions():
                    assert await roll.caught_up(position, PATIENCE_S, follower="audit")
                assert (await roll.audit.get_audit_entry(made.audit_id)).user_id == "anna"
                assert (await roll.audit.anonymize_subject_data("cust-9")).state == "done"
                found = await roll.audit.verify_audit_integrity()
                assert (found["findings"], found["coverage"]["macs"]) == ([], True)
        finally:
            keeper.terminate()
    assert {file.name for file in keys.parent.iterdir()} >= {"keys", "keys.guard"}
    assert not (tmp_path / "log" / "audit" / "keys").exists()


async def test_without_the_secret_or_its_keeper_nothing_is_recorded(tmp_path: Path) -> None:
    log = f"sqlite:///{tmp_path / 'log'}"
    for settings, error in (
        (Settings(url=log, audit_keyring="http://127.0.0.1:9"), SettingsError),
        (Settings(url=log, audit_keyring="http://127.0.0.1:9", audit_secret_key=Secret("5f" * 32)), SealingRequired),
    ):
        async with Roll.open(settings) as roll:
            with pytest.raises(error, match=r"AUDIT_SECRET_KEY|does not answer"):
                await roll.audit.create_audit_entry("a.thing", "system_access", "read", "reads", user_id="anna")


@pytest.mark.parametrize("wrong", ["http://elsewhere.example", "https://", "https://user:secret@keys.example", "ftp://keys.example"])
def test_what_is_no_address_of_a_keeper_is_refused(wrong: str) -> None:
    with pytest.raises(SettingsError, match="AUDIT_KEYRING"):
        Settings(audit_keyring=wrong)

"""A file proves that a record is in the ledger, or that one checkpoint continues another, to who has nothing else."""

from __future__ import annotations

import asyncio
import random
from base64 import b64decode, b64encode
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.ledgers import signer
from tests.unit.readable_ledger import Reading, parsed

from tallyroll.adapters.crypto import is_signed
from tallyroll.audit.ledger import note, proving
from tallyroll.audit.ledger.layout import META
from tallyroll.audit.verify import Checkpoint, Report, Trust, verify_proof
from tallyroll.ports import LedgerNote


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Reading:
    made = Reading(tmp_path_factory.mktemp("house"))
    for number in range(13):
        made.entry("anna", subject="cust-123")
        if number % 3 == 0:
            made.ledger.checkpoint()
    return made


def trust(house: Reading, **options: object) -> Trust:
    witnesses = tuple(str(one.key) for one in house.ledger.witnesses)
    return Trust(today=house.ledger.now_us // 86_400_000_000, keys=tuple(house.keys), witnesses=witnesses, quorum=1, **options)


def proof(house: Reading, audit_id: str = "entry-004") -> bytes:
    row = asyncio.run(house.store.entry(audit_id))
    made = asyncio.run(proving.proof_of(house.store, row))
    assert made is not None
    return made


def check(raw: bytes, trusted: Trust) -> Report:
    return verify_proof(raw, trusted, check=is_signed)


@pytest.mark.parametrize("number", range(1, 14))
def test_every_record_that_is_noted_has_a_proof(house: Reading, number: int) -> None:
    raw = proof(house, f"entry-{number:03}")
    report = check(raw, trust(house))
    assert report.valid, report.findings
    assert report.coverage["proven"]["env"]["audit_id"] == f"entry-{number:03}"
    assert report.coverage["quorum"] == 1


def test_a_proof_is_a_tlog_proof_and_holds_no_part(house: Reading) -> None:
    raw = proof(house)
    lines = raw.decode().split("\n")
    assert lines[0] == "c2sp.org/tlog-proof@v1"
    assert lines[1].startswith("extra ")
    assert lines[2].startswith("index ")
    record = house.records()[4]
    assert all(body not in b64decode(lines[1].removeprefix("extra ")) for body in record.parts if body)
    assert b"anna" not in raw


def test_a_record_that_no_note_covers_has_none_yet(tmp_path: Path) -> None:
    house = Reading(tmp_path)
    house.entry()
    row = asyncio.run(house.store.entry("entry-001"))
    assert asyncio.run(proving.proof_of(house.store, row)) is None
    house.ledger.checkpoint()
    assert asyncio.run(proving.proof_of(house.store, row)) is not None


def test_another_key_and_a_missing_witness_are_found(house: Reading) -> None:
    other = str(note.NoteKey(signer().name, note.ED25519, signer(seed=b"thief").public))
    assert set(check(proof(house), Trust(today=0, keys=(other,))).counts) == {"note_signature"}
    assert set(check(proof(house), Trust(today=0, keys=tuple(house.keys), quorum=1)).counts) == {"quorum"}
    assert check(proof(house), Trust(today=0)).coverage["signatures_checked"] is False


def test_an_exchanged_record_is_found(house: Reading) -> None:
    """The proof of one record around another record of the same ledger."""
    first, second = proof(house, "entry-004").split(b"\n"), proof(house, "entry-005").split(b"\n")
    one, two = b64decode(first[1][6:]), b64decode(second[1][6:])
    head = one[: 17 + 32 * one[16]]
    rest = two[17 + 32 * two[16] :]
    first[1] = b"extra " + b64encode(head + rest)
    assert "inclusion" in check(b"\n".join(first), trust(house)).counts


def test_a_changed_env_is_found(house: Reading) -> None:
    lines = proof(house).split(b"\n")
    extra = b64decode(lines[1][6:])
    lines[1] = b"extra " + b64encode(extra.replace(b"file.read", b"file.send"))
    report = check(b"\n".join(lines), trust(house))
    assert set(report.counts) == {"env_hash"}
    assert report.coverage["proven"] is None


@settings(max_examples=150)
@given(seed=st.integers(0, 1 << 32))
@pytest.mark.slow
def test_no_corruption_passes_or_raises(house: Reading, seed: int) -> None:
    draw = random.Random(seed)  # noqa: S311  # to be repeated
    raw = bytearray(proof(house))
    untouched = check(bytes(raw), trust(house))
    for _ in range(draw.randrange(1, 3)):
        at = draw.randrange(len(raw))
        raw[at : at + draw.randrange(2)] = draw.randbytes(draw.randrange(3))
    report = check(bytes(raw), trust(house))
    assert bytes(raw) == proof(house) or report.broken or report.coverage["proven"] == untouched.coverage["proven"]


@given(raw=st.binary(max_size=200))
@settings(max_examples=200)
def test_anything_is_answered_with_a_report(raw: bytes) -> None:
    for start in (b"", b"c2sp.org/tlog-proof@v1\n", b"tallyroll/continuation@v1\nold 1\n\n"):
        assert check(start + raw, Trust(today=0)).broken


def seen(house: Reading, at: int) -> Checkpoint:
    return Checkpoint(*parsed(house.ledger.notes[at].packed()))


@pytest.mark.parametrize("at", range(5))
def test_a_checkpoint_is_proven_to_continue_an_older_one(house: Reading, at: int) -> None:
    old = seen(house, at)
    raw = asyncio.run(proving.continuation(house.store, old.size))
    report = check(raw, trust(house, remembered=(old,)))
    assert report.valid, report.findings
    assert report.coverage["proven"] == {"what": "continuation", "from": old.size, "to": house.ledger.meta.size}
    assert check(raw, trust(house, notes=(house.ledger.notes[at].packed(),))).valid
    assert set(check(raw, trust(house)).counts) == {"state"}
    forged = old._replace(root=bytes(32))
    assert {"proof", "split_view"} & set(check(raw, trust(house, remembered=(forged,))).counts)


def signed_notes(house: Reading) -> Sequence[LedgerNote]:
    known = asyncio.run(proving.noted(house.store))
    assert known is not None
    return asyncio.run(proving.signed_notes(house.store, known))


@pytest.mark.parametrize("rotations", [(), (3,), (2, 5), (1, 2, 9)])
def test_of_the_signed_notes_those_are_kept_that_lead_to_the_newest_key(tmp_path: Path, rotations: tuple[int, ...]) -> None:
    house = Reading(tmp_path)
    last_of: dict[frozenset[bytes], int] = {}
    for number in range(11):
        if number in rotations:
            house.ledger.rotate(signer(seed=bytes((number,))))
        house.entry()
        house.ledger.checkpoint()
    for one in house.ledger.notes:
        last_of[frozenset(line.key_id for line in one.signatures if line.name == house.origin)] = parsed(one.packed()).size
    found = signed_notes(house)
    assert [one.size for one in found] == sorted(last_of.values())
    unsigned = [note for note in house.ledger.notes if parsed(note.packed()).size <= found[-1].size]
    house.ledger.notes.pop()
    assert asyncio.run(proving.newest(house.store)) == unsigned[-2].packed(), "also while the newest leaves are not signed"


def test_nothing_is_signed_yet(tmp_path: Path) -> None:
    house = Reading(tmp_path)
    assert asyncio.run(proving.noted(house.store)) is None


def test_partitions_have_consistency_proofs_too(house: Reading) -> None:
    tree = house.ledger.partitions[0].tree
    path = asyncio.run(proving.consistency(house.store, 0, 5, tree.size))
    from tallyroll.audit.ledger.tree import is_consistent

    assert is_consistent(5, tree.root(5), tree.size, tree.root(), path)
    assert asyncio.run(proving.peaks(house.store, 0, 6)) == tree.peaks(6)
    assert META not in house.ledger.partitions

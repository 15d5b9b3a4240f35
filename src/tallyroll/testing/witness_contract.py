"""What every witness must do: the behaviour of ``ports.Witness``, as cases that any adapter can run.

::

    async def test_my_witness():
        for case in CASES:
            await case(opener)

``opener(key)`` opens a witness that knows the ledger of that public key (``NAME+ID+BASE64``), and nothing else; called again
it opens the same one, as after a restart. A case raises AssertionError with the promise that was broken.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

from tallyroll.audit.ledger import note, tree
from tallyroll.audit.ledger.note import ED25519, Checkpoint, NoteKey
from tallyroll.audit.ledger.tree import Tree
from tallyroll.errors import WitnessRefused
from tallyroll.ports import Signer, Witness
from tallyroll.testing.contract import expect, expect_equal

__all__ = ["CASES", "Case", "OpenWitness", "SignerOf"]

OpenWitness = Callable[[str], Awaitable[Witness]]
"""Opens the witness under test."""

SignerOf = Callable[[str, bytes], Signer]
"""(name, seed of 32 bytes) -> a signer."""

Case = Callable[[OpenWitness, SignerOf], Awaitable[None]]

_ORIGIN: Final = "contract.example/0123"


class _Log:
    """A log of which this side has the key."""

    def __init__(self, signer_of: SignerOf, *, salt: bytes = b"") -> None:
        self.signer = signer_of(_ORIGIN, bytes(range(32)))
        self.tree = Tree(bytes([number]) * 31 + (salt or b"\0") for number in range(20))

    @property
    def key(self) -> str:
        return str(NoteKey(_ORIGIN, ED25519, self.signer.public))

    def signed(self, size: int, signer: Signer | None = None) -> bytes:
        return note.sign(Checkpoint(_ORIGIN, size, self.tree.root(size)).text(), [signer or self.signer]).packed()

    def proof(self, old: int, new: int) -> Sequence[bytes]:
        return tree.consistency(old, new, self.tree.node)


@asynccontextmanager
async def _opened(opener: OpenWitness, key: str) -> AsyncIterator[Witness]:
    witness = await opener(key)
    try:
        yield witness
    finally:
        await witness.close()


async def _refused(witness: Witness, old: int, signed: bytes, proof: Sequence[bytes]) -> tuple[int, int | None]:
    try:
        await witness.add(old, signed, proof)
    except WitnessRefused as refusal:
        return refusal.status, refusal.known_size
    raise AssertionError("a checkpoint is cosigned that should have been refused")


async def what_continues_is_cosigned(opener: OpenWitness, signer_of: SignerOf) -> None:
    """From nothing, further, and the same again; the signature is over the note's text, with a time."""
    log = _Log(signer_of)
    async with _opened(opener, log.key) as witness:
        for old, new in ((0, 3), (3, 3), (3, 12), (12, 20)):
            line = note.cosignature_in(await witness.add(old, log.signed(new), log.proof(old, new)))
            expect_equal(len(line.body), 72, "a cosignature holds a time and a signature")
        expect(line.key_id != NoteKey(_ORIGIN, ED25519, log.signer.public).key_id, "it is its own")


async def it_remembers_after_a_restart(opener: OpenWitness, signer_of: SignerOf) -> None:
    """Another process, the same memory; with 409 it says which size it remembers."""
    log = _Log(signer_of)
    async with _opened(opener, log.key) as witness:
        await witness.add(0, log.signed(7), log.proof(0, 7))
    async with _opened(opener, log.key) as witness:
        expect_equal(await _refused(witness, 0, log.signed(12), log.proof(0, 12)), (409, 7), "another old size")
        expect_equal(await _refused(witness, 3, log.signed(5), log.proof(3, 5)), (409, 7), "a rollback")
        await witness.add(7, log.signed(12), log.proof(7, 12))


async def another_history_is_refused(opener: OpenWitness, signer_of: SignerOf) -> None:
    """Of the same size, and of a larger one; and nothing of it is remembered."""
    log, other = _Log(signer_of), _Log(signer_of, salt=b"x")
    async with _opened(opener, log.key) as witness:
        await witness.add(0, log.signed(7), ())
        expect_equal(await _refused(witness, 7, other.signed(7), ()), (409, 7), "a split view")
        expect_equal((await _refused(witness, 7, other.signed(12), other.proof(7, 12)))[0], 422, "an inconsistent one")
        expect_equal((await _refused(witness, 7, log.signed(12), log.proof(3, 12)))[0], 422, "the proof of another size")
        await witness.add(7, log.signed(12), log.proof(7, 12))


async def who_is_not_known_is_refused(opener: OpenWitness, signer_of: SignerOf) -> None:
    """Another log, another key under its name, and what is no note."""
    log, stranger = _Log(signer_of), signer_of(_ORIGIN, bytes(32))
    elsewhere = signer_of("contract.example/elsewhere", bytes(32))
    unknown = note.sign(Checkpoint("contract.example/elsewhere", 3, bytes(32)).text(), [elsewhere]).packed()
    async with _opened(opener, log.key) as witness:
        expect_equal((await _refused(witness, 0, unknown, ()))[0], 404, "an unknown log")
        expect_equal((await _refused(witness, 0, log.signed(3, stranger), ()))[0], 403, "an unknown key")
        expect_equal((await _refused(witness, 0, b"no note", ()))[0], 400, "no note")
        expect_equal((await _refused(witness, 9, log.signed(3), ()))[0], 400, "an old size above the new one")


async def of_two_at_once_one_is_refused(opener: OpenWitness, signer_of: SignerOf) -> None:
    """Two histories that are offered at the same moment: it cosigns one of them."""
    log, other = _Log(signer_of), _Log(signer_of, salt=b"x")
    async with _opened(opener, log.key) as one, _opened(opener, log.key) as two:
        results = await asyncio.gather(one.add(0, log.signed(7), ()), two.add(0, other.signed(7), ()), return_exceptions=True)
        expect_equal(sorted(isinstance(result, WitnessRefused) for result in results), [False, True], "one is refused")


CASES: Final[Sequence[Case]] = (
    what_continues_is_cosigned,
    it_remembers_after_a_restart,
    another_history_is_refused,
    who_is_not_known_is_refused,
    of_two_at_once_one_is_refused,
)

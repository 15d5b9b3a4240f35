"""A witness: remembers the newest checkpoint of each ledger, durably, before it cosigns; and how it is asked over HTTP.

The request is that of c2sp.org/tlog-witness: ``old SIZE``, the proof in base64, an empty line, the signed note.
"""

from __future__ import annotations

import asyncio
from base64 import b64decode
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import msgspec

from tallyroll.audit.ledger import note
from tallyroll.audit.ledger.note import Checker, Checkpoint, NoteKey
from tallyroll.audit.sealing.witness import Refusal, judge
from tallyroll.errors import KeyRingUnavailable, Undecodable, WitnessRefused, WitnessUnavailable
from tallyroll.ports import Clock, Signer, WitnessMemory

PATH: Final = "/add-checkpoint"
_MAX_PROOF: Final = 63
_MAX_SIZE: Final = 1 << 63


class _Seen(msgspec.Struct):
    """What is remembered of one ledger: its newest checkpoint."""

    size: int
    root: bytes


class Asked(NamedTuple):
    """A request: a note, and the proof that it continues the one of ``old_size``."""

    old_size: int
    proof: tuple[bytes, ...]
    note: bytes


class KeptWitness:
    """Implements ``ports.Witness`` with a key of its own and a memory that outlives it.

    ``trusted`` are the public keys of the ledgers it knows.
    """

    def __init__(self, signer: Signer, memory: WitnessMemory, check: Checker, *, clock: Clock, trusted: Sequence[NoteKey]) -> None:
        self._signer = signer
        self._memory = memory
        self._check = check
        self._clock = clock
        self._trusted: dict[str, list[NoteKey]] = {}
        for key in trusted:
            self._trusted.setdefault(key.name, []).append(key)

    @property
    def name(self) -> str:
        return self._signer.name

    @property
    def key(self) -> NoteKey:
        """The public key of its cosignatures."""
        return NoteKey(self._signer.name, note.COSIGNATURE, self._signer.public)

    async def add(self, old_size: int, note: bytes, proof: Sequence[bytes]) -> bytes:
        return await asyncio.to_thread(self.add_now, old_size, note, proof)

    async def close(self) -> None:
        """Nothing is open."""

    def add_now(self, old_size: int, offered: bytes, proof: Sequence[bytes]) -> bytes:
        """As ``add``; blocks."""
        try:
            signed = note.parse(offered)
            origin = Checkpoint.parse(signed.text).origin
        except Undecodable:
            raise WitnessRefused(Refusal.MALFORMED) from None

        def judged(kept: bytes) -> bytes:
            try:
                seen = _read(kept) if kept else {}
            except (msgspec.DecodeError, UnicodeDecodeError):  # never taken for one that remembers nothing
                raise WitnessUnavailable(self.name, "what it remembers cannot be read; restore it from a copy") from None
            last = seen.get(origin)
            known = {} if last is None else {origin: Checkpoint(origin, last.size, last.root)}
            found = judge(self._trusted, known, old_size, signed, proof, self._check)
            if found.checkpoint is None:
                refusal = found.refusal or Refusal.MALFORMED
                raise WitnessRefused(refusal, found.known_size if refusal == Refusal.CONFLICT else None)
            seen[origin] = _Seen(found.checkpoint.size, found.checkpoint.root)
            return _write(seen)

        self._memory.changing(judged)
        return note.cosign(signed.text, self._signer, self._clock.now_us() // 1_000_000).line().encode()


class OpenedWhenAsked:
    """Implements ``ports.Witness``: a kept one, opened when it is first asked.

    As long as it cannot be, say in a folder that this user may not read, it is away like one that does not answer.
    """

    def __init__(self, name: str, opening: Callable[[], KeptWitness]) -> None:
        self._name = name
        self._opening = opening
        self._opened: KeptWitness | None = None

    @property
    def name(self) -> str:
        return self._name

    async def add(self, old_size: int, note: bytes, proof: Sequence[bytes]) -> bytes:
        if self._opened is None:
            try:
                self._opened = await asyncio.to_thread(self._opening)
            except KeyRingUnavailable as error:
                raise WitnessUnavailable(self.name, f"{error.where}: {error.reason}") from None
        return await self._opened.add(old_size, note, proof)

    async def close(self) -> None:
        """Nothing is open."""


def answer_to(witness: KeptWitness, raw: bytes) -> tuple[int, bytes]:
    """What a witness says to a request, as status and text: a cosignature, the size it remembers (409), or why not. Blocks."""
    try:
        asked = read_request(raw)
        return 200, witness.add_now(asked.old_size, asked.note, asked.proof)
    except Undecodable as error:
        return Refusal.MALFORMED, f"{error}\n".encode()
    except WitnessRefused as refusal:
        if refusal.known_size is not None:
            return refusal.status, f"{refusal.known_size}\n".encode()
        return refusal.status, f"{refusal}\n".encode()
    except WitnessUnavailable as error:
        return 503, f"{error.reason}\n".encode()


def read_request(raw: bytes) -> Asked:
    """A request, read. Raises Undecodable."""
    head, found, rest = raw.partition(b"\n\n")
    try:
        old, *lines = head.decode("ascii").split("\n")
        word, _, digits = old.partition(" ")
        proof = tuple(b64decode(line, validate=True) for line in lines)
    except ValueError:
        raise Undecodable("witness-request", "not the form of a request") from None
    canonical = digits.isascii() and digits.isdecimal() and str(int(digits[:20])) == digits and int(digits) < _MAX_SIZE
    if not found or word != "old" or not canonical or len(proof) > _MAX_PROOF or any(len(one) != 32 for one in proof):  # noqa: PLR2004  # hashes
        raise Undecodable("witness-request", "not the form of a request")
    return Asked(int(digits), proof, rest)


_read: Final = msgspec.msgpack.Decoder(dict[str, _Seen]).decode
_write: Final = msgspec.msgpack.Encoder().encode

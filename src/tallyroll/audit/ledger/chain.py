"""The writing side of the ledger: a writer seals records, each linked to the one before it in its chain.

One ``Writer`` is one writer epoch: all its chains, one per ledger partition, and one MAC key that is replaced every second.
Pure: key custody, encryption, time and randomness come in as arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from hashlib import sha256
from hmac import digest
from itertools import accumulate, groupby, pairwise
from typing import Final, NamedTuple

import msgspec

from tallyroll.audit.compiled import RunSealer, run_sealer
from tallyroll.audit.ledger import layout, records
from tallyroll.audit.ledger.layout import MAC_LABEL, ChainId, Kind, PartType, Record, pack_core, pack_pieces
from tallyroll.audit.ledger.records import Head
from tallyroll.ports import Cipher, Enrolment

_INNER: Final = bytes(0x36 ^ value for value in range(256))
_OUTER: Final = bytes(0x5C ^ value for value in range(256))
_BLOCK: Final = 64
_ENTRY: Final = Kind.ENTRY
_PLAIN: Final = PartType.PLAIN  # looking a member up costs as much as a small hash
_UNKNOWN: Final = PartType.UNKNOWN
_NO_HASH: Final = bytes(32)
_DERIVED: Final = 4_096  # keys of subjects, as used in one chain; deriving one costs two hashes


class Part(msgspec.Struct, frozen=True, gc=False):
    """A part to be sealed. ``key`` is the data key of its subject, or of its group (``group_key``); none for PLAIN.

    A plain part begins with its 16-byte salt, drawn by the caller: without it, the hash of few possible texts can be guessed.
    """

    part_type: PartType
    handle: bytes
    key: bytes
    text: bytes

    def __repr__(self) -> str:
        """Without key and text."""
        return f"Part({self.part_type.name}, {self.handle.hex()})"


class Draft(msgspec.Struct, frozen=True, gc=False):
    """A record before it has its place. ``keep_until_day`` counts days since 1970; the body is kept to the end of it."""

    kind: Kind
    env: bytes
    parts: Sequence[Part] = ()
    retention_class: int = 0
    keep_until_day: int = 0


class Drafts(NamedTuple):
    """Entries before they have their places, one in each column; there is no retention class."""

    envs: Sequence[bytes]
    parts: Sequence[Sequence[Part]]
    days: Sequence[int]

    def cut(self, start: int, stop: int) -> list[Draft]:
        """Some of them."""
        columns = (column[start:stop] for column in self)
        return [Draft(_ENTRY, env, parts, 0, day) for env, parts, day in zip(*columns, strict=True)]


class Sealed(msgspec.Struct, frozen=True, gc=False):
    """A sealed record, and its leaf. It is final: whatever happens to its sending, these bytes are sent, never others."""

    chain: ChainId
    seq: int
    leaf: bytes
    core: bytes
    env: bytes
    bodies: Sequence[bytes]
    mac: bytes

    @property
    def record(self) -> Record:
        """The record, in pieces."""
        return Record(self.core, self.env, tuple(self.bodies), self.mac)

    def packed(self) -> bytes:
        """The record as it is stored and sent."""
        return pack_pieces(self.core, self.env, self.bodies, self.mac)


class Run(NamedTuple):
    """Records of one chain behind each other, as they are stored and sent, and their leaves; ``last`` is the number of the last."""

    chain: ChainId
    last: int
    packed: Sequence[bytes]
    leaves: Sequence[bytes]

    @classmethod
    def of(cls, sealed: Sequence[Sealed]) -> Run:
        """These, one or more, packed."""
        last = sealed[-1]
        return cls(last.chain, last.seq, [item.packed() for item in sealed], [item.leaf for item in sealed])


class Ratchet:
    """The MAC key of now. Each second the next one is derived and the old one forgotten, so that who steals it cannot go back.

    ``block`` is the key filled up with zeros to a block; the next one takes its place there.
    Not promised: that nothing of the old key is left in memory; Python does not say when.
    """

    __slots__ = ("_inner", "_outer", "block", "epoch")

    def __init__(self, k0: bytes) -> None:
        self.epoch = 0
        self.block = bytearray()
        self._set(k0)

    def advance(self, epoch: int) -> None:
        """Goes on to the key of that second; never back. Raises ValueError beyond the end of a writer epoch."""
        if epoch > layout.MAX_MAC_EPOCH:
            raise ValueError("the writer epoch has lasted too long; enrol anew")
        while self.epoch < epoch:
            self._set(self.mac(layout.ratchet_label()))
            self.epoch += 1

    def mac(self, message: bytes) -> bytes:
        """HMAC-SHA256, from two copied states: three times as fast as from the key."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(message)
        outer.update(inner.digest())
        return outer.digest()

    def _set(self, key: bytes) -> None:
        padded = key.ljust(_BLOCK, b"\0")
        self.block[:] = padded
        self._inner = sha256(padded.translate(_INNER))
        self._outer = sha256(padded.translate(_OUTER))

    def __repr__(self) -> str:
        """Without the key."""
        return f"Ratchet(epoch={self.epoch})"


class _Tip:
    __slots__ = ("chain", "ident", "info", "prev", "seq")

    def __init__(self, chain: ChainId) -> None:
        self.chain = chain
        self.ident = chain.packed()
        self.info = layout.dek_info(chain)
        self.seq = 0
        self.prev = layout.genesis_prev(chain)


class Writer:
    """Seals the records of one writer epoch. Keep it in one thread and one process: after a fork the child enrols anew.

    ``previous`` is the epoch before of the same writer, and its last heads. Ordered: numbers rise by one per chain, and a
    number is never given twice, also not after a failed send: send the same bytes again, or have the loss recorded as a gap.
    Runs are sealed by the compiled core where it is installed, unless ``compiled`` says no; the bytes are the same.
    Not promised: that anything is stored; whoever calls ``seal`` puts the result on disk before it does anything else.
    """

    def __init__(  # noqa: PLR0913  # what a writer writes with
        self,
        log_id: bytes,
        enrolment: Enrolment,
        cipher: Cipher,
        *,
        rule_set: str,
        previous: tuple[int, Sequence[Head]] | None = None,
        compiled: bool = True,
    ) -> None:
        self.writer = enrolment.writer
        self.epoch = enrolment.epoch
        self.opened_us = enrolment.opened_us
        self.commitment = layout.k0_commitment(enrolment.k0)
        self._log_id = log_id
        self._cipher = cipher
        self._genesis = records.genesis(self.commitment, enrolment.token, rule_set, previous)
        self._ratchet = Ratchet(enrolment.k0)
        self._tips: dict[int, _Tip] = {}
        self._derived: dict[tuple[bytes, int], bytes] = {}
        self._compiled = compiled
        self._core: RunSealer | None = None  # until entries come together: who records them one by one needs none

    @property
    def mac_epoch(self) -> int:
        """The second of the epoch whose MAC key is in use."""
        return self._ratchet.epoch

    @property
    def heads(self) -> list[Head]:
        """The newest record of every chain."""
        return [Head(partition, tip.seq - 1, tip.prev) for partition, tip in sorted(self._tips.items())]

    def advance(self, elapsed_s: int) -> None:
        """Goes on to the MAC key of that second of the epoch, by a clock that only goes forward. Call it before sealing."""
        self._ratchet.advance(elapsed_s)

    def seal(self, partition: int, draft: Draft, ts_us: int) -> list[Sealed]:
        """The sealed record; the first one of a chain has its genesis before it."""
        return self.seal_all(partition, (draft,), ts_us)

    def seal_all(self, partition: int, drafts: Sequence[Draft], ts_us: int) -> list[Sealed]:
        """As ``seal`` of each, at one moment: all of them, or where something raises none, and their numbers are not given."""
        if not drafts:
            return []
        tip = self._tips.get(partition)
        if tip is None:
            tip, first = _Tip(ChainId(self._log_id, partition, self.writer, self.epoch)), drafts[0]
            drafts = (Draft(Kind.GENESIS, self._genesis, (), first.retention_class, first.keep_until_day), *drafts)
        found = self._seal(tip, drafts, ts_us)
        self._tips[partition] = tip
        return found

    def seal_entries(self, partition: int, drafts: Drafts, ts_us: int) -> Run:
        """As ``seal_all``, for who wants nothing but the records as they are stored; of one draft or more."""
        if self._core is None and self._compiled:
            self._core = run_sealer()
        if partition not in self._tips or self._core is None:
            return Run.of(self.seal_all(partition, drafts.cut(0, len(drafts.envs)), ts_us))
        tip, packed, leaves = copy(self._tips[partition]), list[bytes](), list[bytes]()
        for start, stop in _stretches(drafts):
            if drafts.parts[start]:
                sealed = Run.of(self._seal(tip, drafts.cut(start, stop), ts_us))
                some, own = sealed.packed, sealed.leaves
            else:
                some, own = self._seal_bare(tip, self._core, drafts.envs[start:stop], drafts.days[start], ts_us)
            packed += some
            leaves += own
        self._tips[partition] = tip
        return Run(tip.chain, tip.seq - 1, packed, leaves)

    def forget(self, key: bytes) -> None:
        """Drops what was derived from a subject's key."""
        for derived in [known for known in self._derived if known[0] == key]:
            del self._derived[derived]

    def _seal(self, tip: _Tip, drafts: Sequence[Draft], ts_us: int) -> list[Sealed]:
        chain, ident, seq, prev = tip.chain, tip.ident, tip.seq, tip.prev
        found, mac, mac_epoch = [], self._ratchet.mac, self._ratchet.epoch
        marks: Sequence[bytes]
        bodies: Sequence[bytes]
        for draft in drafts:
            env = draft.env
            marks, bodies = self._parts(tip, seq, draft.parts) if draft.parts else ((), ())
            core = pack_core(
                draft.kind, ident, seq, ts_us, mac_epoch, draft.retention_class, draft.keep_until_day, prev, sha256(env).digest(), marks
            )
            leaf = sha256(b"\0" + core).digest()  # as ``leaf_hash``: a call less for each record
            found.append(Sealed(chain, seq, leaf, core, env, bodies, mac(MAC_LABEL + leaf)))
            seq, prev = seq + 1, leaf
        # Last: what was sealed before something raised has left no trace, so its numbers and nonces stand for nothing yet.
        tip.seq, tip.prev = seq, prev
        return found

    def _seal_bare(
        self, tip: _Tip, core: RunSealer, envs: Sequence[bytes], day: int, ts_us: int
    ) -> tuple[Sequence[bytes], Sequence[bytes]]:
        """Entries without parts that are kept to the same day."""
        first = pack_core(_ENTRY, tip.ident, tip.seq, ts_us, self._ratchet.epoch, 0, day, tip.prev, _NO_HASH, ())
        packed, leaves = core.seal(list(envs), first, self._ratchet.block)
        tip.seq, tip.prev = tip.seq + len(envs), leaves[-1]
        return packed, leaves

    def _parts(self, tip: _Tip, seq: int, parts: Sequence[Part]) -> tuple[list[bytes], list[bytes]]:
        """What the core says of each part, and the parts as they are stored."""
        marks, bodies = [], []
        for index, part in enumerate(parts):
            part_type, body, nonce = part.part_type, part.text, layout.NO_NONCE
            if part_type != _PLAIN:
                nonce = layout.nonce_of(index, seq)
                key = self._derived.get((part.key, tip.chain.partition)) or self._derive(tip, part)
                body = self._cipher.seal(key, nonce, body, layout.aad_of(tip.ident, seq, index, part_type))
            marks.append(layout.pack_mark(part_type, part.handle, nonce, body))
            bodies.append(body)
        return marks, bodies

    def _derive(self, tip: _Tip, part: Part) -> bytes:
        derived = _expanded(part.key, tip.info)
        if part.part_type != _UNKNOWN:  # that one is a key for this part alone
            if len(self._derived) >= _DERIVED:
                del self._derived[next(iter(self._derived))]
            self._derived[part.key, tip.chain.partition] = derived
        return derived


def _stretches(drafts: Drafts) -> list[tuple[int, int]]:
    """Where those begin and end that have parts, and those that have none and are kept to the same day."""
    count = len(drafts.envs)
    if not any(drafts.parts) and drafts.days.count(drafts.days[0]) == count:
        return [(0, count)]  # the usual case
    ends = accumulate(len(list(same)) for _, same in groupby(zip(map(bool, drafts.parts), drafts.days, strict=True)))
    return list(pairwise([0, *ends]))


def part_key(dek: bytes, chain: ChainId) -> bytes:
    """The key that seals a subject's parts in one chain: HKDF-Expand-SHA256, one block."""
    return _expanded(dek, layout.dek_info(chain))


def _expanded(dek: bytes, info: bytes) -> bytes:
    return digest(dek, info + b"\1", "sha256")


def group_key(deks: Sequence[tuple[bytes, bytes]]) -> bytes:
    """The data key of a sentence about several subjects, from their (handle, data key): gone as soon as one of them is."""
    return digest(b"aud1/group", b"".join(dek for _, dek in sorted(deks)), "sha256")


def open_part(cipher: Cipher, record: Record, index: int, dek: bytes) -> bytes:
    """The text of one sealed part. Raises SealBroken; LookupError where the part was removed."""
    core = layout.unpack_core(record.core)
    mark, body = core.parts[index], record.parts[index]
    if body is None:
        raise LookupError("the part was removed")
    aad = layout.aad_of(core.chain.packed(), core.seq, index, mark.part_type)
    return cipher.open(part_key(dek, core.chain), mark.nonce, body, aad)

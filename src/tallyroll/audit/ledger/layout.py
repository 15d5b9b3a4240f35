"""What a ledger record is, byte for byte. ``docs/reference/ledger-format.md`` is the same in prose.

Everything an entry says is in its core, its env or one of its parts; the core holds the hashes of the other two, and the leaf
is the hash of the core. So env and parts can be removed later and every proof stays valid. Hashes are of bytes as they are
stored: nothing is ever encoded again to be checked. Pure: no clock, no randomness, no I/O.

Not promised: that an env or a part means anything; only that it is the one that was sealed.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Collection, Sequence
from enum import IntEnum
from functools import lru_cache
from hashlib import sha256
from typing import Final, NamedTuple

import msgspec

from tallyroll.errors import Undecodable
from tallyroll.ports import LEDGER_META

MAGIC: Final = b"AUD1\x01"  # the version is the fifth byte
REGISTRY: Final = 65_535
META: Final = LEDGER_META  # no partition: the tree over the partitions' notes, where one number has to name it
MAX_ENV: Final = 1 << 20
MAX_PART: Final = 1 << 24
MAX_MAC_EPOCH: Final = 1 << 17  # seconds: a day and a half, more than a writer epoch lasts
CLOCK_BOUND_S: Final = 60  # how far a writer's wall clock may fall behind its own seconds before its records look backdated
MAX_TS_US: Final = 253_402_300_799_999_999  # the end of the year 9999: no calendar, and no integer of a store, goes on for ever
MAX_DAY: Final = 2_932_896  # the same
ABSENT: Final = 0xFFFF_FFFF
MAC_LABEL: Final = b"aud1/mac"
NO_MAC: Final = bytes(32)
NO_NONCE: Final = bytes(12)

_CORE: Final = struct.Struct(">5sB38sQQIHIB32s32s")
_IDENT: Final = struct.Struct(">16sH16sI")
_PART: Final = struct.Struct(">B16s12s32s")
_NONCE: Final = struct.Struct(">IQ")
_AAD_TAIL: Final = struct.Struct(">QBB")
_U32: Final = struct.Struct(">I")
_ABSENT: Final = _U32.pack(ABSENT)
CORE_BYTES: Final = _CORE.size
_PREV_AT: Final = CORE_BYTES - 64
_PARTS_AT: Final = _PREV_AT - 1
PART_BYTES: Final = _PART.size
MAC_BYTES: Final = 32
_CHAINS: Final = 4_096  # named in many cores each; some 1 MB
_new: Final = sha256().copy  # copying a state costs half of what making one does, and more than hashing so few bytes
_new_leaf: Final = sha256(b"\0").copy


class Kind(IntEnum):
    """What a record is. Kinds from ERASURE on, except CLOSE, stand in the registry only."""

    ENTRY = 0
    GENESIS = 1
    HEADS = 2
    ERASURE = 3
    RETENTION = 4
    HOLD = 5
    KEY = 6
    CLOSE = 7
    GAP = 8


_LAST_KIND: Final = max(Kind)


class PartType(IntEnum):
    """How a part is kept: sealed for one subject, for several, for an unknown one, or plain with a salt before it."""

    SUBJECT = 1
    GROUP = 2
    UNKNOWN = 3
    PLAIN = 4


class ChainId(NamedTuple):
    """Whose records are numbered and linked: one writer epoch in one ledger partition."""

    log_id: bytes
    partition: int
    writer: bytes
    epoch: int

    def packed(self) -> bytes:
        """38 bytes, as they stand in every core of the chain."""
        return _IDENT.pack(*self)


class PartMark(NamedTuple):
    """What a core says of one part."""

    part_type: int
    handle: bytes
    nonce: bytes
    ct_hash: bytes


class Core(msgspec.Struct, frozen=True, gc=False):
    """A core, read."""

    kind: int
    chain: ChainId
    seq: int
    ts_us: int
    mac_epoch: int
    retention_class: int
    keep_until_day: int
    prev: bytes
    env_hash: bytes
    parts: tuple[PartMark, ...]


class Record(NamedTuple):
    """A sealed record as it is stored and sent. ``env`` or a part is None once it was removed."""

    core: bytes
    env: bytes | None
    parts: tuple[bytes | None, ...]
    mac: bytes


def hash_of(data: bytes) -> bytes:
    """SHA-256."""
    state = _new()
    state.update(data)
    return state.digest()


def pack_core(  # noqa: PLR0913  # the fields of a fixed struct
    kind: int,
    ident: bytes,
    seq: int,
    ts_us: int,
    mac_epoch: int,
    retention_class: int,
    keep_until_day: int,
    prev: bytes,
    env_hash: bytes,
    marks: Sequence[bytes],
) -> bytes:
    """A core from its fields; ``ident`` and ``marks`` are packed already, since a chain reuses them."""
    core = _CORE.pack(MAGIC, kind, ident, seq, ts_us, mac_epoch, retention_class, keep_until_day, len(marks), prev, env_hash)
    return b"".join((core, *marks)) if marks else core


def pack_mark(part_type: int, handle: bytes, nonce: bytes, ct: bytes) -> bytes:
    """The 61 bytes of one part."""
    return _PART.pack(part_type, handle, nonce, hash_of(ct))


def unpack_core(core: bytes) -> Core:
    """A core, read. Raises Undecodable for bytes that are none."""
    if len(core) < CORE_BYTES:
        raise Undecodable("ledger-core", "too short")
    magic, kind, ident, seq, ts_us, mac_epoch, retention_class, keep_until_day, n_parts, prev, env_hash = _CORE.unpack_from(core)
    if magic != MAGIC or kind > _LAST_KIND:
        raise Undecodable("ledger-core", "another version or kind")
    if len(core) != CORE_BYTES + n_parts * PART_BYTES:
        raise Undecodable("ledger-core", "its length does not fit its parts")
    parts = tuple(map(PartMark._make, _PART.iter_unpack(core[CORE_BYTES:]))) if n_parts else ()
    return Core(kind, _chain_of(ident), seq, ts_us, mac_epoch, retention_class, keep_until_day, prev, env_hash, parts)


@lru_cache(_CHAINS)
def _chain_of(ident: bytes) -> ChainId:
    return ChainId(*_IDENT.unpack(ident))


def is_dated(core: Core) -> bool:
    """Whether its moment and its last day are in the calendar."""
    return core.ts_us <= MAX_TS_US and core.keep_until_day <= MAX_DAY


def prev_of(core: bytes) -> bytes:
    """What a core links to, without reading the rest of it."""
    return core[_PREV_AT : _PREV_AT + 32]


def leaf_hash(core: bytes) -> bytes:
    """The leaf: what the next record's ``prev`` holds, and the leaf of the RFC 6962 tree. One hash, so the two cannot disagree."""
    state = _new_leaf()
    state.update(core)
    return state.digest()


def genesis_prev(chain: ChainId) -> bytes:
    """The ``prev`` of number 0."""
    return sha256(b"aud1/genesis" + chain.packed()).digest()


def k0_commitment(k0: bytes) -> bytes:
    """What the registry and the genesis say of the first MAC key, without giving it away."""
    return sha256(b"aud1/k0" + k0).digest()


def mac_input(leaf: bytes) -> bytes:
    """What is authenticated under the key of the record's MAC epoch."""
    return MAC_LABEL + leaf


def ratchet_label() -> bytes:
    """K_i = HMAC-SHA256(K_(i-1), this)."""
    return b"aud1/ratchet"


def dek_info(chain: ChainId) -> bytes:
    """The info of HKDF-Expand: from a subject's key to the one that seals in this chain, so that counters can be nonces."""
    return b"aud1/dek" + chain.writer + chain.epoch.to_bytes(4) + chain.partition.to_bytes(2)


def nonce_of(part: int, seq: int) -> bytes:
    """The nonce of a sealed part; that of a plain part is zero."""
    return _NONCE.pack(part, seq)


def aad_of(ident: bytes, seq: int, part: int, part_type: int) -> bytes:
    """What a sealed part is bound to: its place in its chain, and what it is."""
    return ident + _AAD_TAIL.pack(seq, part, part_type)


def pack_record(record: Record) -> bytes:
    """A record as it is stored, and sent as the ``data`` of an event: core, env, parts, MAC."""
    return pack_pieces(*record)


def pack_pieces(core: bytes, env: bytes | None, parts: Sequence[bytes | None], mac: bytes) -> bytes:
    """As ``pack_record``."""
    if env is not None and not parts:
        return b"".join((core, _U32.pack(len(env)), env, mac))
    pieces = [core]
    for body in (env, *parts):
        if body is None:
            pieces.append(_ABSENT)
        else:
            pieces += (_U32.pack(len(body)), body)
    pieces.append(mac)
    return b"".join(pieces)


def unpack_record(raw: bytes) -> Record:
    """The record that ``pack_record`` packed. Raises Undecodable; reads no further than ``raw`` whatever a length says."""
    size = len(raw)
    if size < CORE_BYTES:
        raise Undecodable("ledger-record", "too short")
    at = CORE_BYTES + raw[_PARTS_AT] * PART_BYTES
    core, limit = raw[:at], MAX_ENV
    bodies: list[bytes | None] = []
    for _ in range(raw[_PARTS_AT] + 1):  # the env, then the parts
        if at + 4 > size:
            raise Undecodable("ledger-record", "cut off")
        length = int.from_bytes(raw[at : at + 4])
        at += 4
        if length == ABSENT:
            bodies.append(None)
        elif length > limit or at + length > size:
            raise Undecodable("ledger-record", "a length that does not fit")
        else:
            bodies.append(raw[at : at + length])
            at += length
        limit = MAX_PART
    if size != at + MAC_BYTES:
        raise Undecodable("ledger-record", "its length does not fit its parts")
    return Record(core, bodies[0], tuple(bodies[1:]), raw[at:])


def take_out(raw: bytes, parts: Collection[int | None]) -> tuple[bytes, int, bool, list[int]]:
    """A record without these parts, None for its whole body, which counts as one; as ``ports.TakeOut`` says."""
    record, removed = unpack_record(raw), 0
    for part in parts:
        if part is None:
            removed += record.env is not None
            record = record._replace(env=None, parts=(None,) * len(record.parts))
        elif part >= len(record.parts):
            raise Undecodable("ledger-record", "it has no such part")
        elif record.parts[part] is not None:
            removed += 1
            record = record._replace(parts=tuple(None if at == part else body for at, body in enumerate(record.parts)))
    return pack_record(record), removed, record.env is not None, [at for at, body in enumerate(record.parts) if body is not None]


_encoder: Final = msgspec.json.Encoder(order="sorted")


def write_json(value: object) -> bytes:
    """Sorted JSON: the form in which an env is made, once. Afterwards only its bytes count."""
    return _encoder.encode(value)


def read_json(raw: bytes) -> object:
    """JSON, read strictly. Raises Undecodable for duplicate keys, NaN, endless numbers and endless nesting.

    A key that stands there twice would mean one thing to one reader and another to the next.
    """
    try:
        return json.loads(raw, object_pairs_hook=_unique, parse_constant=_refuse, parse_int=_short_int)
    except (ValueError, RecursionError) as error:
        raise Undecodable("ledger-json", type(error).__name__) from None


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("duplicate key")
    return found


def _refuse(_: str) -> object:
    raise ValueError("not a JSON number")


def _short_int(digits: str) -> int:
    if len(digits) > 20:  # noqa: PLR2004  # 64 bits and a sign
        raise ValueError("a number without end")
    return int(digits)

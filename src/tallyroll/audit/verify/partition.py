"""The walk over one partition: every record against its chain, its hashes, its MAC; every noted size against the root."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Final

from .merkle import Growing
from .reading import CORE, MAGIC, PART, REGISTRY, Buffer, Scan, read_json, split
from .registry import Admitted, Prune, Registry
from .removal import Removals
from .report import Findings

MAX_MAC_EPOCH: Final = 1 << 17
CLOCK_BOUND_S: Final = 60
NO_MAC: Final = bytes(32)
_IDENT: Final = struct.Struct(">16sH16sI")
_CORE: Final = struct.Struct(">5sB38sQQIHIB32s32s")
_U32: Final = struct.Struct(">I")
_NONCE: Final = struct.Struct(">IQ")
_BATCH: Final = 4_096
_ANYWHERE: Final = (0, 1, 2, 7)
_SECOND_US: Final = 1_000_000

Claims = Mapping[tuple[bytes, int], Mapping[int, bytes]]
"""Per (writer, epoch): number of a record -> the leaf that its writer has named elsewhere."""


class Keyed:
    """HMAC-SHA256 under a key that is ratcheted forward; by copying two states, which is faster than from the key."""

    __slots__ = ("_inner", "_leaf", "_outer", "epoch")

    def __init__(self, k0: bytes) -> None:
        self.epoch = 0
        self._set(k0)

    def to(self, epoch: int) -> None:
        """The key of a later epoch. There is no way back."""
        while self.epoch < epoch:
            self._set(self.mac(b"aud1/ratchet"))
            self.epoch += 1

    def mac(self, message: bytes) -> bytes:
        """The MAC under the key of now."""
        inner = self._inner.copy()
        inner.update(message)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.digest()

    def of_leaf(self, leaf: bytes) -> bytes:
        """The MAC of a record, which is called for each: what comes before the leaf is hashed once a key."""
        inner = self._leaf.copy()
        inner.update(leaf)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.digest()

    def _set(self, key: bytes) -> None:
        block = int.from_bytes(key.ljust(64, b"\0"))
        self._inner = sha256((block ^ int.from_bytes(b"\x36" * 64)).to_bytes(64))
        self._leaf = self._inner.copy()
        self._leaf.update(b"aud1/mac")
        self._outer = sha256((block ^ int.from_bytes(b"\x5c" * 64)).to_bytes(64))


class Chain:
    """One chain as far as the walk has come."""

    __slots__ = (
        "_late", "admitted", "at_home", "closed", "epoch", "holes", "k0", "keyed", "last_us", "leaf", "mac_epoch", "next", "watched",
        "writer",
    )  # fmt: skip

    def __init__(self, writer: bytes, epoch: int, admitted: Admitted | None, first: bytes) -> None:
        self.writer = writer
        self.epoch = epoch
        self.admitted = admitted
        self.at_home = False
        self.next = 0
        self.leaf = first
        self.mac_epoch = 0
        self.closed = False
        self.last_us = 0
        self.k0: bytes | None = None
        self.keyed: Keyed | None = None
        self._late: Keyed | None = None
        self.watched: Mapping[int, bytes] = {}
        self.holes: list[tuple[int, int, bytes, bytes]] = []  # (first missing, end, leaf before, what the record behind links to)

    def late_key(self, mac_epoch: int) -> Keyed | None:
        """The key of an earlier second, for a record that fills a gap: it was sealed before those that came before it."""
        if self.k0 is None:
            return None
        if self._late is None or self._late.epoch > mac_epoch:
            self._late = Keyed(self.k0)
        self._late.to(min(mac_epoch, MAX_MAC_EPOCH))
        return self._late


class Walk:
    """Checks the records of one partition up to ``size`` and keeps the roots of the sizes that were asked for."""

    def __init__(  # noqa: PLR0913  # one partition, and what it is read against
        self, partition: int, log_id: bytes, registry: Registry, findings: Findings, *, today: int, withheld: bool = False
    ) -> None:
        self.partition = partition
        self.chains: dict[bytes, Chain] = {}
        self.roots: dict[int, bytes] = {}
        self.entries = 0
        self.macs = 0
        self.end = 0  # where in the file the walk ended
        self.removals = Removals(registry, partition, today, findings, withheld=withheld)
        self._place = log_id + partition.to_bytes(2)
        self._registry = registry
        self._findings = findings
        self._mac_keys: Mapping[tuple[bytes, int], bytes] = {}
        self._claims: Claims = {}

    def begin(self, prune: Prune | None, mac_keys: Mapping[tuple[bytes, int], bytes], claims: Claims) -> None:
        """What the walk knows before the first record: the heads at the cut, keys, and what other partitions say."""
        self._mac_keys, self._claims = mac_keys, claims
        for head in prune.heads if prune else ():
            chain = self._chain(self._place + head.writer + head.epoch.to_bytes(4))
            chain.next, chain.leaf, chain.mac_epoch, chain.closed = head.seq + 1, head.leaf, head.mac_epoch, head.closed
            chain.holes = [*head.holes]
            if chain.keyed is not None:
                chain.keyed.to(min(head.mac_epoch, MAX_MAC_EPOCH))

    def run(self, buffer: Buffer, found: Scan, size: int, wanted: Iterable[int]) -> None:
        """Walks over the records below ``size``."""
        header = found.header
        tree = Growing(header.start, header.peaks)
        stops = sorted({stop for stop in wanted if header.start <= stop <= size} | {size}, reverse=True)
        leaves: list[bytes] = []
        at, length, begun = header.at, _U32.unpack_from, sha256(b"\0").copy
        for index in range(header.start, size):
            while stops[-1] == index:
                tree.extend(leaves)
                leaves = []
                self.roots[stops.pop()] = tree.root()
            end = at + 4 + length(buffer, at)[0]
            record = split(buffer, at + 4, end)
            at = end
            if record is None:
                self._findings.add("frame", self.partition, index)
                leaves.append(bytes(32))
                continue
            state = begun()
            state.update(record[0])
            leaf = state.digest()
            leaves.append(leaf)
            self._record(index, record, leaf)
            if len(leaves) >= _BATCH:
                tree.extend(leaves)
                leaves = []
        tree.extend(leaves)
        self.roots[size] = tree.root()
        self.end = at
        for chain in self.chains.values():
            for start, stop, _, _ in chain.holes:
                self._findings.add(
                    "gap", self.partition, None, start, f"{stop - start} of writer {chain.writer.hex()}, epoch {chain.epoch}"
                )

    def _record(  # noqa: C901, PLR0912  # one call a record: what a record has to be, in one place
        self, index: int, record: tuple[bytes, bytes | None, list[bytes | None], bytes], leaf: bytes
    ) -> None:
        core, env, parts, mac = record
        self.entries += 1
        magic, kind, ident, seq, ts_us, mac_epoch, retention_class, keep_until, n_parts, prev, env_hash = _CORE.unpack_from(core)
        chain = self.chains.get(ident)
        if chain is None:
            chain = self._chain(ident, index)
        if magic != MAGIC or not chain.at_home:
            self._findings.add("core", self.partition, index, seq, "another version, ledger or partition")
        if seq != chain.next or prev != chain.leaf or chain.closed:
            if not self._mislinked(index, chain, seq, prev, leaf):
                return
        else:
            chain.next, chain.leaf = seq + 1, leaf
        if kind or not seq:
            self._steering(index, chain, kind, seq, env)
        keyed = chain.keyed
        if seq + 1 < chain.next and mac_epoch <= chain.mac_epoch:
            keyed = chain.late_key(mac_epoch)
        elif mac_epoch != chain.mac_epoch:
            self._ratcheted(index, chain, seq, mac_epoch)
        if chain.admitted is not None and mac_epoch * _SECOND_US > ts_us - chain.admitted.opened_us + CLOCK_BOUND_S * _SECOND_US:
            self._findings.add("backdated", self.partition, index, seq, f"MAC epoch {mac_epoch}")
        if mac == NO_MAC:
            self._findings.add("mac_missing", self.partition, index, seq)
        elif keyed is not None:
            self.macs += 1
            if keyed.epoch != mac_epoch or keyed.of_leaf(leaf) != mac:
                self._findings.add("mac", self.partition, index, seq)
        if ts_us > chain.last_us:  # noqa: PLR1730  # a call of max costs a fiftieth of the whole
            chain.last_us = ts_us
        if env is not None and sha256(env).digest() != env_hash:
            self._findings.add("env_hash", self.partition, index, seq)
        if n_parts or env is None:
            self._bodies(index, core, env, parts, (seq, ts_us, retention_class, keep_until))
        if seq in chain.watched and chain.watched[seq] != leaf:
            self._findings.add("head_mismatch", self.partition, index, seq)

    def _bodies(self, index: int, core: bytes, env: bytes | None, parts: list[bytes | None], at: tuple[int, int, int, int]) -> None:
        seq, ts_us, retention_class, keep_until = at
        if env is None and core[5] in (0, 2, 7):
            handles = {core[place + 1 : place + 17] for place in range(CORE, len(core), PART)}
            self.removals.env_missing(index, seq, retention_class, keep_until, handles)
        elif env is None:
            self._findings.add("env_missing", self.partition, index, seq, "records of this kind keep their env")
        place = CORE
        for number, body in enumerate(parts):
            part_type = core[place]
            if not 1 <= part_type <= 4 or core[place + 17 : place + 29] != (_NONCE.pack(number, seq) if part_type < 4 else bytes(12)):
                self._findings.add("core", self.partition, index, seq, f"part {number}: type or nonce")
            if body is None:
                mark = part_type, core[place + 1 : place + 17]
                self.removals.part_missing(index, seq, number, mark, (retention_class, keep_until, ts_us, env is None))
            elif sha256(body).digest() != core[place + 29 : place + 61]:
                self._findings.add("part_hash", self.partition, index, seq, f"part {number}")
            place += PART

    def _mislinked(self, index: int, chain: Chain, seq: int, prev: bytes, leaf: bytes) -> bool:
        """Says what is wrong with the place of a record; true if the rest of it is still worth a look."""
        if seq < chain.next:
            return self._came_back(index, chain, seq, prev, leaf)
        if chain.closed:
            self._findings.add("after_close", self.partition, index, seq)
        if seq > chain.next:
            gaps = self._registry.gaps.get((self.partition, chain.writer, chain.epoch), [])
            if any(start <= chain.next and (end is None or end >= seq) for start, end in gaps):
                chain.holes.append((chain.next, seq, chain.leaf, prev))
            else:
                self._findings.add("sequence", self.partition, index, seq, f"{seq - chain.next} missing before it")
        elif prev != chain.leaf:
            self._findings.add("link", self.partition, index, seq)
        chain.next, chain.leaf = seq + 1, leaf
        return True

    def _came_back(self, index: int, chain: Chain, seq: int, prev: bytes, leaf: bytes) -> bool:
        for place, (start, end, before, behind) in enumerate(chain.holes):
            if start == seq and before == prev:
                if start + 1 < end:
                    chain.holes[place] = (start + 1, end, leaf, behind)
                else:
                    del chain.holes[place]
                    if behind != leaf:
                        self._findings.add("link", self.partition, index, seq, "what fills a gap is not what the record behind it links to")
                self._findings.add("late", self.partition, index, seq)
                return True
        last = seq == chain.next - 1
        self._findings.add("duplicate" if last and leaf == chain.leaf else "fork" if last else "order", self.partition, index, seq)
        return False

    def _steering(self, index: int, chain: Chain, kind: int, seq: int, env: bytes | None) -> None:
        """Genesis, close, and which kinds may stand where."""
        if kind > 8 or (kind not in _ANYWHERE and self.partition != REGISTRY):
            self._findings.add("kind", self.partition, index, seq, f"kind {kind}")
        if (kind == 1) != (seq == 0):
            self._findings.add("genesis", self.partition, index, seq, "a chain begins with its genesis, and has only one")
        elif kind == 1 and chain.admitted is not None and env is not None:
            said = read_json(env)
            if not isinstance(said, dict) or said.get("commitment") != chain.admitted.commitment.hex():
                self._findings.add("genesis", self.partition, index, seq, "it commits to another MAC key than the registry")
        chain.closed = chain.closed or kind == 7

    def _ratcheted(self, index: int, chain: Chain, seq: int, mac_epoch: int) -> None:
        if mac_epoch < chain.mac_epoch or mac_epoch > MAX_MAC_EPOCH:
            self._findings.add("mac_epoch", self.partition, index, seq, f"{mac_epoch} after {chain.mac_epoch}")
            return
        chain.mac_epoch = mac_epoch
        if chain.keyed is not None:
            chain.keyed.to(mac_epoch)

    def _chain(self, ident: bytes, index: int | None = None) -> Chain:
        _, partition, writer, epoch = _IDENT.unpack(ident)
        admitted = self._registry.admitted.get((writer, epoch))
        if admitted is None:
            self._findings.add("unregistered", self.partition, index, detail=f"writer {writer.hex()}, epoch {epoch}")
        chain = self.chains[ident] = Chain(writer, epoch, admitted, sha256(b"aud1/genesis" + ident).digest())
        chain.at_home = ident[:18] == self._place
        k0 = self._mac_keys.get((writer, epoch))
        if k0 is not None:
            chain.k0, chain.keyed = k0, Keyed(k0)
        if partition == self.partition:
            chain.watched = self._claims.get((writer, epoch), {})
        return chain

"""What writers say of themselves: heartbeats name the newest record of every chain, so a tail that was cut off shows."""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

from . import fields
from .fields import Malformed
from .partition import Chain, Walk
from .reading import REGISTRY, Buffer, Scan, control_at
from .registry import Registry
from .report import Findings

SILENT_BEATS: Final = 3
_TS: Final = struct.Struct(">Q")
_SECOND_US: Final = 1_000_000
_ChainKey = tuple[int, bytes, int]


class Claim(NamedTuple):
    """The highest record of a chain that its writer has named, when, and by which epoch of it."""

    seq: int
    leaf: bytes
    ts_us: int


class Heads:
    """The claims of all writers about all chains: the newest one, and the newest one that is due."""

    def __init__(self) -> None:
        self.newest_us = 0
        self._newest: dict[_ChainKey, Claim] = {}
        self._due: dict[_ChainKey, Claim] = {}
        self._succeeded: dict[tuple[bytes, int], dict[int, int]] = {}

    def see_times(self, buffer: Buffer, found: Scan, size: int) -> None:
        """Learns what the newest moment in the ledger is, before claims are weighed by their age."""
        for index, at in zip(found.controls[::2], found.controls[1::2], strict=True):
            if index < size:
                self._see(buffer, at)
        if found.last >= 0 and size >= found.header.start + found.whole:
            self._see(buffer, found.last)

    def read(  # noqa: PLR0913  # one partition, and what it is read against
        self, partition: int, buffer: Buffer, found: Scan, size: int, registry: Registry, findings: Findings
    ) -> None:
        """Collects the claims of one partition's records below ``size``."""
        for index, at in zip(found.controls[::2], found.controls[1::2], strict=True):
            if index >= size:
                break
            if buffer[at + 5] not in (1, 2, 7):
                continue
            record = control_at(buffer, at)
            if record is None:
                continue  # the walk says so
            writer, epoch, ts_us = record[0][24:40], int.from_bytes(record[0][40:44]), _TS.unpack_from(record[0], 52)[0]
            try:
                self._take(record[1], writer, epoch, ts_us, registry)
            except Malformed as error:
                findings.add("control", partition, index, detail=str(error))

    def watched(self, partition: int) -> dict[tuple[bytes, int], dict[int, bytes]]:
        """What the walk over a partition has to compare: per writer epoch the numbers that were named."""
        found: defaultdict[tuple[bytes, int], dict[int, bytes]] = defaultdict(dict)
        for claims in (self._newest, self._due):
            for (where, writer, epoch), claim in claims.items():
                if where == partition:
                    found[writer, epoch][claim.seq] = claim.leaf
        return found

    def judge(self, walks: Mapping[int, Walk], pruned: Mapping[int, int], registry: Registry, findings: Findings) -> None:
        """After all walks: named records that are not there, writers that fell silent. ``pruned`` are the days of cuts, in µs."""
        chains = {(walk.partition, chain.writer, chain.epoch): chain for walk in walks.values() for chain in walk.chains.values()}
        for code, claims in (("head_missing", self._due), ("head_pending", self._newest)):
            for key, claim in claims.items():
                chain = chains.get(key)
                absent = claim.seq >= chain.next if chain else claim.ts_us > pruned.get(key[0], -1)
                if absent and (code == "head_missing" or self._due.get(key) != claim):
                    findings.add(code, key[0], None, claim.seq, f"writer {key[1].hex()}, epoch {key[2]}")
        per_writer: defaultdict[tuple[bytes, int], list[tuple[int, Chain]]] = defaultdict(list)
        for (partition, writer, epoch), chain in chains.items():
            per_writer[writer, epoch].append((partition, chain))
        for (writer, epoch), admitted in registry.admitted.items():
            if not self._accounted(registry, (writer, epoch), per_writer[writer, epoch], pruned.values(), admitted.ts_us):
                findings.add("silent", None, detail=f"writer {writer.hex()}, epoch {epoch}")

    def _accounted(
        self, registry: Registry, key: tuple[bytes, int], chains: list[tuple[int, Chain]], cuts: Collection[int], admitted_us: int
    ) -> bool:
        last_us = max((chain.last_us for _, chain in chains), default=admitted_us)
        if last_us > self._cutoff(registry, key):
            return True
        if not chains and any(cut >= admitted_us for cut in cuts):
            return True  # it may lie in what was pruned
        if key not in self._succeeded and any(
            writer == key[0] and epoch > key[1] and any(cut >= later.ts_us for cut in cuts)
            for (writer, epoch), later in registry.admitted.items()
        ):
            return True  # as may the genesis of the epoch after it, which named its heads
        named = self._succeeded.get(key, {})
        return bool(chains) and all(
            chain.closed
            or named.get(partition) == chain.next - 1
            or any(end is None for _, end in registry.gaps.get((partition, *key), []))
            or not chain.last_us  # its newest record was pruned
            for partition, chain in chains
        )

    def _take(self, env: object, writer: bytes, epoch: int, ts_us: int, registry: Registry) -> None:
        said = fields.mapping(env)
        if "previous" in said:
            if said["previous"] is None:
                return
            before = fields.mapping(said["previous"])
            epoch, rows = fields.integer(before.get("epoch")), before.get("heads")
        else:
            rows = said.get("heads", [] if "close" in said else None)
        heads = {}
        for where, seq, leaf in fields.items(rows, 3):
            heads[fields.integer(where, REGISTRY)] = fields.integer(seq)
            claim = Claim(fields.integer(seq), fields.digest(leaf), ts_us)
            _keep(self._newest, (fields.integer(where), writer, epoch), claim)
            if ts_us <= self._cutoff(registry, (writer, epoch)):
                _keep(self._due, (fields.integer(where), writer, epoch), claim)
        if "previous" in said or ("close" in said and heads):
            self._succeeded[writer, epoch] = heads

    def _cutoff(self, registry: Registry, key: tuple[bytes, int]) -> int:
        admitted = registry.admitted.get(key)
        return self.newest_us - SILENT_BEATS * (admitted.heartbeat_s if admitted else 5) * _SECOND_US

    def _see(self, buffer: Buffer, at: int) -> None:
        self.newest_us = max(self.newest_us, _TS.unpack_from(buffer, at + 52)[0])


def _keep(claims: dict[_ChainKey, Claim], key: _ChainKey, claim: Claim) -> None:
    known = claims.get(key)
    if known is None or claim.seq > known.seq:
        claims[key] = claim

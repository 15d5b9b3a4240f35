"""A sealed record that arrives: whose it is, whether it is his, and whether it continues its chain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from tallyroll.audit.ledger.authentic import Macs
from tallyroll.audit.ledger.layout import (
    CLOCK_BOUND_S,
    MAX_MAC_EPOCH,
    NO_NONCE,
    Core,
    Kind,
    PartMark,
    PartType,
    Record,
    is_dated,
    k0_commitment,
    nonce_of,
)
from tallyroll.audit.ledger.partition import REPEAT, TAKEN, Offered, Verdict
from tallyroll.audit.sealing.lane import Lane
from tallyroll.audit.sealing.registry import Admission, ChainKey, Registry
from tallyroll.errors import KeyGone
from tallyroll.ports import KeyRing

_UNREGISTERED: Final = Verdict.UNREGISTERED
_PLAIN: Final = PartType.PLAIN
_ANYWHERE: Final = (Kind.ENTRY, Kind.GENESIS, Kind.HEADS, Kind.CLOSE)
_SECOND_US: Final = 1_000_000
_AHEAD_US: Final = 86_400 * _SECOND_US  # who verifies takes the newest moment for now: further on, all others would look silent
_SEALED: Final = frozenset({PartType.SUBJECT, PartType.GROUP, PartType.UNKNOWN})

Admit = Callable[[ChainKey, Admission], None]


class Arrived(msgspec.Struct, frozen=True, gc=False):
    """A record, judged. ``code`` says why it is not appended; empty where it is, or was before."""

    offered: Offered
    code: str


class Intake:
    """Judges arrivals: their chain, and the MAC under the key of their own second, which only their writer has."""

    def __init__(self, ring: KeyRing, *, heartbeat_s: int) -> None:
        self._ring = ring
        self._heartbeat_s = heartbeat_s
        self._macs = Macs(ring)

    def judge(self, lane: Lane, record: Record, registry: Registry, admit: Admit, now_us: int) -> Arrived:
        """What a record is. ``admit`` is called for a writer epoch that was enrolled and is not registered yet."""
        offered = lane.ledger.judge(record, registry.admitted)
        if offered.core is None:
            return Arrived(offered, "broken")
        core = offered.core
        chain = (core.chain.writer, core.chain.epoch)
        if offered.verdict is _UNREGISTERED:
            admission = self._enrolled(core, offered)
            if admission is None:
                return Arrived(offered, "unregistered")
            admit(chain, admission)
            lane.know(chain)
            offered = lane.ledger.judge(record, registry.admitted)
        elif chain not in lane.ledger.tips:
            lane.know(chain)
            offered = lane.ledger.judge(record, registry.admitted)
        if offered.verdict in TAKEN:
            return Arrived(offered, self._wrong(core, offered, registry.admitted[chain], now_us))
        return Arrived(offered, "" if offered.verdict is REPEAT else offered.verdict.name.lower())

    def _wrong(self, core: Core, offered: Offered, admission: Admission, now_us: int) -> str:
        """Why a record whose place is right is not appended; empty for none."""
        if core.kind not in _ANYWHERE or not is_dated(core):
            return "broken"
        for index, mark in enumerate(core.parts):
            if not _is_well_marked(mark, index, core.seq):
                return "broken"
        age_us = core.mac_epoch * _SECOND_US - CLOCK_BOUND_S * _SECOND_US
        if core.mac_epoch > MAX_MAC_EPOCH or age_us > core.ts_us - admission.opened_us:  # by its own clock, which may be wrong
            return "backdated"
        if core.ts_us > now_us + _AHEAD_US:
            return "postdated"
        return "" if self._macs.is_authentic(core, offered.leaf, offered.record.mac) else "forged"

    def _enrolled(self, core: Core, offered: Offered) -> Admission | None:
        """What the registry is to say of a writer epoch that the ring has enrolled.

        By its genesis; or, where that was lost, by a record whose MAC only the enrolled writer can make.
        """
        writer, epoch, record = core.chain.writer, core.chain.epoch, offered.record
        try:
            commitment = k0_commitment(self._ring.k0(writer, epoch))
            if core.kind == Kind.GENESIS:
                said = _decode_any(record.env or b"")
                if bytes.fromhex(said["commitment"]) != commitment or not self._ring.admits(writer, epoch, str(said["token"])):
                    return None
            elif not self._macs.is_authentic(core, offered.leaf, record.mac):
                return None
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, KeyError, TypeError, ValueError, KeyGone):
            return None
        return Admission(commitment, max(0, core.ts_us - core.mac_epoch * _SECOND_US), self._heartbeat_s)


def _is_well_marked(mark: PartMark, index: int, seq: int) -> bool:
    if mark.part_type == _PLAIN:
        return mark.nonce == NO_NONCE
    return mark.part_type in _SEALED and mark.nonce == nonce_of(index, seq)


_decode_any: Final = msgspec.json.Decoder(dict[str, Any]).decode

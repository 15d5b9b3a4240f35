"""What a projector made of everybody, kept for its next run: snapshots of users' own reducers.

A file holds everybody's state as of one offset vector. A run that begins with it folds what came after; an owner of whom
something came that belongs before what is folded already is folded from its first event again. So the states are those of a
full fold, whatever was late. Files are immutable; the newest two of a reducer stay.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, Final, NamedTuple

import msgspec

from tallyroll.errors import StoreUnavailable
from tallyroll.events.position import TopicPartition
from tallyroll.ports import SegmentFiles
from tallyroll.replay.fold import View
from tallyroll.replay.order import Standing
from tallyroll.replay.plan import PartitionPlan, Plan

log: Final = logging.getLogger("tallyroll.replay")

_MAGIC: Final = b"tallyroll states 1\n"
_HASH_BYTES: Final = 32
_SUFFIX: Final = ".states"
_STAY: Final = 2  # an older one, should the newest be damaged
_encode: Final = msgspec.msgpack.Encoder().encode


class KeptState(NamedTuple):
    """One owner's state, of how many events, and how far these go."""

    state: dict[str, Any]
    version: int
    standing: Standing


class KeptEnd(NamedTuple):
    """How far a partition was read, and what recognises repeats behind that."""

    end: int
    repeats: bytes


@dataclass(frozen=True, slots=True)
class Kept:
    """Everybody's states as of ``ends``. Not promised: that the states are untouched once a run has begun with them."""

    ends: Mapping[TopicPartition, KeptEnd]
    owners: Mapping[str, KeptState]

    def fits(self, plan: Plan) -> bool:
        """Whether nothing in it lies outside of what the plan reads, and the plan can be gone on with from there."""
        plans = {one.partition: one for one in plan.partitions}
        return all(
            (one := plans.get(partition)) is not None and end <= one.end and bool(repeats or end <= one.archive[1] or not end)
            for partition, (end, repeats) in self.ends.items()
        )

    def rest(self, plan: Plan) -> Plan:
        """What the plan reads beyond it."""
        return Plan([_rest(one, self.ends[one.partition]) if one.partition in self.ends else one for one in plan.partitions])


class _File(msgspec.Struct, array_like=True):
    key: str
    ends: list[tuple[str, int, int, bytes]]
    owners: list[tuple[str, dict[str, Any], int, Standing]]


_decode: Final = msgspec.msgpack.Decoder(_File).decode


@dataclass(slots=True)
class KeptStates:
    """What is kept of one reducer. Its methods block. ``damaged`` names the files that are not what was written."""

    files: SegmentFiles
    key: str
    damaged: list[str] = field(default_factory=list)

    def newest(self, plan: Plan) -> Kept | None:
        """The newest sound one that fits a plan; None if there is none. Raises StoreUnavailable."""
        for name in self._names():
            try:
                kept = _read(self.files.open(name), self.key)
            except FileNotFoundError:
                continue  # another run has removed it
            except OSError as error:
                raise StoreUnavailable(name, type(error).__name__) from error
            except ValueError:
                self.damaged.append(name)
                log.warning("%s is damaged; it is ignored", name)
                continue
            if kept.fits(plan):
                return kept
        return None

    def keep(self, kept: Kept) -> bool:
        """Writes one more, and removes those that are older than the newest two. False, and logged, where that failed.

        The answer itself is no worse for that, so it is not an error.
        """
        body = _encode(
            _File(
                self.key,
                [(*partition, *known) for partition, known in sorted(kept.ends.items())],
                [(owner, *one) for owner, one in sorted(kept.owners.items())],
            )
        )
        name = f"{self.key}-{sum(known.end for known in kept.ends.values()):020}{_SUFFIX}"
        try:
            self.files.put(name, _MAGIC + sha256(body).digest() + body)
            for old in {*self._names()[_STAY:], *self.damaged} - {name}:
                self.files.remove(old)
        except OSError as error:
            log.warning("%s cannot be kept: %s", name, type(error).__name__)
            return False
        return True

    def _names(self) -> Sequence[str]:
        return sorted((name for name in self.files.names() if name.startswith(f"{self.key}-") and name.endswith(_SUFFIX)), reverse=True)


def kept_key(reducer_id: str, view: View) -> str:
    """Names a reducer together with the way events are dealt to owners."""
    return sha256(msgspec.json.encode([reducer_id, view.owner, sorted(view.topics)])).hexdigest()[:32]


def _read(content: memoryview, key: str) -> Kept:
    """Raises ValueError for what is not, byte for byte, what was written."""
    start = len(_MAGIC) + _HASH_BYTES
    body = content[start:]
    if bytes(content[: len(_MAGIC)]) != _MAGIC or sha256(body).digest() != bytes(content[len(_MAGIC) : start]):
        raise ValueError("another checksum")
    made = _decode(body)
    if made.key != key:
        raise ValueError("another reducer's")
    return Kept(
        {TopicPartition(topic, number): KeptEnd(end, repeats) for topic, number, end, repeats in made.ends},
        {owner: KeptState(state, version, standing) for owner, state, version, standing in made.owners},
    )


def _rest(one: PartitionPlan, known: KeptEnd) -> PartitionPlan:
    end = known.end
    missing = [(max(start, end), stop) for start, stop in one.missing if stop > end]
    (start, stop), (log_start, log_stop) = one.archive, one.log
    if end <= stop:
        return replace(one, archive=(max(start, end), stop), missing=missing)
    return replace(one, archive=(stop, stop), log=(max(log_start, end), log_stop), missing=missing, repeats=known.repeats)

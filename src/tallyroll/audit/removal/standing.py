"""What the registry says of bodies that are gone, have to go, or may not go: erasures, holds, retention runs and prunings.

Pure; whoever reads the registry folds its records in order.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Final, NamedTuple

import msgspec

from tallyroll.audit.ledger.layout import Kind
from tallyroll.audit.ledger.stored import record_in, steering
from tallyroll.ports import LedgerRow

_env: Any = msgspec.json.Decoder(dict[str, Any])


class Hold(NamedTuple):
    """What may not be removed while it is set: a stretch of a partition or of all, of one handle or of any."""

    hold_id: str
    partition: int | None
    start: int
    end: int | None
    handle: bytes | None
    who: str
    why: str
    since_us: int

    def covers(self, partition: int, number: int, handles: Collection[bytes]) -> bool:
        """Whether it touches that record. ``handles`` are those of its parts, or of the parts in question."""
        inside = self.partition in (None, partition) and self.start <= number and (self.end is None or number < self.end)
        return inside and (self.handle is None or self.handle in handles)


class Asked(NamedTuple):
    """An erasure that was asked for. ``restricted`` says what stands against it, if something does."""

    handles: tuple[bytes, ...]
    restricted: str


class Stretches:
    """Stretches of numbers, as they come; asking whether one of them covers a number costs little, however many there are."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._reach: list[int] = []

    def add(self, start: int, end: int) -> None:
        """One more, without its end."""
        at = bisect_right(self._starts, start)
        self._starts.insert(at, start)
        self._ends.insert(at, end)
        self._reach = []

    def cover(self, number: int) -> bool:
        """Whether one of them does."""
        if len(self._reach) != len(self._ends):
            self._reach = [*accumulate(self._ends, max)]
        at = bisect_right(self._starts, number)
        return at > 0 and self._reach[at - 1] > number


@dataclass
class Standing:
    """All of it. ``pending`` are requests that are neither done nor restricted: they were cut short, and are to be asked again.

    ``destroyed`` are the handles whose keys went, or were about to, by an erasure that nothing stood against; ``expiries`` are
    the stretches of a partition and a retention class whose personal parts went when their time was over.
    """

    size: int = 0
    holds: dict[str, Hold] = field(default_factory=dict)
    asked: dict[str, Asked] = field(default_factory=dict)
    done: dict[str, int] = field(default_factory=dict)
    erased: set[bytes] = field(default_factory=set)
    erased_parts: set[tuple[int, int, int]] = field(default_factory=set)
    destroyed: set[bytes] = field(default_factory=set)
    expiries: defaultdict[tuple[int, int], Stretches] = field(default_factory=lambda: defaultdict(Stretches))
    personal_days: dict[int, int | None] = field(default_factory=dict)
    pruned: dict[int, dict[str, Any]] = field(default_factory=dict)
    runs: list[dict[str, Any]] = field(default_factory=list)

    @property
    def restricted(self) -> dict[bytes, str]:
        """Handles whose parts no reader may see, and why they are still there."""
        return {
            handle: asked.restricted
            for asked in self.asked.values()
            if asked.restricted
            for handle in asked.handles
            if handle not in self.erased
        }

    @property
    def pending(self) -> dict[str, Asked]:
        """See the class."""
        return {request: asked for request, asked in self.asked.items() if request not in self.done and not asked.restricted}

    def held_by(self, partition: int, number: int, handles: Collection[bytes]) -> str | None:
        """The hold that covers a record, if one does."""
        return next((hold.hold_id for hold in self.holds.values() if hold.covers(partition, number, handles)), None)

    def expired(self, partition: int, retention_class: int, number: int) -> bool:
        """Whether the personal parts of a record went, or were about to, since their time was over."""
        stretches = self.expiries.get((partition, retention_class))
        return stretches is not None and stretches.cover(number)

    def read(self, rows: Iterable[LedgerRow]) -> None:
        """Takes in further records of the registry, in their order. Raises LedgerTampered."""
        for row in rows:
            record, core = record_in(row)
            reader = _READERS.get(core.kind)
            if reader is not None and record.env is not None:
                with steering(row):
                    reader(self, _env.decode(record.env), row.number, core.ts_us)
            self.size = row.number + 1


def _erasure(standing: Standing, env: dict[str, Any], number: int, _: int) -> None:
    request, handles = str(env["request"]), tuple(bytes.fromhex(handle) for handle in env.get("handles", ()))
    if env["erasure"] == "request":
        asked = standing.asked[request] = Asked(handles, str(env.get("restricted", "")))
        if not asked.restricted:
            standing.destroyed.update(handles)
        return
    standing.done[request] = number
    standing.erased.update(handles)
    standing.destroyed.update(handles)
    standing.erased_parts.update((one, two, three) for one, two, three in env.get("parts", ()))


def _retention(standing: Standing, env: dict[str, Any], number: int, ts_us: int) -> None:
    standing.runs.append({**env, "index": number, "ts_us": ts_us})
    if env["retention"] == "prune":
        standing.pruned[int(env["partition"])] = env
    elif env["retention"] == "personal":
        standing.expiries[int(env["partition"]), int(env["retention_class"])].add(int(env["start"]), int(env["end"]))


def _hold(standing: Standing, env: dict[str, Any], _: int, ts_us: int) -> None:
    hold_id = str(env["id"])
    if env["hold"] == "released":
        standing.holds.pop(hold_id, None)
        return
    handle = None if env["handle"] is None else bytes.fromhex(env["handle"])
    standing.holds[hold_id] = Hold(hold_id, env["partition"], env["start"], env["end"], handle, env["who"], env["why"], ts_us)


def _key(standing: Standing, env: dict[str, Any], _: int, __: int) -> None:
    if env["key"] == "rule_set":
        for number, days in env["classes"].items():
            standing.personal_days.setdefault(int(number), days)


_READERS: Final[dict[int, Callable[[Standing, dict[str, Any], int, int], None]]] = {
    Kind.ERASURE: _erasure,
    Kind.RETENTION: _retention,
    Kind.HOLD: _hold,
    Kind.KEY: _key,
}

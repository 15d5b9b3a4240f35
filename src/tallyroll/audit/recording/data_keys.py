"""The keys that parts are sealed under, as a recorder holds them: for a while, so that an entry costs no look into the ring."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Final, NamedTuple

from tallyroll.audit.ledger.chain import Part, group_key
from tallyroll.audit.ledger.layout import PartType
from tallyroll.errors import KeyGone, KeyRingUnavailable, SealingRequired
from tallyroll.ports import DataKey, KeyRing

LEASE_S: Final = 300.0
"""How long a key may be used without asking the ring for it; while the ring is away, a destroyed one too."""

LOOK_S: Final = 1.0
"""How often the ring is asked whether keys were destroyed: for so long a recorder may seal under a key that another process did."""

_AWAY_S: Final = 15.0  # a ring that does not answer may take seconds to say so, and recording waits for it
_MAX_HELD: Final = 10_000  # people and groups; some 3 MB
_LEAST_DRAW: Final = 256
_MOST_DRAW: Final = 8_192  # making so many takes some 20 ms, in a thread


_Found = tuple[tuple[str, ...], PartType, DataKey]


class _Held(NamedTuple):
    part_type: PartType
    key: DataKey
    until: float


class DataKeys:
    """Gives parts their keys. Used from one event loop; the ring is asked in a thread. No repr or error holds a key or a name."""

    def __init__(self, ring: KeyRing, monotonic: Callable[[], float]) -> None:
        self._ring = ring
        self._now = monotonic
        self._held: dict[tuple[str, ...], _Held] = {}
        self._drawn: deque[DataKey] = deque()
        self._draw = _LEAST_DRAW
        self._seen, self._look_at = b"", float("-inf")

    def lacks(self, people: Sequence[tuple[str, ...]]) -> tuple[set[tuple[str, ...]], int]:
        """Whose keys are not here, or not any more, and how many of nobody known are missing."""
        now = self._now()
        missing = {names for names in people if names and ((held := self._held.get(names)) is None or held.until < now)}
        return missing, max(0, sum(not names for names in people) - len(self._drawn))

    async def look(self) -> list[bytes]:
        """Drops everything held where keys were destroyed by another process; gives that, as ``forget`` does. Seldom asks the ring.

        Where that does not answer, the lease ends what is held.
        """
        now = self._now()
        if now < self._look_at:
            return []
        self._look_at = now + LOOK_S
        try:
            seen = await asyncio.to_thread(self._ring.destructions)
        except KeyRingUnavailable:
            self._look_at = self._now() + _AWAY_S
            return []
        if seen == self._seen:
            return []
        held, self._held, self._seen = self._held, {}, seen
        return [one.key.key for one in held.values()]

    async def prepare(self, people: Sequence[tuple[str, ...]]) -> None:
        """Gets what is lacking for parts about these people. Raises SealingRequired where the ring gives no key."""
        missing, unknown = self.lacks(people)
        if not missing and not unknown:
            return
        count = 0
        if unknown:
            count = max(self._draw, unknown)
            self._draw = min(_MOST_DRAW, self._draw * 2)
        now = self._now()
        try:
            drawn, found = await asyncio.to_thread(self._ask, sorted(missing), count)
        except KeyRingUnavailable as error:
            raise SealingRequired(error.reason) from None
        except KeyGone:
            raise SealingRequired("a key was destroyed in this moment") from None
        self._drawn += drawn
        if len(self._held) + len(found) > _MAX_HELD:
            self._held.clear()
        self._held.update((names, _Held(part_type, key, now + LEASE_S)) for names, part_type, key in found)

    def part(self, names: tuple[str, ...], text: bytes) -> Part:
        """The part about these people, or with a new key about nobody known. Raises LookupError for what is lacking."""
        if not names:
            key = self._drawn.popleft()
            return Part(PartType.UNKNOWN, key.handle, key.key, text)
        held = self._held[names]
        return Part(held.part_type, held.key.handle, held.key.key, text)

    def forget(self, handles: Collection[bytes]) -> list[bytes]:
        """Drops these keys, and those of groups, which may have died with one of them; gives them, for what was derived from them."""
        gone = {names: held for names, held in self._held.items() if held.part_type == PartType.GROUP or held.key.handle in handles}
        for names in gone:
            del self._held[names]
        return [held.key.key for held in gone.values()]

    def _ask(self, missing: Sequence[tuple[str, ...]], count: int) -> tuple[Sequence[DataKey], list[_Found]]:
        drawn = self._ring.draw(count) if count else ()
        names = sorted({name for one in missing for name in one})
        keys = dict(zip(names, self._ring.subjects(names), strict=True)) if names else {}
        found: list[_Found] = []
        for one in missing:
            if len(one) == 1:
                found.append((one, PartType.SUBJECT, keys[one[0]]))
            else:
                members = [keys[name] for name in one]
                handle = self._ring.group([key.handle for key in members])
                found.append((one, PartType.GROUP, DataKey(handle, group_key(members))))
        return drawn, found

    def __repr__(self) -> str:
        """Without keys and names."""
        return f"DataKeys({len(self._held)} held, {len(self._drawn)} drawn)"

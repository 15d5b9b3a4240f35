"""Whose key seals a part, and how it is opened again: one subject's, all of several, or one drawn for this part alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from tallyroll.audit.ledger import layout
from tallyroll.audit.ledger.chain import Part, group_key, open_part
from tallyroll.audit.ledger.layout import PartType, Record
from tallyroll.errors import KeyGone
from tallyroll.ports import Cipher, DataKey, KeyRing

_AT_ONCE: Final = 256


class DrawnKeys:
    """Keys of nobody known, drawn many at a time: a ring writes to the disk, and waits for it, each time that it is asked.

    Not promised: that all of them are used; one that is not takes no room in the ring.
    """

    def __init__(self, ring: KeyRing) -> None:
        self._ring = ring
        self._keys: deque[DataKey] = deque()

    def take(self, count: int) -> list[DataKey]:
        """As ``KeyRing.draw``."""
        if len(self._keys) < count:
            self._keys += self._ring.draw(max(count, _AT_ONCE))
        return [self._keys.popleft() for _ in range(count)]

    def __repr__(self) -> str:
        """Without keys."""
        return f"DrawnKeys({len(self._keys)})"


def part_about(ring: KeyRing, text: bytes, subjects: Sequence[str] = ()) -> Part:
    """The text as a part to be sealed. Nobody can read it after the key of any of its subjects is destroyed.

    Where no subject is known it gets a key of its own, so that it can be shredded singly. Raises KeyRingUnavailable.
    """
    return parts_about(ring, [(subjects, text)])[0]


def parts_about(
    ring: KeyRing, sentences: Sequence[tuple[Sequence[str], bytes]], draw: Callable[[int], Sequence[DataKey]] | None = None
) -> list[Part]:
    """As ``part_about`` of each, which asks the ring once for all of them; keys of nobody known come from ``draw`` if given."""
    names = sorted({name for subjects, _ in sentences for name in subjects})
    keys = dict(zip(names, ring.subjects(names), strict=True)) if names else {}
    unknown = sum(1 for subjects, _ in sentences if not subjects)
    drawn = iter((draw or ring.draw)(unknown) if unknown else ())
    groups: dict[tuple[str, ...], tuple[bytes, bytes]] = {}
    parts = []
    for subjects, text in sentences:
        about = tuple(sorted(set(subjects))) if len(subjects) > 1 else tuple(subjects)
        if len(about) > 1:
            if about not in groups:
                members = [keys[name] for name in about]
                groups[about] = (ring.group([key.handle for key in members]), group_key(members))
            parts.append(Part(PartType.GROUP, *groups[about], text))
        else:
            key = keys[about[0]] if about else next(drawn)
            parts.append(Part(PartType.SUBJECT if about else PartType.UNKNOWN, key.handle, key.key, text))
    return parts


def text_of(ring: KeyRing, cipher: Cipher, record: Record, index: int) -> bytes:
    """The text of a part. Raises KeyGone where it was erased, LookupError where it was removed, SealBroken where it does not open."""
    mark = layout.unpack_core(record.core).parts[index]
    body = record.parts[index]
    if mark.part_type == PartType.PLAIN:
        if body is None:
            raise LookupError("the part was removed")
        return body
    if mark.part_type != PartType.GROUP:
        return open_part(cipher, record, index, ring.key(mark.handle))
    deks = [(handle, ring.key(handle)) for handle in ring.members(mark.handle)]
    if not deks:
        raise KeyGone(mark.handle)
    return open_part(cipher, record, index, group_key(deks))

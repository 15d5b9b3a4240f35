"""Whose key seals a part, and how it is opened again: one subject's, all of several, or one drawn for this part alone."""

from __future__ import annotations

from collections.abc import Sequence

from tallyroll.audit import layout
from tallyroll.audit.chain import Part, group_key, open_part
from tallyroll.audit.layout import PartType, Record
from tallyroll.errors import KeyGone
from tallyroll.ports import KeyRing, Sealer


def part_about(ring: KeyRing, text: bytes, subjects: Sequence[str] = ()) -> Part:
    """The text as a part to be sealed. Nobody can read it after the key of any of its subjects is destroyed.

    Where no subject is known it gets a key of its own, so that it can be shredded singly. Raises KeyRingUnavailable.
    """
    names = sorted(set(subjects))
    keys = ring.subjects(names) if names else ring.draw(1)
    if len(keys) == 1:
        return Part(PartType.SUBJECT if names else PartType.UNKNOWN, keys[0].handle, keys[0].key, text)
    return Part(PartType.GROUP, ring.group([key.handle for key in keys]), group_key(keys), text)


def text_of(ring: KeyRing, sealer: Sealer, record: Record, index: int) -> bytes:
    """The text of a part. Raises KeyGone where it was erased, LookupError where it was removed, SealBroken where it does not open."""
    mark = layout.unpack_core(record.core).parts[index]
    body = record.parts[index]
    if mark.part_type == PartType.PLAIN:
        if body is None:
            raise LookupError("the part was removed")
        return body
    if mark.part_type != PartType.GROUP:
        return open_part(sealer, record, index, ring.key(mark.handle))
    deks = [(handle, ring.key(handle)) for handle in ring.members(mark.handle)]
    if not deks:
        raise KeyGone(mark.handle)
    return open_part(sealer, record, index, group_key(deks))

"""What stands for everything that was pruned, as a file beside the segments: an index can begin anew from it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Final

import msgspec

from tallyroll.archive.segment import GENESIS
from tallyroll.events.position import TopicPartition
from tallyroll.ports import ArchiveMark, Pruned, Segment

SUFFIX: Final = ".anchor"
_FORMAT: Final = "1"
_HASH_BYTES: Final = 32
_Written = tuple[str, TopicPartition, Pruned]  # the first: of which format it is
_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final[Callable[[bytes], _Written]] = msgspec.msgpack.Decoder(_Written).decode


def anchor_name(kept: int) -> str:
    """The name of the file that stands for what lies below an offset."""
    return f"{kept:020d}{SUFFIX}"


def anchor_bytes(partition: TopicPartition, pruned: Pruned) -> bytes:
    """The content of the file: MessagePack, behind its SHA-256."""
    content = _encode((_FORMAT, partition, pruned))
    return sha256(content).digest() + content


def anchor_from(content: bytes | memoryview, partition: TopicPartition) -> Pruned:
    """What ``anchor_bytes`` was given. Raises ValueError for anything else, and for another partition's."""
    digest, content = bytes(content[:_HASH_BYTES]), bytes(content[_HASH_BYTES:])
    if sha256(content).digest() != digest:
        raise ValueError("its bytes are not what was written")
    try:
        form, of, pruned = _decode(content)
    except msgspec.MsgspecError:
        raise ValueError("it is of another format") from None
    if form != _FORMAT or of != partition:
        raise ValueError("it is of another format, or of another partition")
    return pruned


def previous_of(mark: ArchiveMark | None) -> str:
    """The digest that the first segment of a partition follows."""
    return (mark.kept_digest if mark is not None else "") or GENESIS


def whole_from(found: Sequence[Segment], anchors: Sequence[Pruned]) -> tuple[Pruned | None, Sequence[Segment]]:
    """The anchor to begin at, and the segments behind it: all of them where their chain goes back to the very first.

    Else the lowest anchor from which it goes on unbroken; if there is none, the last one, for the caller to find the break.
    """
    starts: list[Pruned | None] = [None, *sorted(anchors, key=lambda one: one.kept)]
    for start in starts:
        rest = [one for one in found if start is None or one.base >= start.kept]
        follows = [start.digest if start is not None else GENESIS, *(one.digest for one in rest)]
        if (rest or start is not None) and all(one.previous == digest for one, digest in zip(rest, follows, strict=False)):
            return start, rest
    last = starts[-1]
    return last, [one for one in found if last is None or one.base >= last.kept]

"""Snapshots of parts: what makes one valid. A part that was kept at an offset stands for every event below it. Pure."""

from __future__ import annotations

from hashlib import sha256

import msgspec

from tallyroll.events.position import TopicPartition
from tallyroll.ports import StoredPart


def stored_part(  # noqa: PLR0913  # everything that identifies a snapshot
    view: str, owner: str, partition: TopicPartition, reducer_id: str, end: int, order_us: int, version: int, part: bytes
) -> StoredPart:
    """The snapshot with its checksum."""
    return StoredPart(
        view, owner, partition, reducer_id, end, order_us, version, part, checksum(view, owner, partition, reducer_id, end, part)
    )


def checksum(view: str, owner: str, partition: TopicPartition, reducer_id: str, end: int, part: bytes) -> bytes:  # noqa: PLR0913  # as above
    """SHA-256 over what identifies a snapshot, as JSON, and the part."""
    return sha256(msgspec.json.encode([view, owner, *partition, reducer_id, end]) + part).digest()


def is_sound(kept: StoredPart) -> bool:
    """Whether a snapshot is, byte for byte, what was kept."""
    return kept.checksum == checksum(kept.view, kept.owner, kept.partition, kept.reducer_id, kept.end, kept.part)

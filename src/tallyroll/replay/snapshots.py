"""Snapshots of parts: what makes one valid. A part that was kept at an offset stands for every event below it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

import msgspec

from tallyroll.errors import SnapshotMismatch
from tallyroll.events.position import TopicPartition
from tallyroll.ports import StoredPart
from tallyroll.replay.fold import state_hash

_encode: Final = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class StateSnapshot:
    """A joined state as of an offset vector, in a form to keep. ``checksum`` is the state's hash, SHA-256 in hex.

    ``event_position``: the sum of the vector's ends. Not promised: to be anything a replay starts from; those are parts.
    """

    aggregate_id: str
    state_type: str
    state: Mapping[str, Any]
    as_of: Mapping[str, int]
    event_position: int
    created_at: str
    checksum: str

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        names = ("aggregate_id", "state_type", "event_position", "created_at", "checksum")
        return {"state": dict(self.state), "as_of": dict(self.as_of), **{name: getattr(self, name) for name in names}}

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> StateSnapshot:
        """The snapshot that ``to_dict`` wrote. Raises SnapshotMismatch when the state is not what the checksum says."""
        made = cls(**given)
        if state_hash(made.state) != made.checksum:
            raise SnapshotMismatch(f"{made.state_type} {made.aggregate_id}", "the state is not what its checksum says")
        return made


def stored_part(  # noqa: PLR0913  # everything that identifies a snapshot
    view: str, owner: str, partition: TopicPartition, reducer_id: str, end: int, order_us: int, version: int, part: bytes
) -> StoredPart:
    """The snapshot with its checksum."""
    return StoredPart(
        view, owner, partition, reducer_id, end, order_us, version, part, checksum(view, owner, partition, reducer_id, end, part)
    )


def checksum(view: str, owner: str, partition: TopicPartition, reducer_id: str, end: int, part: bytes) -> bytes:  # noqa: PLR0913  # as above
    """SHA-256 over what identifies a snapshot, as JSON, and the part."""
    return sha256(_encode((view, owner, *partition, reducer_id, end)) + part).digest()


def is_sound(kept: StoredPart) -> bool:
    """Whether a snapshot is, byte for byte, what was kept."""
    return kept.checksum == checksum(kept.view, kept.owner, kept.partition, kept.reducer_id, kept.end, kept.part)

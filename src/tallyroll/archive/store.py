"""What is open of the archive: indexes and segments, shared by the threads of one process."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from tallyroll.archive.segment import segment_from
from tallyroll.errors import SegmentDamaged, StoreUnavailable
from tallyroll.events.position import TopicPartition
from tallyroll.ports import ArchiveIndex, ArchiveIndexes, OpenSegment, Segment, SegmentCodec, SegmentFiles

MAX_OPEN_SEGMENTS: Final = 64  # their footers, some 100 KB each; the content is mapped, not read

OpenFiles = Callable[[TopicPartition], SegmentFiles]
"""The place where one partition's segments are."""


class ArchiveStore:
    """Opens what the archive is made of when it is first asked for, and closes it at the end.

    Several threads may call. Raises StoreUnavailable and SegmentDamaged. Not promised: to remove what a crash has left;
    ``archive.sealing`` does, since only who seals may.
    """

    def __init__(
        self, indexes: ArchiveIndexes, files: OpenFiles, codec: SegmentCodec, *, max_open_segments: int = MAX_OPEN_SEGMENTS
    ) -> None:
        self.codec = codec
        self.files = files
        self._indexes = indexes
        self._max_open = max_open_segments
        self._lock = threading.Lock()
        self._open: dict[TopicPartition, ArchiveIndex] = {}
        self._segments: OrderedDict[tuple[TopicPartition, str], OpenSegment] = OrderedDict()

    def index(self, partition: TopicPartition) -> ArchiveIndex | None:
        """The index of a partition; None if it was never archived."""
        return self._index(partition, create=False)

    def made(self, partition: TopicPartition) -> ArchiveIndex:
        """The index of a partition, made if it is not there."""
        index = self._index(partition, create=True)
        assert index is not None  # noqa: S101  # so the port says
        return index

    def segment(self, partition: TopicPartition, segment: Segment) -> OpenSegment:
        """An open segment that is, by its size and footer, what the manifest says."""
        key = (partition, segment.name)
        with self._lock:
            known = self._segments.get(key)
            if known is not None:
                self._segments.move_to_end(key)
                return known
        opened = self.open_anew(partition, segment)
        with self._lock:
            self._segments[key] = opened
            while len(self._segments) > self._max_open:
                self._segments.popitem(last=False)
        return opened

    def forget(self, partition: TopicPartition) -> None:
        """Closes what is open of one partition; nobody may be reading it."""
        with self._lock:
            for key in [key for key in self._segments if key[0] == partition]:
                del self._segments[key]
            index = self._open.pop(partition, None)
        if index is not None:
            index.close()

    def set_aside(self, partition: TopicPartition) -> None:
        """Moves the index of one partition out of the way and keeps it; nobody may be using it."""
        self.forget(partition)
        self._indexes.set_aside(partition)

    def close(self) -> None:
        """Closes everything. Safe to call twice."""
        with self._lock:
            opened, self._open = list(self._open.values()), {}
            self._segments.clear()
        for index in opened:
            index.close()

    def _index(self, partition: TopicPartition, *, create: bool) -> ArchiveIndex | None:
        with self._lock:
            index = self._open.get(partition)
            if index is None:
                index = self._indexes.open(partition, create=create)
                if index is not None:
                    self._open[partition] = index
            return index

    def close_segment(self, partition: TopicPartition, name: str) -> None:
        """Lets go of a segment that is no more; who is reading it may go on."""
        with self._lock:
            self._segments.pop((partition, name), None)

    def content(self, partition: TopicPartition, name: str) -> memoryview:
        """What is in a file of a partition."""
        where = f"{partition}/{name}"
        try:
            return self.files(partition).open(name)
        except FileNotFoundError:
            raise SegmentDamaged(where, "the file is missing") from None
        except PermissionError as error:
            raise StoreUnavailable(where, type(error).__name__) from error
        except OSError as error:
            raise SegmentDamaged(where, str(error)) from error

    def open_anew(self, partition: TopicPartition, segment: Segment) -> OpenSegment:
        """As ``segment``, from the file as it is now; for who has just written it."""
        where, content = f"{partition}/{segment.name}", self.content(partition, segment.name)
        if len(content) != segment.file_bytes:
            raise SegmentDamaged(where, f"it has {len(content)} bytes, not {segment.file_bytes}")
        try:
            opened = self.codec.open(content)
        except OSError as error:
            raise SegmentDamaged(where, str(error)) from error
        try:
            told = segment_from(segment.name, len(content), partition, opened.footer)
        except ValueError as error:
            raise SegmentDamaged(where, str(error)) from error
        if (told.base, told.next, told.records, told.digest) != (segment.base, segment.next, segment.records, segment.digest):
            raise SegmentDamaged(where, "its footer is another segment's")
        return opened

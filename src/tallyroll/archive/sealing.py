"""From the tail into a segment: the file first, then everything else in one transaction."""

from __future__ import annotations

import contextlib
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from tallyroll.archive.anchor import previous_of
from tallyroll.archive.building import Build
from tallyroll.archive.checks import Checks
from tallyroll.archive.parts import SNAPSHOT_EVERY, SnapshotMaker
from tallyroll.archive.reader import ArchiveReader
from tallyroll.archive.reading import SegmentReader
from tallyroll.archive.segment import FORMAT, name_of
from tallyroll.archive.store import ArchiveStore
from tallyroll.errors import PositionConflict, SegmentDamaged, StoreUnavailable
from tallyroll.events.position import TopicPartition
from tallyroll.events.topics import Catalogue
from tallyroll.ports import ArchiveIndex, ArchiveMark, Clock, Judged, Sealed, Segment, Tail
from tallyroll.replay.fold import Fold
from tallyroll.replay.partition import no_collecting

_HOUR_US: Final = 3_600 * 1_000_000

Fault = Callable[[str], None]
"""Called between two steps with the name of the place, so that a test can end the process there."""


def no_fault(_point: str) -> None:
    """The fault of everyday: none."""


@dataclass(frozen=True, slots=True)
class SealLimits:
    """When a tail is due: so many records, so many bytes of keys and values, or the oldest archived so long ago."""

    records: int = 262_144
    raw_bytes: int = 256 * 1024 * 1024  # a seal holds them in memory as columns
    age_us: int = 6 * _HOUR_US

    def is_due(self, tail: Tail, now_us: int) -> bool:
        """Whether a tail should be sealed now."""
        if not tail.records:
            return False
        old = tail.since_us is not None and now_us - tail.since_us >= self.age_us
        return old or tail.records >= self.records or tail.raw_bytes >= self.raw_bytes


class Sealer:
    """Makes segments. Blocks for some seconds per segment; call it from a worker thread.

    Crash: a file that the manifest does not name is no part of the archive; ``clean`` removes it. Two sealers of one
    partition fence each other: one gets PositionConflict, the other's segment stands. Raises StoreUnavailable when the disk
    is full or the index is away; then nothing has changed, and trying again is safe.
    Not promised: bounded memory beyond what ``SealLimits`` says and what one flush adds.
    """

    def __init__(  # noqa: PLR0913  # the archive hands over what it has
        self,
        store: ArchiveStore,
        catalogue: Catalogue,
        fold: Fold,
        *,
        clock: Clock,
        fault: Fault = no_fault,
        snapshot_every: int = SNAPSHOT_EVERY,
    ) -> None:
        self._store = store
        self._clock = clock
        self._locks: defaultdict[TopicPartition, threading.Lock] = defaultdict(threading.Lock)
        self._catalogue = catalogue
        self._fault = fault
        self._reader = ArchiveReader(store)
        self._makers = {topic.base: SnapshotMaker(fold, topic.base, snapshot_every=snapshot_every) for topic in catalogue.topics}

    def seal(self, partition: TopicPartition) -> Segment | None:
        """Seals everything that is in the tail now; None if there is nothing. Records may be appended meanwhile."""
        with self._locks[partition]:  # within the process nobody has to lose
            index, began_us = self._store.index(partition), self._clock.now_us()
            mark = index.mark() if index is not None else None
            if index is None or mark is None:
                return None
            with no_collecting():
                return self._seal(partition, index, mark, began_us)

    def clean(self, partition: TopicPartition) -> Sequence[str]:
        """Removes files that the manifest does not name, left by a crash or replaced; their names."""
        index, files = self._store.index(partition), self._store.files(partition)
        removed: list[str] = []

        def remove(known: frozenset[str]) -> None:
            for name in sorted(set(files.names()) - known):
                files.remove(name)
                removed.append(name)

        if index is not None:
            with written(partition):
                index.sweep(remove)
        return removed

    def take_in(self, partition: TopicPartition, segment: Segment, records: Sequence[Judged]) -> None:
        """Puts a segment whose file is there already into the index: what ``rebuild`` does for each."""
        index = self._store.made(partition)
        mark = index.mark()
        assert mark is not None  # noqa: S101  # the caller has appended the records
        with no_collecting():
            build = Build(segment.previous, _checks(partition, index, mark), None, None)
            build.add([records])
            sealed = self._sealed(partition, index, mark, segment, build, build.layout.order())
        index.seal(sealed, lambda: self._is_there(partition, segment))

    def rewrite(self, partition: TopicPartition, segment: Segment, records: Sequence[Judged], *, anyway: bool = False) -> Segment | None:
        """The segment's records under today's projection, in a new file; the old file goes.

        None if it is that already, unless it is to be done ``anyway``, since the file is of an older format.
        """
        with no_collecting():
            build = Build(segment.previous, Checks(partition), self._maker(partition).projection, self._store.codec)
            build.add([records])
            if build.projection == segment.projection and not anyway:
                return None
            name = f"{name_of(segment.base, segment.next).removesuffix('.parquet')}-{build.projection[:8] or 'none'}-{FORMAT}.parquet"
            new, _ = self._written(partition, msgspec.structs.replace(segment, name=name, projection=build.projection), build)
        self._store.made(partition).replace(segment, new)
        self.clean(partition)
        return new

    def projection(self, partition: TopicPartition) -> str:
        """The id of today's projection; empty where no view reads the topic."""
        known = self._maker(partition).projection
        return known.id if known is not None else ""

    def _seal(self, partition: TopicPartition, index: ArchiveIndex, mark: ArchiveMark, began_us: int) -> Segment | None:
        segments = index.segments()
        build = Build(
            segments[-1].digest if segments else previous_of(mark),
            _checks(partition, index, mark),
            self._maker(partition).projection,
            self._store.codec,
        )
        build.add(self._reader.judged(partition, mark.sealed, mark.next))
        if not build.records:
            return None
        self._fault("tail read")
        planned = Segment(
            name_of(mark.sealed, mark.next),
            mark.sealed,
            mark.next,
            build.records,
            build.first_us,
            build.last_us,
            build.raw_bytes,
            0,
            build.previous,
            build.digest(partition, mark.sealed, mark.next),
            build.projection,
        )
        segment, order = self._written(partition, planned, build)
        self._fault("file put")
        try:
            sealed = self._sealed(partition, index, mark, segment, build, order)._replace(since_us=began_us)
        except SegmentDamaged:
            if self._is_there(partition, segment):
                raise
            # Swept by who began to follow just now, and did not know it yet: nothing is lost.
            raise PositionConflict(f"archive {partition}", stored=mark.sealed, expected=mark.sealed) from None
        self._fault("before commit")

        def is_whole() -> bool:
            self._fault("in commit")
            return self._is_there(partition, segment)

        index.seal(sealed, is_whole)
        self._fault("after commit")
        return sealed.segment

    def _written(self, partition: TopicPartition, segment: Segment, build: Build) -> tuple[Segment, NDArray[np.intp]]:
        """The segment as it is in its file, which is there when this returns."""
        with written(partition):
            content, order = build.file(partition, segment)
            self._fault("file made")
            self._store.files(partition).put(segment.name, content)
        return msgspec.structs.replace(segment, file_bytes=len(content)), order

    def _sealed(  # noqa: PLR0913  # everything that is known
        self,
        partition: TopicPartition,
        index: ArchiveIndex,
        mark: ArchiveMark,
        segment: Segment,
        build: Build,
        order: NDArray[np.intp],
    ) -> Sealed:
        findings = build.checks.settle()
        made = SegmentReader(partition, segment, self._store.open_anew(partition, segment))
        parts, reducers, left_out = self._maker(partition).make(
            partition,
            segment,
            build.layout,
            made,
            index,
            mark,
            lambda: self._reader.rows(partition, max(mark.first, mark.kept), mark.sealed),
        )
        sealed = msgspec.structs.replace(segment, reducers=reducers)
        return Sealed(sealed, [*build.layout.runs(order)], parts, [*findings, *left_out], build.checks.dump(), mark.kept)

    def _is_there(self, partition: TopicPartition, segment: Segment) -> bool:
        return self._store.files(partition).size(segment.name) == segment.file_bytes

    def _maker(self, partition: TopicPartition) -> SnapshotMaker:
        topic = self._catalogue.named(partition.topic)
        if topic is None:
            raise ValueError(f"{partition.topic} is no topic of the catalogue")
        return self._makers[topic.base]


def _checks(partition: TopicPartition, index: ArchiveIndex, mark: ArchiveMark) -> Checks:
    return Checks(partition, index.checks(), from_start=mark.first == 0)


@contextlib.contextmanager
def written(partition: TopicPartition) -> Iterator[None]:
    """What is written inside lies there afterwards, or StoreUnavailable is raised."""
    try:
        yield
    except OSError as error:
        raise StoreUnavailable(f"archive {partition}", f"its files cannot be changed ({error.strerror or type(error).__name__})") from error

"""The archive joined from its ports: one object to open, which holds the reading and the writing half."""

from __future__ import annotations

from tallyroll.archive.follower import ArchiveFollower
from tallyroll.archive.keeper import ArchiveKeeper
from tallyroll.archive.parts import SNAPSHOT_EVERY
from tallyroll.archive.pruning import Pruner
from tallyroll.archive.reader import ArchiveReader
from tallyroll.archive.sealing import Fault, Sealer, SealLimits, no_fault
from tallyroll.archive.store import ArchiveStore, OpenFiles
from tallyroll.events.position import TopicPartition
from tallyroll.events.topics import Catalogue
from tallyroll.ports import ArchiveIndexes, Clock, EventLog, SegmentCodec
from tallyroll.replay.fold import Fold
from tallyroll.replay.views import FOLD
from tallyroll.telemetry import Telemetry


class OpenArchive:
    """An archive: ``reader`` for replays, ``keeper`` and ``pruner`` for operators, ``follower`` for the loop.

    ``fold`` says whose snapshots and which columns are made; of who has more than ``snapshot_every`` events in a segment, some
    are made within it. Nothing is opened or made before it is needed.
    Not promised: another fold beside it on the same files; its snapshots would be made anew at each seal.
    """

    def __init__(  # noqa: PLR0913  # the composition root hands over what was opened
        self,
        indexes: ArchiveIndexes,
        files: OpenFiles,
        codec: SegmentCodec,
        catalogue: Catalogue,
        *,
        clock: Clock,
        fold: Fold = FOLD,
        fault: Fault = no_fault,
        snapshot_every: int = SNAPSHOT_EVERY,
    ) -> None:
        self._store = ArchiveStore(indexes, files, codec)
        self._sealer = Sealer(self._store, catalogue, fold, clock=clock, fault=fault, snapshot_every=snapshot_every)
        self._catalogue = catalogue
        self._clock = clock
        self._followers: list[ArchiveFollower] = []
        self.reader = ArchiveReader(self._store)
        self.keeper = ArchiveKeeper(self._store, self._sealer, clock=clock)
        self.pruner = Pruner(self._store, catalogue, fold, self.keeper.verified, fault=fault)

    def follower(self, log: EventLog, *, limits: SealLimits | None = None, telemetry: Telemetry | None = None) -> ArchiveFollower:
        """A follower that archives this log."""
        made = ArchiveFollower(
            self._store, self._sealer, self._catalogue, log, clock=self._clock, limits=limits or SealLimits(), telemetry=telemetry
        )
        self._followers.append(made)
        return made

    def has_files(self, partition: TopicPartition) -> bool:
        """Whether a partition has files of segments, known to an index or not. Blocks."""
        return any(self._store.files(partition).names())

    def close(self) -> None:
        """Ends the followers, and closes every file. Safe to call twice."""
        for follower in self._followers:
            follower.cancel()
        self._store.close()

"""Where one member of a group stands in the partitions it holds, and who reads them for it. Pure."""

from __future__ import annotations

from tallyroll.events.position import TopicPartition


class Place:
    """``next`` are the offsets that come next, in the order in which partitions have waited for their turn.

    What it holds is ``fed`` (read by the feed) or ``own`` (by the member's own consumer), never both; ``waiting`` is what the
    caller has paused. Of what is fed, ``news`` may have something to take, and ``lost`` can no longer be read there.
    """

    __slots__ = ("fed", "lost", "news", "next", "own", "waiting")

    def __init__(self) -> None:
        self.next: dict[TopicPartition, int] = {}
        self.own: set[TopicPartition] = set()
        self.fed: set[TopicPartition] = set()
        self.waiting: set[TopicPartition] = set()
        self.news: set[TopicPartition] = set()
        self.lost: set[TopicPartition] = set()

    @property
    def is_served(self) -> bool:
        """Whether anything comes from the feed now."""
        return bool(self.fed - self.waiting)

    @property
    def has_news(self) -> bool:
        """Whether anything that comes from the feed may have something to take."""
        return bool(self.news - self.waiting - self.lost)

    @property
    def reads_itself(self) -> bool:
        """Whether anything comes from its own consumer now."""
        return bool(self.own - self.waiting)

    @property
    def undecided(self) -> list[TopicPartition]:
        """What its own consumer reads that the feed may be asked for."""
        return [partition for partition in self.own - self.waiting if partition in self.next] if self.own else []

    @property
    def ready(self) -> list[TopicPartition]:
        """What may have something to take, whoever waits longest first. Never what is lost: what is kept of it begins further on."""
        ready = self.news - self.waiting - self.lost
        return [partition for partition in self.next if partition in ready] if ready else []

    def came(self, partition: TopicPartition, start: int | None) -> None:
        """It holds the partition, and goes on there by itself; None where nobody knows yet at which offset it begins."""
        self.own.add(partition)
        for some in (self.fed, self.news, self.lost):
            some.discard(partition)
        if start is not None:
            self.next[partition] = start

    def went(self, partition: TopicPartition) -> None:
        """It holds the partition no longer."""
        self.next.pop(partition, None)
        for some in (self.own, self.fed, self.waiting, self.news, self.lost):
            some.discard(partition)

    def feed(self, partition: TopicPartition) -> None:
        """The feed reads it from now on."""
        self.own.discard(partition)
        self.fed.add(partition)
        self.news.add(partition)

    def unfeed(self, partition: TopicPartition) -> None:
        """Its own consumer reads it from now on."""
        if partition in self.fed:
            self.own.add(partition)
        for some in (self.fed, self.news, self.lost):
            some.discard(partition)

    def passed(self, partition: TopicPartition, following: int) -> None:
        """It was given records up to there; others have their turn first now."""
        self.next.pop(partition, None)
        self.next[partition] = following

    def moved(self, partition: TopicPartition, offset: int) -> None:
        """It goes on at another offset, if it holds the partition."""
        if partition in self.own or partition in self.fed:
            self.next[partition] = offset

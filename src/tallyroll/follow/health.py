"""Whether a service that follows is alive and ready, decided from what was last seen of its loops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

STUCK_S: Final = 10.0  # an event loop that has not turned for so long is stuck; a slow flush takes well under a second


class FollowerHealth(NamedTuple):
    """What was seen of one follower: the class of the error that ended it, the partitions it holds, what its group has left.

    ``behind`` is None while it is not known, for instance because the log cannot be reached.
    """

    name: str
    failure: str | None
    partitions: int
    behind: int | None


def why_not_alive(silent_s: float) -> list[str]:
    """Reasons to start the process anew: none while its event loop turns, however badly the log or a store may do."""
    return [f"the event loop has not turned for {silent_s:.0f} s"] if silent_s > STUCK_S else []


def why_not_ready(followers: Sequence[FollowerHealth], *, stopping: bool) -> list[str]:
    """Reasons to wait: none once every follower holds a partition, or has none because its group has nothing left to do.

    How far it is behind is no reason: a backlog after a pause would take all members away at once.
    """
    if stopping:
        return ["stopping"]
    if not followers:
        return ["starting"]
    return [reason for follower in followers if (reason := _why_not(follower)) is not None]


def _why_not(follower: FollowerHealth) -> str | None:
    if follower.failure is not None:
        return f"{follower.name}: ended by {follower.failure}"
    if follower.partitions or follower.behind == 0:
        return None
    return f"{follower.name}: holds no partition yet" + ("; the log has not answered" if follower.behind is None else "")

"""How long there is until the log forgets what is not archived yet. Pure."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

_DAY_MS: Final = 86_400_000
_SHARE: Final = 4  # a quarter of the retention left: enough to act in office hours on a topic of 7 days

Alarm = Literal["ok", "warning", "lost", "ahead"]


class Headroom(NamedTuple):
    """``headroom_ms`` until the oldest record that is not archived is removed; negative once it is due. None: nothing waits."""

    alarm: Alarm
    unarchived: int
    headroom_ms: int | None


def headroom(  # noqa: PLR0913  # what the log and the archive say, and the rule between them
    *, archived: int, log_start: int, log_end: int, oldest_ms: int | None, retention_ms: int, now_ms: int
) -> Headroom:
    """What the archive of one partition has left.

    ``archived`` is the next offset to archive, ``oldest_ms`` the log's timestamp of the record there, or of one before it
    (None: not known, then nothing is warned of). ``lost`` where the log starts behind ``archived``; ``ahead`` where it ends
    before, so that it is an older copy than the archive, or another log, and what comes next would be passed over; ask for
    ``log_end`` behind ``archived``. ``warning`` when less than a quarter of the retention is left, or less than 24 hours,
    whichever is smaller.
    """
    waiting = max(0, log_end - archived)
    if log_start > archived:
        return Headroom("lost", max(0, log_end - log_start), 0)
    if archived > log_end:
        return Headroom("ahead", 0, None)
    if not waiting or oldest_ms is None:
        return Headroom("ok", waiting, None)
    left = oldest_ms + retention_ms - now_ms
    return Headroom("warning" if left < min(_DAY_MS, retention_ms // _SHARE) else "ok", waiting, left)

"""The check of ``tallyroll doctor`` on the outbox of created tasks: what the log has not been told of yet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tallyroll.adapters.system.clock import SystemClock
from tallyroll.bridges.outbox import STALE_S, SWEEP_S
from tallyroll.cli.doctor.checks import Check
from tallyroll.cli.moments import short_span
from tallyroll.cli.printing import counted, number
from tallyroll.errors import TallyrollError
from tallyroll.opening import open_outbox
from tallyroll.ports import OutboxRow
from tallyroll.settings import Settings

_MOST: Final = 1_000  # more is not worth counting: nothing has published for long
_LATE_S: Final = STALE_S + SWEEP_S  # by then a sweep has come past, and has published the row or dropped it


async def outbox_checks(settings: Settings) -> list[Check]:
    """How many tasks wait to be told of, in Redis or in the file beside the log; nothing where there is no outbox.

    Makes no file, and leases no row.
    """
    if not settings.redis_host and (settings.in_memory or not (settings.data_dir / "outbox.db").is_file()):
        return []
    try:
        outbox = await open_outbox(settings)
        try:
            rows = await outbox.rows(_MOST)
        finally:
            await outbox.close()
    except TallyrollError as error:
        return [Check("outbox", "fail", str(error), "tasks that are created now are refused; mend the store it is in")]
    return [outbox_finding(rows, SystemClock().now_us())]


def outbox_finding(rows: Sequence[OutboxRow], now_us: int) -> Check:
    """What the rows mean. Pure. ``request`` and ``event`` of a row are not looked into."""
    if not rows:
        return Check("outbox", "ok", "empty: the log knows of every task that was created")
    oldest_s = max(0.0, (now_us - min(row.since_us for row in rows)) / 1_000_000)
    known = sum(row.event is not None for row in rows)
    many = f"{number(_MOST)} tasks or more" if len(rows) >= _MOST else counted(len(rows), "task")
    says = f"{many} asked for and not in the log yet, {number(known)} of them made; the oldest for {short_span(oldest_s)}"
    if oldest_s < _LATE_S:
        return Check("outbox", "ok", says)
    return Check(
        "outbox", "warn", says, "start the program that creates tasks: it publishes them each minute; its log says what hinders it"
    )

"""Findings that are stored are logged and published, so that somebody looks. They are sealed and counted whether that works or not.

Who may write to a topic may cause as many findings as they like, so both have a bound.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from tallyroll.audit.sealing.finding import Finding
from tallyroll.errors import TallyrollError
from tallyroll.events.event import AgentEvent

log: Final = logging.getLogger("tallyroll.audit")

_PUBLISHED: Final = 100  # findings of one flush that are published; all of them are sealed and counted
_LOGGED: Final = 20  # lines in a window: enough to see what is going on, and no disk is filled
_WINDOW_S: Final = 60.0

Publish = Callable[[AgentEvent], Awaitable[object]]


class Telling:
    """Publishes in tasks of its own; nobody waits for them but ``settled``. Logs the first findings of a minute, and counts the others.

    Not promised: that a finding is published.
    """

    def __init__(self, publish: Publish | None, log_id: bytes, *, monotonic: Callable[[], float]) -> None:
        self._publish = publish
        self._log_id = log_id
        self._monotonic = monotonic
        self._tasks: set[asyncio.Task[None]] = set()
        self._logged = 0
        self._unlogged: Counter[str] = Counter()
        self._since_s = float("-inf")

    def tell(self, findings: Sequence[Finding]) -> None:
        """Logs the findings of one flush and begins to publish them; to be called for a flush without any too."""
        if self._monotonic() - self._since_s >= _WINDOW_S:
            self._say_unlogged()
        for finding in findings:
            if not self._logged:
                self._since_s = self._monotonic()
            self._logged += 1
            if self._logged <= _LOGGED:
                log.error("%s: %s %s", finding.where, finding.code, finding.detail)
            else:
                self._unlogged[finding.code] += 1
        publish = self._publish
        if publish is None:
            return
        for finding in findings[:_PUBLISHED]:
            task = asyncio.create_task(_say(publish, finding.event(self._log_id)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def settled(self) -> None:
        """Waits for what is being published, and logs what was only counted."""
        self._say_unlogged()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _say_unlogged(self) -> None:
        """Ends a window."""
        if self._unlogged:
            codes = ", ".join(f"{code} {count:,}" for code, count in self._unlogged.most_common())
            log.error(
                "%s more findings: %s; all are in the ledger, and audit_findings_total counts them", f"{self._unlogged.total():,}", codes
            )
        self._logged = 0
        self._unlogged.clear()


async def _say(publish: Publish, event: AgentEvent) -> None:
    try:
        await publish(event)
    except TallyrollError as error:  # it is sealed; that is what counts
        log.warning("a finding could not be published: %s", error)

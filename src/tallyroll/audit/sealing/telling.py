"""Findings that are stored are published, so that somebody looks. They are sealed and counted whether that works or not."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from tallyroll.audit.sealing.finding import Finding
from tallyroll.errors import TallyrollError
from tallyroll.events.event import AgentEvent

log: Final = logging.getLogger("tallyroll.audit")

_PUBLISHED: Final = 100  # findings of one flush that are published; all of them are sealed and counted

Publish = Callable[[AgentEvent], Awaitable[object]]


class Telling:
    """Publishes in tasks of its own; nobody waits for them but ``settled``. Not promised: that a finding is published."""

    def __init__(self, publish: Publish | None, log_id: bytes) -> None:
        self._publish = publish
        self._log_id = log_id
        self._tasks: set[asyncio.Task[None]] = set()

    def tell(self, findings: Sequence[Finding]) -> None:
        """Begins to publish the findings of one flush."""
        publish = self._publish
        if publish is None:
            return
        for finding in findings[:_PUBLISHED]:
            task = asyncio.create_task(_say(publish, finding.event(self._log_id)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def settled(self) -> None:
        """Waits for what is being published."""
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _say(publish: Publish, event: AgentEvent) -> None:
    try:
        await publish(event)
    except TallyrollError as error:  # it is sealed; that is what counts
        log.warning("a finding could not be published: %s", error)

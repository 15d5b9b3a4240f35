"""Who is told of breaches of rules, and of entries that somebody watches."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import os
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

from tallyroll.audit.compliance.rules import RuleViolation, shown_violations
from tallyroll.audit.ledger.contents import AuditEntry
from tallyroll.audit.recording.drafting import VIOLATION_EVENT
from tallyroll.errors import TallyrollError
from tallyroll.events.context import no_context
from tallyroll.events.event import AgentEvent, EventMetadata
from tallyroll.ports import Outcome, Rejected, Unknown
from tallyroll.telemetry import AUDIT_CALLBACK_ERRORS, AUDIT_UNTOLD, VIOLATIONS, Telemetry

log: Final = logging.getLogger("tallyroll.audit")

ViolationHandler = Callable[[AuditEntry, Sequence[RuleViolation]], Awaitable[None] | None]
"""Told of an entry and of the rules that it breaks. Its exceptions are counted and logged, never raised."""

Monitor = Callable[[AuditEntry], Awaitable[None] | None]
"""Given every entry that a rule with real-time monitoring applies to. Its exceptions are counted and logged, never raised."""

Publish = Callable[[Sequence[AgentEvent]], Awaitable[Sequence[Outcome]]]
"""Publishes events together, and gives what became of each, as ``EventPublisher.publish_batch``."""

MAX_WAITING: Final = 10_000  # tellings; a monitor that takes longer than entries come would fill memory
_CALL_S: Final = 10.0  # for one handler or monitor; the next one must not wait for ever
_CLOSE_S: Final = 5.0
_TOGETHER: Final = 250  # events that are made and published at once, some 5 ms of work
_T = TypeVar("_T")


class _Queue(Generic[_T]):
    """A bounded queue with a task of its own, begun anew in another event loop or process. What does not fit is counted."""

    def __init__(self, what: str, telemetry: Telemetry, work: Callable[[Sequence[_T]], Awaitable[None]], *, together: int = 1) -> None:
        self._what = what
        self._telemetry = telemetry
        self._work = work
        self._together = together
        self._waiting: deque[_T] = deque()
        self._owner: tuple[int, asyncio.AbstractEventLoop] | None = None
        self._task: asyncio.Task[None] | None = None

    def put(self, item: _T) -> None:
        here = (os.getpid(), asyncio.get_running_loop())
        if self._owner != here:
            self._owner, self._task, self._waiting = here, None, deque()
        if len(self._waiting) >= MAX_WAITING:
            self._telemetry.count(AUDIT_UNTOLD, reason=self._what)
            return
        self._waiting.append(item)
        if self._task is None or self._task.done():
            self._task = here[1].create_task(self._run())

    async def _run(self) -> None:
        while self._waiting:
            await self._work([self._waiting.popleft() for _ in range(min(len(self._waiting), self._together))])

    async def close(self) -> None:
        """Gives what waits a moment, then ends."""
        task = self._task
        if task is not None and self._owner == (os.getpid(), asyncio.get_running_loop()):
            with contextlib.suppress(TimeoutError, asyncio.CancelledError):
                await asyncio.wait_for(task, _CLOSE_S)
            self._telemetry.count(AUDIT_UNTOLD, len(self._waiting), reason=self._what)
        self._waiting.clear()


class Violations:
    """Tells handlers and monitors of this process, each in the order of the entries, on a task of their own; and publishes events.

    Not promised: that a handler is told of entries that other processes have recorded; the events are for that. Nor that
    anybody is told more than ``MAX_WAITING`` entries late: what is beyond is counted and dropped.
    """

    def __init__(self, telemetry: Telemetry, publish: Publish) -> None:
        self._telemetry = telemetry
        self._publish = publish
        self._handlers: list[ViolationHandler] = []
        self._monitors: defaultdict[str, list[Monitor]] = defaultdict(list)
        self._calls: _Queue[Callable[[], Awaitable[None] | None]] = _Queue("call", telemetry, self._call)
        self._events: _Queue[tuple[AuditEntry, Sequence[RuleViolation]]] = _Queue("event", telemetry, self._say, together=_TOGETHER)

    def add_handler(self, handler: ViolationHandler) -> None:
        """From now on it is told."""
        self._handlers.append(handler)

    def add_monitor(self, rule_id: str, monitor: Monitor) -> None:
        """From now on it is given the entries of that rule, if the rule is monitored in real time."""
        self._monitors[rule_id].append(monitor)

    def tell(self, entry: AuditEntry, violations: Sequence[RuleViolation], monitors: Sequence[str]) -> None:
        """Of an entry that is sealed: what it breaks, and which rules want to be told at once. Waits for nobody."""
        for rule_id in monitors:
            for monitor in self._monitors.get(rule_id, ()):
                self._calls.put(lambda monitor=monitor: monitor(entry))  # type: ignore[misc]  # bound now
        if not violations:
            return
        for violation in violations:
            self._telemetry.count(VIOLATIONS, rule=violation.rule_id, severity=violation.severity.value)
        for handler in self._handlers:
            self._calls.put(lambda handler=handler: handler(entry, violations))  # type: ignore[misc]  # bound now
        self._events.put((entry, violations))

    async def close(self) -> None:
        """Lets what waits be told, for some seconds at most."""
        await self._calls.close()
        await self._events.close()

    async def _call(self, calls: Sequence[Callable[[], Awaitable[None] | None]]) -> None:
        (call,) = calls
        try:
            result = call()
            if inspect.isawaitable(result):
                await asyncio.wait_for(result, _CALL_S)
        except Exception:
            self._telemetry.count(AUDIT_CALLBACK_ERRORS)
            log.exception("a handler or monitor of the audit trail failed; the entry is recorded all the same")

    async def _say(self, told: Sequence[tuple[AuditEntry, Sequence[RuleViolation]]]) -> None:
        events = [violation_event(entry, violations) for entry, violations in told]
        errors: list[Exception]
        try:
            outcomes = await self._publish(events)
        except TallyrollError as error:
            errors = [error] * len(events)
        else:
            errors = [one.error for one in outcomes if isinstance(one, Rejected) or (isinstance(one, Unknown) and not one.kept)]
        if errors:
            self._telemetry.count(AUDIT_UNTOLD, len(errors), reason="event")
            log.error("%d violations could not be published as events (%s); the entries are recorded all the same",
                      len(errors), type(errors[0]).__name__)  # fmt: skip


def violation_event(entry: AuditEntry, violations: Sequence[RuleViolation]) -> AgentEvent:
    """The event about an entry's breaches: rules, codes and names of fields, no value and nothing personal."""
    payload = {
        "audit_id": entry.audit_id, "event_type": entry.event_type, "category": entry.category.value, "agent_id": entry.agent_id,
        "violations": shown_violations(violations),
    }  # fmt: skip
    with no_context():  # the user of this moment is not to be in clear
        metadata = EventMetadata(correlation_id=entry.correlation_id, tenant_id=entry.tenant)
        return AgentEvent(VIOLATION_EVENT, entry.audit_id, "audit", payload, metadata)

"""The audit trail of one log: what programs call. Each method delegates; what is needed is opened at the first call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from tallyroll.audit.contents import AuditEntry
from tallyroll.audit.new_entry import NewEntry
from tallyroll.audit.opening import OpenAudit
from tallyroll.audit.violations import Monitor, ViolationHandler, Violations


class AuditTrail:
    """Records entries into the ledger, and answers questions about them. Made by ``Roll.audit``; used from its event loop.

    Every method that waits raises SettingsError where the keys cannot be had (``AUDIT_SECRET_KEY``), KeyRingUnavailable,
    MissingExtra. Not promised: that an entry is in the ledger when it was recorded; it is on its way, and durable.
    """

    def __init__(self, opened: Callable[[], Awaitable[OpenAudit]], violations: Violations) -> None:
        self._opened = opened
        self._violations = violations

    async def create_audit_entry(
        self,
        event_type: str,
        category: str,
        action: str,
        description: str,
        **fields: Any,  # noqa: ANN401  # see NewEntry
    ) -> AuditEntry:
        """The entry, recorded; see ``audit.recorder.Recorder.record``."""
        return await (await self._opened()).recorder.record(NewEntry.of(event_type, category, action, description, **fields))

    async def create_audit_entries(self, entries: Sequence[NewEntry]) -> list[AuditEntry]:
        """Many at once, in their order; see ``audit.recorder.Recorder.record_batch``."""
        return await (await self._opened()).recorder.record_batch(entries)

    def add_violation_handler(self, handler: ViolationHandler) -> None:
        """From now on ``handler`` is told of every breach of a rule in what this process records."""
        self._violations.add_handler(handler)

    def add_real_time_monitor(self, rule_id: str, monitor: Monitor) -> None:
        """From now on ``monitor`` is given every entry that the rule applies to, at once. Raises ValueError for other rules."""
        self._violations.add_monitor(rule_id, monitor)

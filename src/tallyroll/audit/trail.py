"""The audit trail of one log: what programs call. Each method delegates; what is needed is opened at the first call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from tallyroll.audit.contents import AuditEntry
from tallyroll.audit.erasure import ErasureReceipt
from tallyroll.audit.new_entry import NewEntry
from tallyroll.audit.opening import OpenAudit
from tallyroll.audit.retention import RetentionRun
from tallyroll.audit.standing import Standing
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

    async def anonymize_subject_data(
        self, subject_id: str, *, reason: str = "request", operator: str | None = None, deep: bool = True
    ) -> ErasureReceipt:
        """Forgets a person: their keys are destroyed, what was sealed about them is removed, and every proof stays valid.

        Where a hold or a law stands against it, nothing is destroyed and no reader sees it any more: the receipt says so.
        ``deep`` also looks for the id in everything that can still be opened. ``reason`` and ``operator`` go into an entry of
        the trail, sealed; the id goes nowhere. See ``audit.erasure``. Raises ValueError for a reason that names the person.
        """
        opened = await self._opened()
        receipt = await (await opened.eraser()).erase(subject_id, deep=deep)
        await self._say(
            opened, "privacy.erasure", "erase", operator, {"request": receipt.request_id, "state": receipt.state, "reason": reason}
        )
        return receipt

    async def resume_erasures(self) -> list[str]:
        """Ends erasures that were cut short, or undone by a backup that was put back; their request ids."""
        return await (await (await self._opened()).eraser()).resume()

    async def apply_retention(self, *, operator: str = "retention", prune: bool = False) -> RetentionRun:
        """Removes what is past its day, and with ``prune`` whole beginnings of the ledger; see ``audit.retention``."""
        return await (await (await self._opened()).retention()).run(operator=operator, prune=prune)

    async def cleanup_expired_entries(self) -> int:
        """As ``apply_retention``; the number of bodies removed."""
        return (await self.apply_retention()).bodies

    async def set_hold(  # noqa: PLR0913  # what it covers, and who says so
        self, *, who: str, why: str, subject_id: str | None = None, partition: int | None = None, start: int = 0, end: int | None = None
    ) -> list[str]:
        """From now on nothing it covers is removed or erased; see ``audit.retention.Retention.set_hold``."""
        retention = await (await self._opened()).retention()
        return await retention.set_hold(who=who, why=why, subject=subject_id, partition=partition, start=start, end=end)

    async def release_hold(self, hold_id: str, *, who: str, why: str) -> list[str]:
        """Ends a hold. Raises LookupError where none of this id is set."""
        return await (await (await self._opened()).retention()).release_hold(hold_id, who=who, why=why)

    async def standing(self) -> Standing:
        """What is held, erased, restricted and pruned now."""
        return await (await (await self._opened()).eraser()).standing()

    async def _say(self, opened: OpenAudit, event_type: str, action: str, operator: str | None, payload: dict[str, str]) -> None:
        """What was done to the trail, in the trail."""
        entry = NewEntry.of(event_type, "privacy", action, "done to the audit trail", user_id=operator, payload=payload)
        await opened.recorder.record(entry)

    def add_violation_handler(self, handler: ViolationHandler) -> None:
        """From now on ``handler`` is told of every breach of a rule in what this process records."""
        self._violations.add_handler(handler)

    def add_real_time_monitor(self, rule_id: str, monitor: Monitor) -> None:
        """From now on ``monitor`` is given every entry that the rule applies to, at once. Raises ValueError for other rules."""
        self._violations.add_monitor(rule_id, monitor)

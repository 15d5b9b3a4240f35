"""Who is told of breaches of rules, and of entries that somebody watches."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from tallyroll.audit.contents import AuditEntry
from tallyroll.audit.rules import RuleViolation

ViolationHandler = Callable[[AuditEntry, Sequence[RuleViolation]], Awaitable[None] | None]
"""Told of an entry and of the rules that it breaks. Its exceptions are counted and logged, never raised."""

Monitor = Callable[[AuditEntry], Awaitable[None] | None]
"""Given every entry that a rule with real-time monitoring applies to. Its exceptions are counted and logged, never raised."""


class Violations:
    """Handlers and monitors of one process."""

    def add_handler(self, handler: ViolationHandler) -> None:
        """From now on it is told."""
        raise NotImplementedError

    def add_monitor(self, rule_id: str, monitor: Monitor) -> None:
        """From now on it is told."""
        raise NotImplementedError

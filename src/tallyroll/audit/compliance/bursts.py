"""Refusals that come in a burst: one actor who is denied again and again within a short time. Pure."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final

from tallyroll.audit.compliance.rules import RuleViolation
from tallyroll.audit.entry import AuditEventCategory, AuditSeverity

RULE_ID: Final = "AGT-004"
"""The house rule that a burst of refusals breaks. It is about several entries, so that it stands in no set of rules about one."""

MANY: Final = 10
WINDOW_US: Final = 60_000_000
_MAX_ACTORS: Final = 10_000  # of each at most MANY moments: some 5 MB; the one that was silent longest is forgotten
_REFUSALS: Final = {
    AuditEventCategory.AUTHORIZATION: frozenset({"denied", "failure"}),
    AuditEventCategory.AUTHENTICATION: frozenset({"denied", "failure"}),
}


class Bursts:
    """Counts refusals per actor: ``many`` within the window are a burst, told once while it lasts.

    Not promised: to see what other processes have recorded.
    """

    def __init__(self, *, many: int = MANY, window_us: int = WINDOW_US) -> None:
        self._many = many
        self._window_us = window_us
        self._recent: OrderedDict[str, deque[int]] = OrderedDict()

    def see(self, actor: str | None, category: AuditEventCategory, outcome: str, ts_us: int) -> RuleViolation | None:
        """Takes an entry; the breach, if it is the one that makes a burst."""
        if actor is None or outcome.lower() not in _REFUSALS.get(category, ()):
            return None
        recent = self._recent.setdefault(actor, deque(maxlen=self._many))
        self._recent.move_to_end(actor)
        if len(self._recent) > _MAX_ACTORS:
            self._recent.popitem(last=False)
        lasts = self._is_burst(recent, recent[-1] if recent else 0) and ts_us - recent[-1] <= self._window_us
        recent.append(ts_us)
        if lasts or not self._is_burst(recent, ts_us):
            return None
        return RuleViolation(RULE_ID, "denied_burst", AuditSeverity.HIGH, ("outcome",))

    def _is_burst(self, recent: deque[int], end_us: int) -> bool:
        return len(recent) == self._many and end_us - recent[0] <= self._window_us

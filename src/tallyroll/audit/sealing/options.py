"""What whoever runs a sealer may choose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tallyroll.audit.compliance.derived import RETENTION_DAYS


@dataclass(frozen=True)
class SealerOptions:
    """How long entries are kept that no rule speaks of, by the base name of their topic, else ``keep_days``."""

    keep_days: int = 365
    keep_days_of: Mapping[str, int] = field(default_factory=lambda: RETENTION_DAYS)

    def days(self, base: str) -> int:
        """For a topic."""
        return self.keep_days_of.get(base, self.keep_days)

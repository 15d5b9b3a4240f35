"""Recording: an entry is judged, sealed in the caller's process, and on its way into the log before its caller goes on."""

from __future__ import annotations

from collections.abc import Sequence

from tallyroll.audit.contents import AuditEntry
from tallyroll.audit.new_entry import NewEntry
from tallyroll.audit.rules import RuleSet
from tallyroll.audit.violations import Violations
from tallyroll.events.topics import Catalogue
from tallyroll.ports import Clock, KeyRing, PiiFinder, Sealer
from tallyroll.publish.publisher import EventPublisher
from tallyroll.settings import Settings
from tallyroll.telemetry import Telemetry


class Recorder:
    """Records entries of one process."""

    def __init__(  # noqa: PLR0913  # the composition root hands over what was opened
        self,
        log_id: bytes,
        ring: KeyRing,
        sealer: Sealer,
        publisher: EventPublisher,
        catalogue: Catalogue,
        settings: Settings,
        rules: RuleSet,
        *,
        clock: Clock,
        telemetry: Telemetry,
        finder: PiiFinder,
        violations: Violations,
    ) -> None: ...

    async def record(self, entry: NewEntry) -> AuditEntry:
        """The entry, durable by the strictest policy of its rules."""
        return (await self.record_batch([entry]))[0]

    async def record_batch(self, entries: Sequence[NewEntry]) -> list[AuditEntry]:
        """As ``record``, of many, in their order."""
        raise NotImplementedError

    async def close(self) -> None:
        """Ends the chains."""

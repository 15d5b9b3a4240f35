"""Recording: an entry is judged, sealed in the caller's process, and on its way into the log before its caller goes on.

What is sealed is final. Its number is never given again: what comes back unknown is sent again, the same bytes; what the log
refuses for good stays a numbered gap.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Collection, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Final, NamedTuple

from tallyroll.audit.compliance.bursts import Bursts
from tallyroll.audit.compliance.pii import PiiScanner
from tallyroll.audit.compliance.rules import OnFailure, RuleSet
from tallyroll.audit.entry import ComplianceFramework
from tallyroll.audit.ledger import envelope
from tallyroll.audit.ledger.chain import Draft, Part
from tallyroll.audit.ledger.contents import SALT, AuditEntry
from tallyroll.audit.ledger.layout import CORE_BYTES, MAC_BYTES, PART_BYTES, Kind, PartType, prev_of, write_json
from tallyroll.audit.recording.data_keys import DataKeys
from tallyroll.audit.recording.drafting import Drafter, Plan
from tallyroll.audit.recording.epochs import DAY_US, Epochs, Placed
from tallyroll.audit.recording.new_entry import NewEntry
from tallyroll.audit.recording.sending import Sending
from tallyroll.audit.recording.violations import Violations
from tallyroll.errors import AuditError, InvalidEvent, LogError, LogUnavailable, PublishUncertain
from tallyroll.events.codec import moment_at
from tallyroll.events.ids import new_id
from tallyroll.events.topics import AUDIT_TOPIC, Catalogue
from tallyroll.ports import Clock, Delivered, KeyRing, Outcome, PiiFinder, Rejected, Sealer
from tallyroll.publish.load import Body
from tallyroll.publish.publisher import EventPublisher
from tallyroll.settings import Settings
from tallyroll.telemetry import AUDIT_CREATED, Telemetry

log: Final = logging.getLogger("tallyroll.audit")

_CHUNK: Final = 250  # entries sealed between two looks at the event loop: some 20 ms
_LINK_BYTES: Final = 320  # what the publisher's link adds, at the most
_TAG_BYTES: Final = 16
_CACHED_DAYS: Final = 64
_ORDER: Final[tuple[OnFailure, ...]] = ("count", "spill", "block")


class _Ready(NamedTuple):
    """A plan with its id and env: all that can be said before it is sealed."""

    plan: Plan
    audit_id: str
    env: bytes
    size: int


class _Handed(NamedTuple):
    """Entries that are sealed and on their way: what becomes of their bodies in the end, and how they stand once they are kept."""

    ready: Sequence[_Ready]
    drafts: Sequence[Draft]
    placed: Sequence[Placed]
    settled: asyncio.Task[list[Outcome]]
    kept: asyncio.Task[list[Outcome] | None]


class _Group(NamedTuple):
    """Entries of one turn of the event loop: they are handed over together."""

    ready: list[_Ready]
    task: asyncio.Task[_Handed]


class Recorder:
    """Records the entries of one process: one writer, its epochs and heartbeats.

    Durability: when ``record`` returns, the entry is in the log, or on this machine's disk and on its way there (its
    ``position`` is None then); with a rule whose ``on_failure`` is ``block`` it is in the log, with ``count`` only handed over.
    Ordering: entries of one agent are in the ledger in the order of the calls. Used from one event loop at a time; a forked
    child is another writer. Made by ``OpenAudit``.
    Not promised: that an entry is in the ledger already; nor that the heartbeats go on when the event loop is blocked.
    """

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
    ) -> None:
        self._log_id = log_id
        self._ring = ring
        self._sealer = sealer
        self._publisher = publisher
        self._topic = catalogue[AUDIT_TOPIC]
        self._settings = settings
        self._rules = rules
        self._clock = clock
        self._telemetry = telemetry
        self._violations = violations
        self._drafter = Drafter(
            rules, PiiScanner(finder),
            frameworks=[ComplianceFramework(name) for name in settings.audit_frameworks_named],
            subject_fields=settings.subject_fields_named, encrypt=settings.audit_enable_encryption,
            default_retention_days=settings.audit_default_retention_days,
        )  # fmt: skip
        self._closed = False
        self._sealing = False
        publisher.at_exit(self._last_words)
        self._begin()

    def _begin(self) -> None:
        """A fresh life: at the start, and in a forked child."""
        self._pid = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._beating: asyncio.Task[None] | None = None
        self._sending = Sending(
            self._publisher, self._topic, clock=self._clock, telemetry=self._telemetry, stall_ms=self._settings.stall_ms
        )
        self._joining: _Group | None = None
        self._bursts = Bursts()
        self._keys = DataKeys(self._ring, self._clock.monotonic)
        self._epochs = Epochs(
            self._log_id, self._ring, self._sealer, self._topic, clock=self._clock, source=self._settings.source,
            rule_set=self._rules.version, keep_days=self._settings.audit_default_retention_days,
        )  # fmt: skip

    # The surface

    async def record(self, entry: NewEntry) -> AuditEntry:
        """The entry as it was recorded, with its hashes; as durable as its rules demand.

        Raises InvalidEvent and Backpressure before anything was sealed, SealingRequired where it has to be sealed and there
        is no key. Raises PublishUncertain (its ``kept`` is true: it goes on by itself, do not record it again) where a rule
        says ``block`` and the log did not answer in time; else what the log refused with, and the loss is counted.
        """
        self._enter()
        one = self._ready(entry)
        group = self._joining
        if group is None or len(group.ready) >= _CHUNK:
            ready: list[_Ready] = []
            group = self._joining = _Group(ready, asyncio.get_running_loop().create_task(self._together(ready)))
        place = len(group.ready)
        group.ready.append(one)
        try:
            handed = await asyncio.shield(group.task)
        except (AuditError, LogError):
            if len(group.ready) == 1:
                raise
            handed, place = await self._hand_over([one]), 0  # what the group lacked, this one may not need
        policy = one.plan.judgement.on_failure
        return _entry_at(handed, place, await self._outcomes(handed, policy), policy)

    async def record_batch(self, entries: Sequence[NewEntry]) -> list[AuditEntry]:
        """As ``record``, of many, in their order; all wait for the strictest of them.

        Raises what the first failure means; those before and after it may be recorded all the same.
        """
        self._enter()
        handed: list[_Handed] = []
        policy: OnFailure = "count"
        for start in range(0, len(entries), _CHUNK):
            if start:
                await asyncio.sleep(0)  # noqa: TID251  # lets the loop breathe, waits for nothing
            ready = [self._ready(entry) for entry in entries[start : start + _CHUNK]]
            policy = max(policy, *(one.plan.judgement.on_failure for one in ready), key=_ORDER.index)
            handed.append(await self._hand_over(ready))
        made = []
        for one in handed:
            outcomes = await self._outcomes(one, policy)
            made += [_entry_at(one, place, outcomes, policy) for place in range(len(one.ready))]
        return made

    name: Final = "recorder"

    async def forget(self, subject: str, handles: Collection[bytes]) -> int:  # noqa: ARG002  # the port's
        """Implements ``ports.ErasureTarget``: drops the keys behind these handles from memory. It keeps nothing else of anybody."""
        self._epochs.forget(self._keys.forget(handles))
        return 0

    async def close(self) -> None:
        """Closes every chain of this process, and waits within the publisher's grace until what was sealed is on its way."""
        if self._closed or self._pid != os.getpid():
            return
        self._closed = True
        if self._beating is not None and self._loop is asyncio.get_running_loop():
            self._beating.cancel()
        await self._violations.close()
        await self._sending.close(self._epochs.close("shutdown"), self._settings.exit_grace_ms / 1_000)

    # Sealing

    def _enter(self) -> None:
        if self._pid != os.getpid():
            self._closed = False
            self._begin()
        if self._closed:
            raise LogUnavailable("audit", "closed")
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._joining = loop, None
            self._sending.begin()
            self._beating = loop.create_task(self._beat())

    def _ready(self, entry: NewEntry) -> _Ready:
        plan = self._drafter.plan(entry)
        audit_id = new_id()
        env = write_json({"audit_id": audit_id, **plan.clear})
        texts = sum([len(part.text) + _TAG_BYTES + PART_BYTES + 4 for part in plan.parts])
        names = 4 * (2 * len(plan.agent_id or "") + len(self._settings.source))  # bytes of UTF-8, at the most
        size = _LINK_BYTES + envelope.size_of(CORE_BYTES + MAC_BYTES + 4 + len(env) + texts, names)
        if size > self._settings.max_record_bytes:
            raise InvalidEvent("payload", f"{size} bytes as a record, at most {self._settings.max_record_bytes} are allowed")
        return _Ready(plan, audit_id, env, size)

    async def _together(self, ready: Sequence[_Ready]) -> _Handed:
        """Begins when the turn of the loop is over in which the first of them came; nobody joins any more."""
        if self._joining is not None and self._joining.ready is ready:
            self._joining = None
        return await self._hand_over(ready)

    async def _hand_over(self, ready: Sequence[_Ready]) -> _Handed:
        people = [part.subjects for one in ready for part in one.plan.parts if part.sealed]
        while not self._closed:
            await self._keys.prepare(people)
            await self._sending.room(sum(one.size for one in ready))
            await self._begin_epoch()
            if self._epochs.is_current and not any(self._keys.lacks(people)):
                break  # others of this loop may have taken what was prepared
        else:
            raise LogUnavailable("audit", "closed")
        # From here to the hand-over nothing waits: numbers are in the log's order, and none is lost on the way.
        self._sealing = True
        try:
            today = self._clock.now_us() // DAY_US
            drafts = [self._draft(one, today) for one in ready]
            bodies, placed = self._epochs.seal([(one.plan.agent_id, one.audit_id, draft) for one, draft in zip(ready, drafts, strict=True)])
            settled, kept = self._sending.send(bodies)
        finally:
            self._sealing = False
        self._telemetry.count(AUDIT_CREATED, len(ready))
        for one, draft, where in zip(ready, drafts, placed, strict=True):
            self._tell(one, draft, where)
        return _Handed(ready, drafts, placed, settled, kept)

    def _tell(self, one: _Ready, draft: Draft, where: Placed) -> None:
        fields, judgement, violations = one.plan.fields, one.plan.judgement, one.plan.judgement.violations
        actor = fields.get("user_id") or one.plan.agent_id
        if burst := self._bursts.see(actor, fields["category"], fields["outcome"], where.ts_us):
            violations = (*violations, burst)
        if violations or judgement.monitors:
            self._violations.tell(_shown(one, draft, where), violations, judgement.monitors)

    async def _begin_epoch(self) -> None:
        if not self._epochs.is_current and (closing := await self._epochs.begin()):
            self._sending.send(closing)

    def _draft(self, one: _Ready, day: int) -> Draft:
        plan, keys = one.plan, self._keys
        parts = [
            keys.part(part.subjects, part.text) if part.sealed else Part(PartType.PLAIN, bytes(16), b"", os.urandom(SALT) + part.text)
            for part in plan.parts
        ]
        judgement = plan.judgement
        return Draft(Kind.ENTRY, one.env, parts, judgement.max_personal_days or 0, day + judgement.retention_days)

    # On the way

    async def _outcomes(self, handed: _Handed, policy: OnFailure) -> Sequence[Outcome] | None:
        """What became of the bodies, as far as the policy waits for it; None where it is enough that they are on their way."""
        if policy == "count":
            return None
        return await asyncio.shield(handed.settled if policy == "block" else handed.kept)

    async def _beat(self) -> None:
        """Says every few seconds how far the chains have come, also when nothing is recorded; begins epochs that are due."""
        while True:
            await self._clock.sleep(self._settings.audit_heartbeat_seconds)
            try:
                await self._sending.room(0)
                await self._begin_epoch()
                self._sending.send_again()
                if heads := self._epochs.beat():
                    self._sending.send(heads)
            except (AuditError, LogError) as error:
                log.warning("no heartbeat of the audit trail: %s", type(error).__name__)

    def _last_words(self) -> list[Body]:
        """The ends of the chains, where the process ends without closing; not if a signal came in the midst of sealing."""
        if self._closed or self._sealing:
            return []
        self._closed = True
        return [*self._epochs.close("exit"), *self._sending.unsent]


def _entry_at(handed: _Handed, place: int, outcomes: Sequence[Outcome] | None, policy: OnFailure) -> AuditEntry:
    """An entry as its caller gets it. Raises what its outcome means, if it is not good enough."""
    one, where = handed.ready[place], handed.placed[place]
    position = None if outcomes is None else _position(one, outcomes[where.slot], policy)
    return _shown(one, handed.drafts[place], where, position)


def _shown(one: _Ready, draft: Draft, where: Placed, position: str | None = None) -> AuditEntry:
    """The entry as its caller gets it: what was sealed, in clear."""
    chain, record = where.sealed.chain, where.sealed.record
    sealed = [part.handle.hex() for part in draft.parts if part.part_type != PartType.PLAIN]
    return AuditEntry(
        audit_id=one.audit_id,
        timestamp=_moment(where.ts_us),
        retention_date=_end_of(draft.keep_until_day),
        previous_hash=prev_of(record.core).hex(),
        current_hash=where.sealed.leaf.hex(),
        mac=record.mac.hex(),
        chain=f"{chain.writer.hex()}/{chain.epoch}/{chain.partition}/{where.sealed.seq}",
        partition=chain.partition,
        position=position,
        subjects=tuple(sealed),
        encrypted=bool(sealed),
        **one.plan.fields,
        **one.plan.judged,
    )


_moment: Final = lru_cache(1)(moment_at)  # a batch has one


@lru_cache(_CACHED_DAYS)
def _end_of(day: int) -> datetime:
    return moment_at((day + 1) * DAY_US - 1)


def _position(one: _Ready, outcome: Outcome, policy: OnFailure) -> str | None:
    if isinstance(outcome, Delivered):
        return str(outcome.position)
    if isinstance(outcome, Rejected):
        raise outcome.error
    if policy == "spill" and outcome.kept:
        return None
    raise PublishUncertain(one.audit_id, "no answer of the log", kept=True)

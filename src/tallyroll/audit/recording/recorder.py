"""Recording: an entry is judged, sealed in the caller's process, and on its way into the log before its caller goes on.

What is sealed is final. Its number is never given again: what comes back unknown is sent again, the same bytes; what the log
refuses for good stays a numbered gap.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Collection, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Final

from tallyroll.audit.compliance.bursts import Bursts
from tallyroll.audit.compliance.pii import PiiScanner
from tallyroll.audit.compliance.rules import Judgement, OnFailure, RuleSet
from tallyroll.audit.entry import ComplianceFramework
from tallyroll.audit.ledger import envelope
from tallyroll.audit.ledger.chain import Draft, Part
from tallyroll.audit.ledger.contents import SALT, AuditEntry
from tallyroll.audit.ledger.layout import CORE_BYTES, MAC_BYTES, PART_BYTES, Kind, PartType, prev_of, write_json
from tallyroll.audit.recording.calls import Call, Handed, Ready, answer, fail
from tallyroll.audit.recording.data_keys import DataKeys
from tallyroll.audit.recording.drafting import Drafter
from tallyroll.audit.recording.epochs import DAY_US, Epochs, Placed
from tallyroll.audit.recording.new_entry import NewEntry
from tallyroll.audit.recording.sending import Sending
from tallyroll.audit.recording.violations import Violations
from tallyroll.errors import AuditError, InvalidEvent, LogError, LogUnavailable
from tallyroll.events.ids import new_id
from tallyroll.events.moments import moment_at
from tallyroll.events.topics import AUDIT_TOPIC, Catalogue
from tallyroll.ports import Cipher, Clock, KeyRing, Outcome, PiiFinder
from tallyroll.publish.load import Body
from tallyroll.publish.publisher import EventPublisher
from tallyroll.settings import Settings
from tallyroll.telemetry import AUDIT_CREATED, Telemetry

log: Final = logging.getLogger("tallyroll.audit")

# Calls are gathered while those before them are being written, and a little longer where many come at once: what a group costs
# besides its entries, half of it the commit, is as much as ten of them.
_GATHER_S: Final = 0.02  # at the most, where a commit takes long
_LULL_S: Final = 0.003  # between two groups at the least, if the first one was of twelve calls or more
_LULL_PER_CALL_S: Final = 0.000_25  # few calls need not wait for company: their callers may call one thing after the other
_CHUNK: Final = 250  # entries sealed between two looks at the event loop: some 20 ms
_LINK_BYTES: Final = 320  # what the publisher's link adds, at the most
_TAG_BYTES: Final = 16
_CACHED_DAYS: Final = 64
_ORDER: Final[tuple[OnFailure, ...]] = ("count", "spill", "block")


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
        cipher: Cipher,
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
        self._cipher = cipher
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
        self._calls: deque[Call] = deque()
        self._recording: asyncio.Task[None] | None = None
        self._bursts = Bursts()
        self._keys = DataKeys(self._ring, self._clock.monotonic)
        self._epochs = Epochs(
            self._log_id, self._ring, self._cipher, self._topic, clock=self._clock, source=self._settings.source,
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
        return (await self._call([one], one.plan.judgement.on_failure))[0]

    async def record_batch(self, entries: Sequence[NewEntry]) -> list[AuditEntry]:
        """As ``record``, of many, in their order; all wait for the strictest of them.

        Raises what the first failure means; others may be recorded all the same, but none if it is InvalidEvent.
        """
        self._enter()
        chunks: list[list[Ready]] = []
        for start in range(0, len(entries), _CHUNK):
            if start:
                await asyncio.sleep(0)  # noqa: TID251  # lets the loop breathe, waits for nothing
            chunks.append([self._ready(entry) for entry in entries[start : start + _CHUNK]])
        strictness = {one.plan.judgement.on_failure for ready in chunks for one in ready}
        calls = [self._call(ready, max(strictness, key=_ORDER.index)) for ready in chunks]
        results = await asyncio.gather(*calls, return_exceptions=True)
        if failure := next((result for result in results if isinstance(result, BaseException)), None):
            raise failure
        return [entry for result in results if isinstance(result, list) for entry in result]

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
            self._loop, self._calls, self._recording = loop, deque(), None
            self._sending.begin()
            self._beating = loop.create_task(self._beat())

    def _ready(self, entry: NewEntry) -> Ready:
        plan = self._drafter.plan(entry)
        audit_id = plan.clear["audit_id"] = new_id()
        env = write_json(plan.clear)
        texts = sum([len(part.text) + _TAG_BYTES + PART_BYTES + 4 for part in plan.parts])
        names = 4 * (2 * len(plan.agent_id or "") + len(self._settings.source))  # bytes of UTF-8, at the most
        size = _LINK_BYTES + envelope.size_of(CORE_BYTES + MAC_BYTES + 4 + len(env) + texts, names)
        if size > self._settings.max_record_bytes:
            raise InvalidEvent("payload", f"{size} bytes as a record, at most {self._settings.max_record_bytes} are allowed")
        return Ready(plan, audit_id, env, size)

    def _call(self, ready: Sequence[Ready], policy: OnFailure) -> asyncio.Future[list[AuditEntry]]:
        """The entries as they will be recorded, which goes on whoever waits: after all that were called for before, and with some."""
        loop = asyncio.get_running_loop()
        made: asyncio.Future[list[AuditEntry]] = loop.create_future()
        self._calls.append(Call(ready, policy, made))
        if self._recording is None or self._recording.done():
            self._recording = loop.create_task(self._record_calls())
        return made

    async def _record_calls(self) -> None:
        """Seals what was called for, in its order: together what came in one turn, or while others were written."""
        while calls := self._next_calls():
            try:
                handed = await self._hand_over([one for call in calls for one in call.ready])
            except (AuditError, LogError) as error:
                if len(calls) == 1:
                    fail(calls, error)
                else:
                    await self._record_singly(calls)
            except BaseException as error:
                fail([*calls, *self._calls], error)
                self._calls.clear()
                if isinstance(error, Exception):
                    return  # who called was told; nobody waits for this task
                raise
            else:
                answer(handed, calls)
                if sum(len(call.ready) for call in self._calls) < _CHUNK:
                    await self._gather(handed.kept, min(_LULL_S, len(calls) * _LULL_PER_CALL_S))
                    continue
            await asyncio.sleep(0)  # noqa: TID251  # lets the loop breathe, waits for nothing

    async def _gather(self, written: asyncio.Task[list[Outcome] | None], least_s: float) -> None:
        """Waits until a group is written, and for so long at the least."""
        loop = asyncio.get_running_loop()
        until = loop.time() + least_s
        await asyncio.wait({written}, timeout=_GATHER_S)
        if (left_s := until - loop.time()) > 0:
            await asyncio.sleep(left_s)  # noqa: TID251  # time is what is to pass

    async def _record_singly(self, calls: Sequence[Call]) -> None:
        """What all together lacked, some may not need."""
        for call in calls:
            try:
                answer(await self._hand_over(call.ready), [call])
            except (AuditError, LogError) as error:
                fail([call], error)

    def _next_calls(self) -> list[Call]:
        calls: list[Call] = []
        count = 0
        while self._calls and (not calls or count + len(self._calls[0].ready) <= _CHUNK):
            calls.append(self._calls.popleft())
            count += len(calls[-1].ready)
        return calls

    async def _hand_over(self, ready: Sequence[Ready]) -> Handed:
        people = [part.subjects for one in ready for part in one.plan.parts if part.sealed]
        while not self._closed:
            await self._sending.room(sum(one.size for one in ready))  # may take long, so keys are looked at behind it
            if any(people):  # somebody who is known
                self._epochs.forget(await self._keys.look())
            await self._keys.prepare(people)
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
        entries = [_shown(one, draft, where) for one, draft, where in zip(ready, drafts, placed, strict=True)]
        for one, entry, where in zip(ready, entries, placed, strict=True):
            self._tell(one.plan.judgement, entry, where.ts_us)
        return Handed(entries, placed, settled, kept)

    def _tell(self, judgement: Judgement, entry: AuditEntry, ts_us: int) -> None:
        violations, monitors = judgement.violations, judgement.monitors
        if burst := self._bursts.see(entry.user_id or entry.agent_id, entry.category, entry.outcome, ts_us):
            violations, monitors = (*violations, burst), (*monitors, burst.rule_id)
        if violations or monitors:
            self._violations.tell(entry, violations, monitors)

    async def _begin_epoch(self) -> None:
        if not self._epochs.is_current and (closing := await self._epochs.begin()):
            self._sending.send(closing)

    def _draft(self, one: Ready, day: int) -> Draft:
        plan, keys = one.plan, self._keys
        parts = [
            keys.part(part.subjects, part.text) if part.sealed else Part(PartType.PLAIN, bytes(16), b"", os.urandom(SALT) + part.text)
            for part in plan.parts
        ]
        judgement = plan.judgement
        return Draft(Kind.ENTRY, one.env, parts, judgement.max_personal_days or 0, day + judgement.retention_days)

    # On the way

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


def _shown(one: Ready, draft: Draft, where: Placed) -> AuditEntry:
    """The entry as handlers and monitors get it, at once: what was sealed, in clear, before anybody knows its position."""
    record = where.sealed
    chain = record.chain
    sealed = [part.handle.hex() for part in draft.parts if part.part_type != PartType.PLAIN]
    return AuditEntry(
        audit_id=one.audit_id,
        timestamp=_moment(where.ts_us),
        retention_date=_end_of(draft.keep_until_day),
        previous_hash=prev_of(record.core).hex(),
        current_hash=record.leaf.hex(),
        mac=record.mac.hex(),
        chain=f"{chain.writer.hex()}/{chain.epoch}/{chain.partition}/{record.seq}",
        partition=chain.partition,
        subjects=tuple(sealed),
        encrypted=bool(sealed),
        **one.plan.fields,
        **one.plan.judged,
    )


_moment: Final = lru_cache(1)(moment_at)  # a batch has one


@lru_cache(_CACHED_DAYS)
def _end_of(day: int) -> datetime:
    return moment_at((day + 1) * DAY_US - 1)

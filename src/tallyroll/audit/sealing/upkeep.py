"""What a sealer does beside sealing, once a second: heartbeats, new epochs, writers that fell silent, checkpoints, the end."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from tallyroll.audit.compliance.rules import REVIEWED, ComplianceRule, overdue_reviews
from tallyroll.audit.ledger import records
from tallyroll.audit.ledger.layout import META, REGISTRY, Kind
from tallyroll.audit.ledger.partition import Tip, unpack_tip
from tallyroll.audit.ledger.records import Missing
from tallyroll.audit.ledger.stored import record_in
from tallyroll.audit.sealing.breaches import breach_of
from tallyroll.audit.sealing.checkpointing import Checkpoints
from tallyroll.audit.sealing.finding import Finding
from tallyroll.audit.sealing.hearing import AskLog, Hearing
from tallyroll.audit.sealing.registry import ChainKey
from tallyroll.audit.sealing.sealer import AuditSealer
from tallyroll.errors import KeyRingUnavailable, PositionConflict, StoreUnavailable
from tallyroll.ports import Clock, LedgerCommit, LedgerStore, LedgerTail, LedgerWanted

log: Final = logging.getLogger("tallyroll.audit")

SILENT_BEATS: Final = 3
_REVIEWS_S: Final = 3_600
_SECOND_US: Final = 1_000_000


class Upkeep:
    """Keeps one sealer's writer alive, and the ledger noted where ``leading`` says that this process does so.

    A process without partitions ends its epoch; with the first one it gets, a new one begins.
    """

    def __init__(  # noqa: PLR0913  # what is kept up
        self,
        sealer: AuditSealer,
        store: LedgerStore,
        checkpoints: Checkpoints,
        *,
        clock: Clock,
        leading: Callable[[], bool],
        log_spans: AskLog,
        checkpoint_s: int = 1,
        heartbeat_s: int = 5,
        rules: Sequence[ComplianceRule] = (),
    ) -> None:
        self._sealer = sealer
        self._store = store
        self._checkpoints = checkpoints
        self._clock = clock
        self._leading = leading
        self._checkpoint_s = checkpoint_s
        self._heartbeat_s = heartbeat_s
        self._rules = [rule for rule in rules if rule.review_interval is not None]
        self._overdue: set[str] = set()
        self._looked_s: float | None = None
        self._hearing = Hearing(log_spans, SILENT_BEATS)
        self._beaten_s = -float(heartbeat_s)
        self._noted_s = -float(checkpoint_s)
        self._task: asyncio.Task[None] | None = None
        self._turning = asyncio.Lock()

    def start(self) -> None:
        """Begins, in a task of its own. Safe to call twice."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="audit upkeep")

    async def stop(self) -> None:
        """Ends the writer's epoch, notes what is there a last time, and ends."""
        if self._task is not None:
            async with self._turning:  # a commit that is cut off may have been made, or not
                self._task.cancel()
            await asyncio.gather(self._task, self._hearing.close(), return_exceptions=True)
            self._task = None
            try:
                await self.finish()
            except (StoreUnavailable, KeyRingUnavailable, PositionConflict) as error:
                log.warning("%s; the ledger calls this writer silent until another sealer has noticed", error)

    async def turn(self) -> None:
        """What is due now. Raises StoreUnavailable, KeyRingUnavailable."""
        sealer, now_s = self._sealer, self._clock.monotonic()
        async with sealer.turn:
            beats = now_s - self._beaten_s >= self._heartbeat_s
            if not sealer.lanes:
                await self._end()
            elif beats:
                self._beaten_s = now_s
                await self._renew()
                sealer.beat()
                self._hearing.beat()
                if self._leading():
                    await self._silent()
                    await self._reviews(now_s)
                    await sealer.look_around()
            await sealer.store_now(always=beats)
        if self._leading() and now_s - self._noted_s >= self._checkpoint_s:
            self._noted_s = now_s
            await self._checkpoints.note({lane.number: lane.ledger.tree for lane in sealer.lanes.values()})
            await self._checkpoints.witness()

    async def finish(self) -> None:
        """The end of the epoch, and a checkpoint over it; whoever leads meanwhile is not disturbed."""
        async with self._sealer.turn:
            await self._end()
        await self._checkpoints.note()
        await self._checkpoints.witness()

    async def _run(self) -> None:
        while True:
            await self._clock.sleep(min(self._checkpoint_s, self._heartbeat_s) / 2)
            try:
                async with self._turning:
                    await self.turn()
            except (StoreUnavailable, KeyRingUnavailable, PositionConflict) as error:
                log.warning("%s; trying again", error)
            except Exception:  # without heartbeats and checkpoints the ledger would look cut off
                log.exception("upkeep of the audit ledger failed; trying again")

    async def _end(self) -> None:
        registrar = self._sealer.registrar
        if registrar.writer is not None:
            if registrar.burnt(REGISTRY):  # a conflict ended the epoch: the next one names its ends, and says goodbye
                await registrar.refresh()
                registrar.begin()
            registrar.close("shutdown")
        await registrar.commit(LedgerCommit())  # also what a store that was away has not taken

    async def _renew(self) -> None:
        """After a day a new epoch begins; what is pending belongs to the old one and is stored first."""
        sealer = self._sealer
        if sealer.registrar.is_over:
            await sealer.store_now()
            if not sealer.registrar.has_pending and not any(lane.has_pending for lane in sealer.lanes.values()):
                sealer.registrar.begin()

    async def _silent(self) -> None:
        """Writers of whom nothing was heard for three intervals, though the log was, and who did not say goodbye."""
        wait_us, now_us = SILENT_BEATS * self._heartbeat_s * _SECOND_US, self._clock.now_us()
        if self._sealer.is_behind(wait_us) or self._hearing.owed(await self._store.progress()):
            return
        registrar = self._sealer.registrar
        registry = await registrar.refresh()
        for chain, tips in open_chains(await self._store.tails()).items():
            admission = registry.admitted.get(chain)
            beat_us = wait_us if admission is None else SILENT_BEATS * admission.heartbeat_s * _SECOND_US
            if chain == registrar.writer or now_us - max(tip.ts_us for tip in tips.values()) < beat_us:
                continue
            ends = registry.ended.get(chain, {})
            lost = {
                partition: tip
                for partition, tip in tips.items()
                if ends.get(partition, -1) != tip.seq and (partition, *chain) not in registry.cut
                if not tip.closed and not (partition == REGISTRY and chain in registry.ended)
            }
            for partition, tip in sorted(lost.items()):
                registrar.record(Kind.GAP, records.gap(Missing(partition, *chain, tip.seq + 1, None), "silent"))
            if lost:
                where = ",".join(f"ledger/{partition}" for partition in sorted(lost))
                self._sealer.report(Finding("silent", where, f"writer {chain[0].hex()}, epoch {chain[1]}"))

    async def _reviews(self, now_s: float) -> None:
        """Once an hour: the rules that ask for a look at the trail, and whether one was taken. Each is said once until it was."""
        registry = self._sealer.registrar.registry
        if not self._rules or not registry.admitted or (self._looked_s is not None and now_s - self._looked_s < _REVIEWS_S):
            return
        self._looked_s = now_s
        _, rows = await self._store.find(LedgerWanted(event_type=REVIEWED), limit=1)
        began_us = min(admission.opened_us for admission in registry.admitted.values())
        last_us = record_in(rows[0])[1].ts_us if rows else began_us
        overdue = set(overdue_reviews(self._rules, last_us, self._clock.now_us()))
        for rule in [rule for rule in self._rules if rule.rule_id in overdue - self._overdue]:
            detail = f"{rule.rule_id} since {last_us // _SECOND_US}"
            self._sealer.report(Finding("overdue", "ledger", detail, breaches=(breach_of(rule, "overdue"),)))
        self._overdue = overdue


def open_chains(tails: Mapping[int, LedgerTail]) -> dict[ChainKey, dict[int, Tip]]:
    """Per writer epoch where its chains stand that are not closed, by partition."""
    found: defaultdict[ChainKey, dict[int, Tip]] = defaultdict(dict)
    for partition, tail in tails.items():
        for tip in tail.tips if partition != META else ():
            found[tip.writer, tip.epoch][partition] = unpack_tip(tip)
    return found

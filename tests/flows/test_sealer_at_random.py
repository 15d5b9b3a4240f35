"""Anything that may happen to a ledger, in any order: it verifies, with what was lost named; and what had to go is gone, and no more.

Writing, ends of processes, redelivery, moves between processes, forks, losses, new epochs, erasures, days that pass, pruning, and
new keys of the ring.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from tests.flows.sealing import ALL, AUDIT, AUDIT_1, CLASSES, KEPT_DAYS, LOG_ID, SYSTEM, TASKS, House, Running

from tallyroll.adapters.crypto import AesGcm
from tallyroll.audit.compliance.derived import RETENTION_DAYS
from tallyroll.audit.ledger.chain import Writer
from tallyroll.audit.ledger.subjects import part_about
from tallyroll.errors import KeyGone, PositionConflict
from tallyroll.ports import Enrolment, LedgerRemoval
from tallyroll.testing.ledger import DAY_US

T = TypeVar("T")
WHO = st.integers(0, 1)
PEOPLE = ("anna", "bert")
PLACES = st.sampled_from(ALL)


class Sealing(RuleBasedStateMachine):
    """Two processes seal what two writers and their users publish; another one erases, and removes what is past its day.

    ``due`` has the last day of each entry that must be there in the end, ``told`` that of each that names a gap, ``begins`` where
    what is still in the log begins.
    """

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    @initialize()
    def begin(self) -> None:
        self.house = self.do(House.open(Path(self.folder.name)))
        self.writers = [self.house.writer() for _ in range(2)]
        self.running = [Running(self.house) for _ in range(2)]
        self.do(self.running[0].hold(AUDIT, TASKS))
        self.do(self.running[1].hold(*[where for where in ALL if where not in (AUDIT, TASKS)]))
        self.due: list[int] = []
        self.told: list[int] = []
        self.begins = dict.fromkeys(ALL, 0)
        self.forks = self.gaps = 0

    @property
    def today(self) -> int:
        return self.house.clock.now_us() // DAY_US

    @rule(
        who=WHO, where=st.sampled_from([AUDIT, AUDIT_1]), person=st.sampled_from(["", *PEOPLE]), retention_class=st.sampled_from([*CLASSES])
    )
    def write(self, who: int, where, person: str, retention_class: int) -> None:
        parts = [part_about(self.house.ring, b"{}", [person])] if person else []
        self.house.send(*self.house.write(self.writers[who], *parts, where=where, retention_class=retention_class), where=where)
        self.due.append(self.today + KEPT_DAYS)

    @rule(where=st.sampled_from([TASKS, SYSTEM]), person=st.sampled_from([None, *PEOPLE]))
    def publish(self, where, person: str | None) -> None:
        self.house.say(where, customer_id=person)
        self.due.append(self.today + RETENTION_DAYS.get(where.topic, KEPT_DAYS))

    @rule(where=PLACES)
    def redeliver(self, where) -> None:
        self.house.log[where] += self.house.log[where][self.begins[where] :][-1:]

    @rule(who=WHO)
    def fork(self, who: int) -> None:
        writer = self.writers[who]
        if any(head.partition == 0 for head in writer.heads):
            enrolment = Enrolment(writer.writer, writer.epoch, self.house.ring.k0(writer.writer, writer.epoch), "", writer.opened_us)
            twin = Writer(LOG_ID, enrolment, AesGcm(), rule_set="1")
            head = next(head for head in writer.heads if head.partition == 0)
            sealed = [self.house.write(twin, action="twin") for _ in range(head.seq)][-1]
            self.house.send(sealed[-1])
            self.forks += 1

    @rule(who=WHO)
    def lose(self, who: int) -> None:
        self.house.write(self.writers[who])
        self.house.send(*self.house.write(self.writers[who]))
        self.due.append(self.today + KEPT_DAYS)
        self.gaps += 1
        self.told.append(self.today + KEPT_DAYS)

    @rule(who=WHO)
    def take(self, who: int) -> None:
        self.running[who].take()

    @rule(who=WHO)
    def flush(self, who: int) -> None:
        self.do(self.running[who].seal())

    @rule(who=WHO)
    def crash(self, who: int) -> None:
        held = list(self.running[who].sealer.lanes)
        self.running[who] = Running(self.house)
        if held:
            self.do(self.running[who].hold(*held))

    @rule(who=WHO, where=PLACES, late=st.booleans())
    def move(self, who: int, where, late: bool) -> None:  # noqa: FBT001  # drawn
        one, other = self.running[who], self.running[1 - who]
        if where in one.sealer.lanes:
            if not late:
                self.do(one.seal())
            one.take()
            one.sealer.drop([where])
            self.do(other.hold(where))

    @rule(who=WHO, where=PLACES)
    def steal(self, who: int, where) -> None:
        """The other one does not know yet that it lost the partition: one of the two yields."""
        one, other = self.running[who], self.running[1 - who]
        if where in other.sealer.lanes:
            rest = [each for each in other.sealer.lanes if each != where]
            self.do(one.hold(where))
            self.do(one.seal())
            other.take()
            try:
                self.do(other.sealer.flush())
            except PositionConflict:
                if rest:
                    self.do(other.hold(*rest))
            other.sealer.drop([where])

    @rule(seconds=st.sampled_from([1, 6, 60]))
    def wait(self, seconds: int) -> None:
        self.house.clock.advance(seconds)

    @rule(who=WHO)
    def keep_up(self, who: int) -> None:
        self.do(self.running[who].upkeep.turn())

    @rule(person=st.sampled_from(PEOPLE))
    def erase(self, person: str) -> None:
        receipt = self.do(self.house.eraser().erase(person))
        assert receipt.state in ("done", "nothing_found")

    @rule(days=st.sampled_from([40, 400]), prune=st.booleans(), crash=st.booleans())
    def expire(self, days: int, prune: bool, crash: bool) -> None:  # noqa: FBT001  # drawn
        """Days pass in which nothing runs; then what is past its day goes, beside whoever seals again."""
        held = [list(one.sealer.lanes) for one in self.running]
        for one in self.running:
            self.do(one.seal())
            if not crash:
                self.do(one.stop())
        self.house.clock.advance(days * 86_400)
        self.begins = {where: len(values) for where, values in self.house.log.items()}
        self.writers = [self.house.writer() for _ in range(2)]
        self.running = [Running(self.house) for _ in held]
        for one, places in zip(self.running, held, strict=True):
            if places:
                self.do(one.hold(*places))
        self.do(self.house.retention().run(operator="op-1", prune=prune))
        self.due, self.told = ([day for day in days if day >= self.today] for days in (self.due, self.told))
        assert self.do(self.entries()) == len(self.due)

    @rule()
    def rotate(self) -> None:
        """The ring gets a new key from another process."""
        self.house.open_ring().rotate()

    @invariant()
    def nobody_is_in_the_way(self) -> None:
        if hasattr(self, "running"):
            assert sorted(where for one in self.running for where in one.sealer.lanes) == sorted(ALL)

    def teardown(self) -> None:
        try:
            if hasattr(self, "house"):
                self.do(self._end())
        finally:
            if hasattr(self, "house"):
                self.do(self.house.store.close())
            self.loop.close()
            self.folder.cleanup()

    async def _end(self) -> None:
        for one in self.running:
            await one.seal()
            await one.stop()
        await self.house.retention().run(operator="op-1")  # what came after an erasure goes now
        assert await self.entries() == len(self.due)
        assert (await self.there(category="audit_system")).count("gap") == len(self.told)
        await self._nobody_knows_who_was_erased()
        counts = await self.house.findings()
        assert set(counts) <= {"gap", "silent"}, counts  # writers of this test just stop
        assert counts.get("gap", 0) == self.gaps

    async def entries(self) -> int:
        """How many there are that the ledger has not made of itself."""
        return len(await self.there()) - len(await self.there(category="audit_system"))

    async def there(self, **wanted: object) -> list[str]:
        """The actions of entries; of one that is past its day there is none."""
        return list(filter(None, await self.house.found(**wanted)))

    async def _nobody_knows_who_was_erased(self) -> None:
        erased = (await self.house.eraser().standing()).erased
        assert await self.house.store.about(erased) == []
        for handle in erased:
            with pytest.raises(KeyGone):
                self.house.ring.key(handle)


@pytest.mark.slow
def test_any_order() -> None:
    chosen = settings(max_examples=40, stateful_step_count=30, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(Sealing, settings=chosen)


def everything_once() -> Sealing:
    """Each thing that may happen, with something there for it to happen to."""
    state = Sealing()
    state.begin()
    for person in PEOPLE:
        state.write(who=0, where=AUDIT, person=person, retention_class=30)
        state.write(who=1, where=AUDIT_1, person=person, retention_class=0)
        state.publish(where=TASKS, person=person)
        state.publish(where=SYSTEM, person=person)
    state.lose(who=0)
    state.fork(who=1)
    for where in ALL:
        state.redeliver(where=where)
    state.flush(who=0)
    state.keep_up(who=0)
    state.rotate()
    state.write(who=0, where=AUDIT, person="anna", retention_class=0)  # sealed before the erasure, and taken in after it
    state.erase(person="anna")
    state.take(who=0)
    state.crash(who=0)
    state.move(who=1, where=SYSTEM, late=True)
    state.steal(who=0, where=AUDIT_1)
    state.expire(days=40, prune=False, crash=False)
    state.write(who=0, where=AUDIT, person="bert", retention_class=30)
    state.expire(days=400, prune=True, crash=True)
    state.write(who=0, where=AUDIT, person="bert", retention_class=0)
    state.rotate()
    state.erase(person="bert")
    return state


def test_everything_once() -> None:
    state = everything_once()
    runs = state.do(state.house.eraser().standing()).runs
    assert {run["retention"] for run in runs} == {"personal", "body", "prune"}
    state.teardown()


@pytest.mark.parametrize(("part", "noticed"), [(None, r"assert \d == \d"), (0, "part_missing")], ids=["a body", "a part"])
def test_what_goes_without_a_word_is_noticed(part: int | None, noticed: str) -> None:
    state = everything_once()
    state.write(who=0, where=AUDIT, person="anna", retention_class=0)
    state.flush(who=0)
    last = state.do(state.house.store.sizes())[AUDIT.partition] - 1
    state.do(state.house.store.remove([LedgerRemoval(AUDIT.partition, last, part)]))
    with pytest.raises(AssertionError, match=noticed):
        state.teardown()

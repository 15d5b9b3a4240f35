"""Any order of writing, ends, redelivery, moves between processes, forks and new epochs: the ledger verifies, with what was lost named."""

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
from tests.flows.sealing import ALL, AUDIT, AUDIT_1, LOG_ID, TASKS, House, Running

from tallyroll.adapters.crypto import AesGcm
from tallyroll.audit.ledger.chain import Writer
from tallyroll.audit.ledger.subjects import part_about
from tallyroll.errors import PositionConflict
from tallyroll.ports import Enrolment

T = TypeVar("T")
WHO = st.integers(0, 1)
PLACES = st.sampled_from(ALL)


class Sealing(RuleBasedStateMachine):
    """Two processes seal what two writers and their users publish; ``expected`` counts what must be there in the end."""

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
        self.expected = self.forks = self.gaps = 0

    @rule(who=WHO, where=st.sampled_from([AUDIT, AUDIT_1]), person=st.sampled_from(["", "anna", "bert"]))
    def write(self, who: int, where, person: str) -> None:
        parts = [part_about(self.house.ring, b"{}", [person])] if person else []
        self.house.send(*self.house.write(self.writers[who], *parts, where=where), where=where)
        self.expected += 1

    @rule(where=st.sampled_from([where for where in ALL if where not in (AUDIT, AUDIT_1)]), person=st.sampled_from([None, "anna"]))
    def publish(self, where, person: str | None) -> None:
        self.house.say(where, customer_id=person)
        self.expected += 1

    @rule(where=PLACES)
    def redeliver(self, where) -> None:
        self.house.log[where] += self.house.log[where][-1:]

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
        self.expected += 1
        self.gaps += 1

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
        codes = await self.house.found(category="audit_system")
        found = await self.house.found()
        assert len(found) - len(codes) == self.expected
        assert codes.count("gap") == self.gaps
        counts = await self.house.findings()
        assert set(counts) <= {"gap", "silent"}, counts  # writers of this test just stop
        assert counts.get("gap", 0) == self.gaps


@pytest.mark.slow
def test_any_order() -> None:
    chosen = settings(max_examples=10, stateful_step_count=25, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(Sealing, settings=chosen)

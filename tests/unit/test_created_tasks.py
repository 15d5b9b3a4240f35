"""A manager's task and its event: neither without the other, whatever fails between them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from enum import Enum
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallyroll.adapters.sqlite.outbox import SqliteOutbox
from tallyroll.bridges.agents import EventSourcedAgentManager
from tallyroll.bridges.tasks import Asked, asked_of, created_event, created_us_of, may_be_of, task_id_of
from tallyroll.compat import kafka_events
from tallyroll.errors import InvalidEvent, LogUnavailable, PublishRejected, PublishUncertain, StoreUnavailable
from tallyroll.events.event import AgentEvent
from tallyroll.events.ids import made_us
from tallyroll.ports import OutboxRow
from tallyroll.publish.receipt import Receipt
from tallyroll.roll import Roll
from tallyroll.telemetry import OUTBOX_EVENTS, OUTBOX_ROWS, Counters
from tallyroll.testing.clock import T0, FakeClock

CANARY = "sk-canary-of-a-secret"


@dataclass
class Request:
    agent_type: str = "analyst"
    task_description: str = "look at it"
    env_vars: dict[str, str] | None = field(default_factory=lambda: {"USER": "ada", "API_KEY": CANARY})


class Manager:
    """Keeps tasks in a dict, as an existing one keeps them in Redis."""

    def __init__(self, clock: FakeClock) -> None:
        self.tasks: dict[str, Any] = {}
        self.error: BaseException | None = None
        self._clock = clock

    async def create_task(self, request: Request) -> Any:
        if self.error is not None:
            raise self.error
        task = SimpleNamespace(
            id=f"t-{len(self.tasks)}", created_at=self._clock.now, agent_type=request.agent_type, task_description=request.task_description
        )
        self.tasks[task.id] = task
        return task

    def list_tasks(self) -> list[Any]:
        return list(self.tasks.values())


class Shaky(SqliteOutbox):
    """Fails in the method that is named."""

    failing = ""

    def _fail(self, name: str) -> None:
        if self.failing == name:
            raise StoreUnavailable("outbox", "away")

    async def put(self, row):
        self._fail("put")
        await super().put(row)

    async def ready(self, row_id, event, until_us):
        self._fail("ready")
        return await super().ready(row_id, event, until_us)

    async def remove(self, row_id):
        self._fail("remove")
        await super().remove(row_id)


class Publisher:
    """The roll's, until it is told to fail or to hang."""

    def __init__(self, roll: Roll) -> None:
        self._roll = roll
        self.clock = roll.clock
        self.error: Exception | None = None
        self.hanging: asyncio.Event | None = None

    async def publish(self, event: AgentEvent) -> Receipt:
        if self.hanging is not None:
            await self.hanging.wait()
        if self.error is not None:
            raise self.error
        return await self._roll.publish(event)


class Office:
    def __init__(self, roll: Roll, outbox: Shaky) -> None:
        self.roll = roll
        self.clock: FakeClock = roll.clock
        self.outbox = outbox
        self.counters = Counters()
        self.publisher = Publisher(roll)
        self.manager = Manager(self.clock)

    async def agents(self, manager: Any = None, **more: Any) -> EventSourcedAgentManager:
        manager = manager or self.manager
        return EventSourcedAgentManager(
            self.publisher, manager=manager, replay=await self.roll.replay_engine(), outbox=self.outbox, telemetry=self.counters, **more
        )

    async def events(self) -> list[AgentEvent]:
        return [seen.event async for seen in self.roll.tail() if seen.event.event_type == "task.created"]

    async def told(self) -> list[str]:
        return [event.aggregate_id for event in await self.events()]

    async def rows(self) -> list[bool]:
        """Whether each row is ready."""
        return [row.event is not None for row in await self.outbox.rows()]

    def counted(self, outcome: str) -> float:
        return self.counters.value(OUTBOX_EVENTS, outcome=outcome)

    async def crash_while_asking(self, *, made: bool = True) -> None:
        """A process that dies in the manager's call, after or before the task is made."""
        agents = await self.agents()

        async def create_task(request: Request) -> Any:
            if made:
                await Manager.create_task(self.manager, request)
            raise asyncio.CancelledError

        self.manager.create_task = create_task
        with pytest.raises(asyncio.CancelledError):
            await agents.create_task(Request())
        del self.manager.create_task


@pytest.fixture
async def office() -> AsyncIterator[Office]:
    async with opened() as one:
        yield one


@asynccontextmanager
async def opened() -> AsyncIterator[Office]:
    async with Roll.open("sqlite://:memory:", clock=FakeClock()) as roll:
        outbox = await Shaky.open(None)
        yield Office(roll, outbox)
        await outbox.close()


async def test_a_task_and_its_event(office: Office) -> None:
    agents = await office.agents()
    task = await agents.create_task(Request())
    assert task is office.manager.tasks["t-0"]
    [event] = await office.events()
    assert (event.key, event.timestamp, made_us(event.event_id)) == ("task:t-0", T0, office.clock.now_us())
    assert event.payload == {"agent_type": "analyst", "task_description": "look at it", "created_by": "ada"}
    assert await office.rows() == []
    assert office.counted("published") == 1
    assert (await agents.get_aggregate_state("task", "t-0"))["task_id"] == "t-0"
    assert await agents.get_aggregate_history("task", "t-0") == [event.to_kafka_message()]


@pytest.mark.parametrize("variables", [{"HOME": "/"}, {"USER": ""}, {"USER": None}, {}, None, "USER=ada"])
def test_without_a_user_the_system_has_created_it(variables: Any) -> None:
    assert asked_of(Request(env_vars=variables)).created_by == "system"
    assert asked_of({"env_vars": variables}).payload() == {"created_by": "system"}


def test_with_a_user_the_user_has() -> None:
    assert asked_of({"env_vars": {"USER": "ada"}}).created_by == "ada"
    kinds = Enum("kinds", {"ONE": "one"})
    assert asked_of(SimpleNamespace(agent_type=kinds.ONE)).payload() == {"agent_type": "one", "created_by": "system"}


async def test_a_manager_that_raises_has_made_nothing(office: Office) -> None:
    office.manager.error = RuntimeError("no")
    agents = await office.agents()
    with pytest.raises(RuntimeError, match="no"):
        await agents.create_task(Request())
    assert (await office.told(), await office.rows()) == ([], [])


@pytest.mark.parametrize("description", ["\ud800", "long " * 200_000], ids=["no Unicode", "too long"])
async def test_of_a_request_that_no_event_can_tell_of_no_task_is_made(office: Office, description: str) -> None:
    agents = await office.agents()
    with pytest.raises(InvalidEvent, match="payload"):
        await agents.create_task(Request(task_description=description))
    assert office.manager.tasks == {}
    assert await office.outbox.rows() == []


@pytest.mark.parametrize("name", ["id", "task_id"])
@pytest.mark.parametrize("task_id", ["t-\x1b[31m", "t" * 300], ids=["control characters", "too long"])
async def test_of_a_request_with_an_id_that_no_event_can_have_no_task_is_made(office: Office, name: str, task_id: str) -> None:
    agents = await office.agents()
    with pytest.raises(InvalidEvent, match="aggregate_id"):
        await agents.create_task({name: task_id, "agent_type": "coder"})
    assert office.manager.tasks == {}
    assert await office.outbox.rows() == []


async def test_a_manager_that_does_not_wait_will_do(office: Office) -> None:
    task = {"task_id": "t", "created_at": 1.5}
    agents = await office.agents(SimpleNamespace(create_task=lambda _: task))
    assert await agents.create_task(Request()) is task
    assert [event.timestamp.timestamp() for event in await office.events()] == [1.5]


async def test_while_the_outbox_is_away_the_manager_is_not_asked(office: Office) -> None:
    office.outbox.failing = "put"
    agents = await office.agents()
    with pytest.raises(StoreUnavailable):
        await agents.create_task(Request())
    assert office.manager.tasks == {}


@pytest.mark.parametrize("step", ["ready", "remove"])
async def test_an_outbox_that_goes_away_later_costs_nobody_the_task_or_the_event(office: Office, step: str) -> None:
    office.outbox.failing = step
    agents = await office.agents()
    assert (await agents.create_task(Request())).id == "t-0"
    assert await office.told() == ["t-0"]
    office.outbox.failing = ""
    office.clock.advance(600)
    await agents.sweep()
    assert (await office.told(), await office.rows()) == (["t-0"], [])


async def test_while_the_log_is_away_the_row_waits_for_it(office: Office) -> None:
    office.publisher.error = LogUnavailable("log", "away")
    agents = await office.agents()
    assert (await agents.create_task(Request())).id == "t-0"
    await agents.sweep()  # too early: whoever has the row may be at it
    assert (await office.told(), await office.rows(), office.counted("uncertain")) == ([], [True], 1)
    office.publisher.error = None
    office.clock.advance(61)
    await agents.sweep()
    assert (await office.told(), await office.rows(), office.counted("published")) == (["t-0"], [], 1)
    assert office.counters.value(OUTBOX_ROWS) == 1


@pytest.mark.parametrize(("kept", "rows"), [(True, []), (False, [True])])
async def test_what_the_spool_keeps_needs_no_row(office: Office, *, kept: bool, rows: list[bool]) -> None:
    office.publisher.error = PublishUncertain("id", "late", kept=kept)
    await (await office.agents()).create_task(Request())
    assert await office.rows() == rows
    assert office.counted("kept" if kept else "uncertain") == 1


async def test_an_event_that_is_refused_is_not_dropped(office: Office, caplog: pytest.LogCaptureFixture) -> None:
    office.publisher.error = PublishRejected("id", "no")
    await (await office.agents()).create_task(Request())
    assert (await office.rows(), office.counted("refused")) == ([True], 1)
    assert "stays in the outbox" in caplog.text


async def test_nobody_waits_long_for_a_log_that_hangs(office: Office) -> None:
    office.publisher.hanging = asyncio.Event()
    agents = await office.agents()
    asking = asyncio.create_task(agents.create_task(Request()))
    await office.clock.until_asleep()
    assert not asking.done()
    office.clock.advance(2)
    assert (await asking).id == "t-0"
    assert (await office.told(), await office.rows()) == ([], [True])
    office.publisher.hanging.set()
    await agents.close()
    assert (await office.told(), await office.rows()) == (["t-0"], [])


async def test_a_task_without_an_id_is_told_to_who_wired_it(office: Office) -> None:
    agents = await office.agents(SimpleNamespace(create_task=lambda _: object()))
    with pytest.raises(InvalidEvent, match=r"task\.id"):
        await agents.create_task(Request())
    assert await office.outbox.rows() == []


async def test_a_task_whose_id_no_event_can_have_leaves_nothing_and_holds_up_nobody(office: Office) -> None:
    agents = await office.agents(SimpleNamespace(create_task=lambda _: SimpleNamespace(id="t\n0")))
    with pytest.raises(InvalidEvent, match="aggregate_id"):
        await agents.create_task(Request())
    assert await office.outbox.rows() == []
    await office.crash_while_asking()
    await office.manager.create_task(Request())
    made = list(office.manager.tasks.values())
    made[0].id = "t\n0"
    agents = await office.agents(list_tasks=lambda: made)
    office.clock.advance(301)
    await agents.sweep()
    assert (await office.told(), await office.rows()) == ([made[1].id], [])


# What a crash has cut off


async def test_a_task_that_was_made_and_not_told_is_told(office: Office) -> None:
    await office.crash_while_asking()
    agents = await office.agents()
    await agents.sweep()
    assert (await office.told(), await office.rows()) == ([], [False])
    office.clock.advance(301)
    await asyncio.gather(agents.sweep(), (await office.agents()).sweep())
    [event] = await office.events()
    assert event.event_id == created_event("t-0", created_us_of(office.manager.tasks["t-0"]), Asked()).event_id
    assert event.payload["created_by"] == "ada"
    assert await office.rows() == []


async def test_a_task_that_was_never_made_is_forgotten(office: Office) -> None:
    agents = await office.agents()
    await agents.create_task(Request())  # of the same content, and told
    await office.crash_while_asking(made=False)
    office.clock.advance(301)
    await agents.sweep()
    assert (await office.told(), await office.rows(), office.counted("dropped")) == (["t-0"], [], 1)


@pytest.mark.parametrize("listing", [None, lambda: 1 / 0])
async def test_a_manager_that_cannot_list_its_tasks_leaves_the_row_to_be_looked_at(
    office: Office, listing: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await office.crash_while_asking()
    office.manager.list_tasks = listing
    office.clock.advance(301)
    await (await office.agents()).sweep()
    assert (await office.told(), await office.rows(), office.counted("unresolved")) == ([], [False], 1)
    assert "list its tasks" in caplog.text
    office.clock.advance(61)
    await (await office.agents(list_tasks=office.manager.tasks.values)).sweep()
    assert (await office.told(), await office.rows()) == (["t-0"], [])


async def test_two_calls_that_were_cut_off_are_two_events(office: Office) -> None:
    for _ in range(2):
        await office.crash_while_asking()
        office.clock.advance(1)
    office.clock.advance(301)
    await (await office.agents()).sweep()
    assert sorted(await office.told()) == ["t-0", "t-1"]


async def test_a_task_that_somebody_is_making_is_not_taken_for_one_that_was_cut_off(office: Office) -> None:
    await office.crash_while_asking(made=False)
    office.clock.advance(299)
    await office.crash_while_asking()  # its process lives: it will be told by it, or by a later sweep
    office.clock.advance(2)
    agents = await office.agents()
    await agents.sweep()
    assert (await office.told(), await office.rows()) == ([], [False, False])
    office.clock.advance(301)
    await agents.sweep()
    assert (await office.told(), await office.rows()) == (["t-0"], [])


async def test_a_manager_slower_than_a_sweep_is_told_of_all_the_same(office: Office) -> None:
    agents = await office.agents()

    async def slowly(request: Request) -> Any:
        office.clock.advance(301)
        await agents.sweep()
        return await Manager.create_task(office.manager, request)

    office.manager.create_task = slowly
    await agents.create_task(Request())
    assert (await office.told(), office.counted("dropped")) == (["t-0"], 1)


async def test_a_row_that_cannot_be_finished_does_not_hold_up_the_others(office: Office, caplog: pytest.LogCaptureFixture) -> None:
    for number, event in enumerate([b"garbage", b"{}"]):
        await office.outbox.put(OutboxRow(str(number), number, 0, b"{}", event))
    office.publisher.error = LogUnavailable("log", "away")
    agents = await office.agents()
    await agents.create_task(Request())
    office.publisher.error = None
    office.clock.advance(61)
    await agents.sweep()
    assert (await office.told(), len(await office.rows())) == (["t-0"], 2)
    assert caplog.text.count("tried again in a minute") == 2


async def test_no_secret_leaves_a_request(office: Office, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await office.crash_while_asking()
    office.manager.list_tasks = None
    office.clock.advance(301)
    await (await office.agents()).sweep()
    [row] = await office.outbox.rows()
    assert CANARY.encode() not in row.request
    assert "look at it" not in caplog.text + repr(row) + repr(asked_of(Request()))
    assert CANARY not in caplog.text


# With a roll


async def test_a_roll_sweeps_at_the_start_and_each_minute(office: Office) -> None:
    await office.crash_while_asking()
    office.clock.advance(301)
    agents = await office.roll.agents(office.manager, outbox=office.outbox)
    await office.clock.until_asleep(2)
    assert await office.told() == ["t-0"]
    await office.crash_while_asking()
    office.clock.advance(301)
    await office.clock.until_asleep(2)
    await agents.sweep()
    assert await office.told() == ["t-0", "t-1"]
    await agents.close()
    await agents.close()


async def test_without_redis_the_outbox_is_a_file_beside_the_log(tmp_path: Any) -> None:
    async with Roll.open(f"sqlite:///{tmp_path}") as roll:
        agents = await roll.agents(Manager(FakeClock(datetime.now(UTC))))
        await agents.create_task(Request())
    assert (tmp_path / "outbox.db").exists()


async def test_the_names_users_know() -> None:
    async with Roll.open("sqlite://:memory:") as roll:
        known = kafka_events.EventSourcedAgentManager(roll.publisher)
        event = await known.create_agent_event("agent.started", "a", {"agent_type": "x"})
        await known.create_task_event("task.started", "t", {"agent_id": "a"})
        with pytest.raises(ValueError, match="no manager"):
            await known.create_task(Request())
        with pytest.raises(ValueError, match="replay engine"):
            await known.get_aggregate_state("agent", "a")
        with pytest.raises(ValueError, match="needs an outbox"):
            kafka_events.EventSourcedAgentManager(roll.publisher, manager=object())
        agents = await roll.agents()
        assert (await agents.get_aggregate_state("agent", "a"))["status"] == "running"
        assert [one["event_id"] for one in await agents.get_aggregate_history("agent", "a")] == [event.event_id]
        assert await agents.get_aggregate_history("task", "unknown") == []
        with pytest.raises(ValueError, match="expected agent"):
            await agents.get_aggregate_history("thing", "a")


# What is read of tasks


@given(st.datetimes(min_value=datetime(1980, 1, 1), max_value=datetime(2200, 1, 1)), st.text(min_size=1, max_size=20))  # noqa: DTZ001  # without a zone on purpose
def test_a_task_is_one_event_however_it_says_its_time(naive: datetime, task_id: str) -> None:
    aware = naive.replace(tzinfo=UTC)
    said = [naive, aware, aware.astimezone(timezone(timedelta(hours=5))), naive.isoformat(), aware.isoformat()]
    [moment] = {created_us_of({"created_at": value}) for value in said}
    assert task_id_of(SimpleNamespace(task_id=task_id)) == task_id_of({"id": task_id}) == task_id
    if task_id.isprintable():
        [event_id] = {created_event(task_id, moment, Asked(created_by=by)).event_id for by in "ab"}
        assert made_us(event_id) == moment // 1_000 * 1_000


@pytest.mark.parametrize("said", [None, "yesterday", object(), 1e300])
def test_a_time_that_is_none(said: Any) -> None:
    assert created_us_of({"created_at": said}) is None
    assert not may_be_of({"created_at": said}, Asked(), 0, 2**62)


@pytest.mark.parametrize(("agent_type", "same"), [("analyst", True), ("other", False), (None, True)])
def test_a_task_is_matched_by_what_both_say(agent_type: str | None, *, same: bool) -> None:
    task = SimpleNamespace(id="t", created_at=5, agent_type=agent_type)
    assert may_be_of(task, Asked("analyst", "look at it"), 0, 10_000_000) == same
    assert not may_be_of({**vars(task), "id": ""}, Asked(), 0, 10_000_000)

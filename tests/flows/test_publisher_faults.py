"""Whatever the log does to its records: what was acknowledged is there, what is kept comes, order per key holds."""

from __future__ import annotations

import asyncio

from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.flows.publishing import Desk, chain_findings, publishing

from tallyroll.ports import Delivered, Outcome, Rejected, Unknown
from tallyroll.telemetry import DELIVERED, REJECTED, SHED
from tallyroll.testing.checker import Report, check
from tallyroll.testing.faulty_log import Chances, Fault
from tallyroll.testing.history import Entry, Invoke, Poll, Read, outcome_entry

KEYS = ("task-1", "task-2", "task-3")


async def send(desk: Desk, history: list[Entry], count: int, number: int) -> list[Outcome]:
    """One call; its keys take turns."""
    events = [
        desk.builder.event(aggregate_id=KEYS[(number + index) % len(KEYS)], payload={"number": number + index}) for index in range(count)
    ]
    history += [Invoke("p", event.event_id, event.key) for event in events]
    outcomes = await desk.publisher.publish_batch(events)
    for event, outcome in zip(events, outcomes, strict=True):
        # A kept event comes later: only what the log says then is final.
        if not (isinstance(outcome, Unknown) and outcome.kept):
            history.append(outcome_entry(event.event_id, outcome))
    return list(outcomes)


async def judge(desk: Desk, history: list[Entry]) -> Report:
    """Reads the whole log and checks the history."""
    for partition, records in (await desk.seen()).items():
        history.append(Poll("c", [Read(str(partition), offset, record.event_id) for offset, record in enumerate(records)]))
    return check(history, repeats_allowed=True)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(1, 12)),
        st.tuples(st.just("pass"), st.integers(1, 60)),
        st.sampled_from([("hold", 0), ("hold_acks", 0), ("release", 0)]),
    ),
    min_size=3,
    max_size=14,
)
CHANCE = st.sampled_from([0.0, 0.02, 0.2])
CHANCES = st.builds(Chances, drop_ack=CHANCE, lose=CHANCE, refuse=CHANCE, repeat=CHANCE, backpressure=CHANCE, delay=CHANCE)


async def story(seed: int, chances: Chances, steps: list[tuple[str, int]]) -> None:
    async with publishing(seed=seed, chances=chances, max_in_flight=40) as desk:
        history: list[Entry] = []
        calls: list[asyncio.Task[list[Outcome]]] = []
        number = 0
        for what, amount in steps:
            if what == "send":
                calls.append(asyncio.create_task(send(desk, history, amount, number)))
                number += amount
            elif what == "pass":
                due = desk.clock.monotonic() + amount / 10
                await desk.until(lambda due=due: desk.clock.monotonic() >= due)
            else:
                getattr(desk.log, what)()
        desk.log.heal()
        outcomes = [outcome for call in calls for outcome in await desk.passing(call)]
        await desk.settled()
        outcomes += await desk.passing(send(desk, history, len(KEYS), number))  # names what was refused before
        number += len(KEYS)
        await desk.settled()
        report = await judge(desk, history)
        assert report.clean, str(report)
        kept = sum(isinstance(outcome, Unknown) and outcome.kept for outcome in outcomes)
        assert report.acknowledged + report.failed + report.unknown + kept == number
        assert report.unknown <= desk.publisher.refused_in_spool, "only what was tried, kept and then refused stays unknown"
        present = {record.event_id for records in (await desk.seen()).values() for record in records}
        assert len(present) + report.failed + desk.publisher.refused_in_spool >= number, "a kept event is in the log, or refused"
        value = desk.telemetry.value
        assert value(DELIVERED) + desk.publisher.refused_in_spool >= len(present)
        assert value(REJECTED) + value(SHED) >= sum(isinstance(outcome, Rejected) for outcome in outcomes)
        assert sum(isinstance(outcome, Delivered) for outcome in outcomes) <= len(present)
        assert (await chain_findings(desk.log, desk.catalogue))[0] == []


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32), chances=CHANCES, steps=STEPS)
@example(  # held by the log while a loss before it is told
    seed=2969808,
    chances=Chances(lose=0.2, refuse=0.02, repeat=0.02, backpressure=0.2, delay=0.2),
    steps=[("send", 10), ("send", 12), ("pass", 3), ("send", 9), ("hold", 0), ("send", 9), ("pass", 43)],
)
def test_random_faults_lose_nothing_and_keep_the_order(seed, chances, steps):
    asyncio.run(story(seed, chances, steps))


async def test_the_check_would_notice_a_publisher_that_sends_a_lost_record_too_late():
    async with publishing(spool=False) as desk:
        history: list[Entry] = []
        desk.log.next_records(Fault.LOSE)
        late = desk.events(1)[0]
        history.append(Invoke("p", late.event_id, late.key))
        await desk.publisher.publish_batch([late])
        await send(desk, history, 3, 0)
        await desk.publisher.publish(late)
        assert (await judge(desk, history)).of("order")

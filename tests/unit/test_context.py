from __future__ import annotations

import asyncio
import contextvars
import threading

import pytest

from tallyroll.errors import InvalidEvent
from tallyroll.events.context import EventContext, caused_by, check_traceparent, current_context, event_context
from tallyroll.events.event import AgentEvent, EventMetadata
from tallyroll.events.types import EventType

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"


def made(**given) -> AgentEvent:
    return AgentEvent(EventType.TASK_STARTED, "t-1", "task", **given)


def test_values_reach_every_event_built_inside_and_none_outside():
    with event_context(session_id="s-1", user_id="u-1", tenant_id="acme", tracestate="k=v", correlation_id="c-1", causation_id="e-0"):
        inside = made().metadata
    outside = made().metadata
    assert (inside.session_id, inside.user_id, inside.tenant_id, inside.tracestate) == ("s-1", "u-1", "acme", "k=v")
    assert (inside.correlation_id, inside.causation_id) == ("c-1", "e-0")
    assert (outside.session_id, outside.user_id, outside.tenant_id, outside.causation_id) == (None, None, None, None)


def test_inner_blocks_add_and_override_and_are_undone():
    with event_context(session_id="s-1", user_id="u-1"):
        with event_context(user_id="u-2"):
            assert current_context() == EventContext(session_id="s-1", user_id="u-2")
        assert current_context() == EventContext(session_id="s-1", user_id="u-1")
    assert current_context() == EventContext()


def test_a_block_that_raises_is_undone():
    with pytest.raises(RuntimeError), event_context(session_id="s-1"):
        raise RuntimeError
    assert current_context() == EventContext()


def test_explicit_metadata_wins_over_the_context():
    with event_context(session_id="s-1", user_id="u-1", correlation_id="c-1"):
        metadata = made(metadata=EventMetadata(session_id="s-2", correlation_id="c-2")).metadata
    assert (metadata.session_id, metadata.user_id, metadata.correlation_id) == ("s-2", "u-1", "c-2")


def test_an_event_inside_a_context_without_correlation_is_still_its_own_root():
    with event_context(session_id="s-1"):
        event = made()
    assert event.metadata.correlation_id == event.event_id


def test_the_trace_id_is_taken_from_traceparent_unless_given():
    with event_context(traceparent=TRACEPARENT):
        assert made().metadata.trace_id == TRACE_ID
        assert made(metadata=EventMetadata(trace_id="own")).metadata.trace_id == "own"


async def test_tasks_inherit_the_context_and_leak_into_no_neighbour():
    ready = asyncio.Barrier(3)

    async def worker(name: str) -> str | None:
        with event_context(session_id=name):
            await ready.wait()
            return made().metadata.session_id

    async def child() -> str | None:
        await ready.wait()
        return made().metadata.session_id

    with event_context(session_id="parent"):
        tasks = [asyncio.create_task(worker("one")), asyncio.create_task(worker("two")), asyncio.create_task(child())]
    assert await asyncio.gather(*tasks) == ["one", "two", "parent"]


def test_a_new_thread_starts_without_context_unless_it_is_carried_over():
    seen: list[str | None] = []

    def look() -> None:
        seen.append(current_context().session_id)

    with event_context(session_id="s-1"):
        carried = contextvars.copy_context()
        for target in (look, lambda: carried.run(look)):
            thread = threading.Thread(target=target, context=contextvars.Context()) if _takes_context() else threading.Thread(target=target)
            thread.start()
            thread.join()
    assert seen == [None, "s-1"]


def _takes_context() -> bool:
    import inspect

    return "context" in inspect.signature(threading.Thread.__init__).parameters


def test_effects_carry_cause_correlation_and_who():
    cause = made(metadata=EventMetadata(correlation_id="c-1", session_id="s-1", user_id="u-1", traceparent=TRACEPARENT))
    with caused_by(cause):
        effect = made()
        with caused_by(effect):
            second = made()
    assert effect.metadata.causation_id == cause.event_id
    assert second.metadata.causation_id == effect.event_id
    assert {one.metadata.correlation_id for one in (cause, effect, second)} == {"c-1"}
    assert (second.metadata.session_id, second.metadata.user_id, second.metadata.traceparent) == ("s-1", "u-1", TRACEPARENT)


@pytest.mark.parametrize("value", [TRACEPARENT, TRACEPARENT[:-2] + "00", "01" + TRACEPARENT[2:], "01" + TRACEPARENT[2:] + "-more"])
def test_well_formed_traceparents_are_accepted(value):
    assert check_traceparent(value) == value


@pytest.mark.parametrize(
    "value",
    [
        "",
        "junk",
        7,
        TRACEPARENT.upper(),
        TRACEPARENT + "-more",
        TRACEPARENT + "0",
        TRACEPARENT + "\n",
        "ff" + TRACEPARENT[2:],
        TRACEPARENT.replace(TRACE_ID, "0" * 32),
        TRACEPARENT.replace("00f067aa0ba902b7", "0" * 16),
    ],
)
def test_malformed_traceparents_are_refused_before_the_block_begins(value):
    with pytest.raises(InvalidEvent), event_context(traceparent=value):
        pytest.fail("entered")
    assert current_context() == EventContext()

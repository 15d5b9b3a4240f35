"""What ``publish`` promises, before a log that misbehaves."""

from __future__ import annotations

import asyncio
import gc
import threading

import pytest
from tests.flows.publishing import chain_findings, copies, firsts, publishing, seen_in

from tallyroll.adapters.sqlite.log import SqliteLog
from tallyroll.adapters.sqlite.spool import SqliteSpool
from tallyroll.adapters.system import SystemClock
from tallyroll.errors import Backpressure, InvalidEvent, LogUnavailable, PublishRejected, PublishUncertain
from tallyroll.events.topics import catalogue_of
from tallyroll.ports import Delivered, Rejected, Unknown
from tallyroll.publish.publisher import EventPublisher
from tallyroll.settings import Settings
from tallyroll.telemetry import CALLBACK_ERRORS, DELIVERED, LANES_SPOOLING, REJECTED, SHED, SPOOL_DEPTH, SPOOLED, UNCERTAIN, Counters
from tallyroll.testing.builders import EventBuilder
from tallyroll.testing.faulty_log import Fault

# Outcomes


async def test_a_receipt_names_the_position_where_the_event_is():
    async with publishing() as desk:
        receipt = await desk.publisher.publish(desk.events(1)[0])
        seen = (await desk.seen())[receipt.position.topic_partition]
        assert seen[receipt.position.offset].event_id == receipt.event_id


async def test_a_refused_event_raises_and_is_not_in_the_log():
    async with publishing() as desk:
        desk.log.next_records(Fault.REFUSE)
        with pytest.raises(PublishRejected):
            await desk.publisher.publish(desk.events(1)[0])
        assert await desk.numbers() == []


async def test_without_a_spool_a_lost_acknowledgement_is_uncertain_and_not_kept():
    async with publishing(spool=False) as desk:
        desk.log.next_records(Fault.DROP_ACK)
        with pytest.raises(PublishUncertain) as caught:
            await desk.publisher.publish(desk.events(1)[0])
        assert not caught.value.kept
        assert desk.telemetry.value(UNCERTAIN) == 1


async def test_with_a_spool_a_lost_acknowledgement_costs_only_a_repeat():
    async with publishing() as desk:
        desk.log.next_records(Fault.DROP_ACK)
        event = desk.events(1)[0]
        receipt = await desk.passing(desk.publisher.publish(event))
        assert copies(await desk.seen()) == {event.event_id: 2}
        assert receipt.position.offset == 1


async def test_an_event_that_never_arrived_is_sent_again():
    async with publishing() as desk:
        desk.log.next_records(Fault.LOSE)
        event = desk.events(1)[0]
        await desk.passing(desk.publisher.publish(event))
        assert copies(await desk.seen()) == {event.event_id: 1}


async def test_after_the_deadline_the_event_is_uncertain_kept_and_comes_once():
    async with publishing(publish_deadline_ms=3_000) as desk:
        desk.log.hold()
        event = desk.events(1)[0]
        with pytest.raises(PublishUncertain) as caught:
            await desk.passing(desk.publisher.publish(event))
        assert caught.value.kept
        desk.log.release()
        await desk.settled()
        assert list(copies(await desk.seen())) == [event.event_id]


async def test_outcomes_of_a_batch_come_in_the_order_of_the_events():
    async with publishing() as desk:
        events = [*desk.events(2), *desk.events(2, key="task-2"), *desk.events(1, key="task-3")]
        desk.log.next_records(Fault.REPEAT)
        outcomes = await desk.publisher.publish_batch(events)
        seen = await desk.seen()
        at = [seen[outcome.position.topic_partition][outcome.position.offset].event_id for outcome in outcomes]
        assert at == [event.event_id for event in events]


async def test_one_refusal_in_a_batch_does_not_stop_its_neighbours():
    async with publishing(max_record_bytes=5_000) as desk:
        good = desk.events(2)
        large = desk.events(1, text="x" * 10_000)[0]
        outcomes = await desk.publisher.publish_batch([good[0], large, good[1]])
        assert [type(outcome) for outcome in outcomes] == [Delivered, Rejected, Delivered]
        assert str(outcomes[1].error).count("5000") == 1


async def test_an_empty_batch_has_no_outcomes():
    async with publishing() as desk:
        assert await desk.publisher.publish_batch([]) == []


async def test_what_is_no_event_is_refused_before_anything_is_accepted():
    async with publishing() as desk:
        with pytest.raises(InvalidEvent):
            await desk.publisher.publish_batch([desk.events(1)[0], {"event_type": "task.created"}])
        assert await desk.numbers() == []


async def test_a_batch_may_come_from_a_generator():
    async with publishing() as desk:
        outcomes = await desk.publisher.publish_batch(event for event in desk.events(3))
        assert [type(outcome) for outcome in outcomes] == [Delivered] * 3
        assert len(await desk.publisher.publish_events_batch(iter(desk.events(2, key="task-2")))) == 2
        assert len(await desk.numbers()) == 3


@pytest.mark.parametrize("one_alone", [True, False])
async def test_what_holds_no_events_is_refused_with_what_was_expected(*, one_alone: bool):
    async with publishing() as desk:
        with pytest.raises(InvalidEvent, match=r"^events: expected events, such as a list of them, got (AgentEvent|int)$"):
            await desk.publisher.publish_batch(desk.events(1)[0] if one_alone else 5)


async def test_a_batch_larger_than_a_chunk_is_in_order():
    async with publishing() as desk:
        outcomes = await desk.publisher.publish_batch(desk.events(2_500))
        assert all(isinstance(outcome, Delivered) for outcome in outcomes)
        assert await desk.numbers() == list(range(2_500))


async def test_a_processor_that_refuses_rejects_its_event_only():
    def refuse_odd(event):
        if event.payload["number"] % 2:
            raise InvalidEvent("payload.number", "odd")
        return event

    async with publishing(processors=[refuse_odd]) as desk:
        outcomes = await desk.publisher.publish_batch(desk.events(4))
        assert [type(outcome) for outcome in outcomes] == [Delivered, Rejected, Delivered, Rejected]
        with pytest.raises(InvalidEvent):
            await desk.publisher.publish(desk.events(1, first=1)[0])
        assert await desk.numbers() == [0, 2]


@pytest.mark.parametrize("odd", [lambda event: {}[event.event_id], lambda _: None], ids=["raises", "gives nothing"])
async def test_a_processor_that_fails_rejects_its_event_only_and_holds_up_nobody(odd):
    async with publishing(processors=[lambda event: odd(event) if event.payload["number"] % 2 else event]) as desk:
        outcomes = await desk.publisher.publish_batch(desk.events(4))
        assert [type(outcome) for outcome in outcomes] == [Delivered, Rejected, Delivered, Rejected]
        assert "processor" in str(outcomes[1].error)
        with pytest.raises((KeyError, InvalidEvent)):
            await desk.publisher.publish(desk.events(1, first=1)[0])
        await desk.publisher.publish(desk.events(1, first=6)[0])
        assert await desk.numbers() == [0, 2, 6]


async def test_a_batch_call_says_per_event_id_whether_it_was_acknowledged():
    async with publishing() as desk:
        events = desk.events(2)
        desk.log.next_records(Fault.REFUSE)
        assert await desk.publisher.publish_events_batch(events) == {events[0].event_id: False, events[1].event_id: True}


# Order


async def test_order_per_key_holds_from_direct_to_spool_and_back_to_direct():
    async with publishing() as desk:
        await desk.publisher.publish_batch(desk.events(3))
        desk.log.hold()
        tasks = [asyncio.create_task(desk.publisher.publish_batch(desk.events(3, first=3)))]
        await desk.spooling()
        tasks.append(asyncio.create_task(desk.publisher.publish_batch(desk.events(3, first=6))))
        await desk.until(lambda: desk.publisher.spool_depth == 6)
        desk.log.release()
        outcomes = await desk.passing(asyncio.gather(*tasks))
        assert all(isinstance(outcome, Delivered) for outcomes_of_one in outcomes for outcome in outcomes_of_one)
        await desk.until(lambda: desk.telemetry.value(LANES_SPOOLING) == 0)
        spooled = desk.telemetry.value(SPOOLED)
        await desk.publisher.publish_batch(desk.events(3, first=9))
        assert desk.telemetry.value(SPOOLED) == spooled, "the lane goes direct again"
        assert await desk.numbers() == list(range(12))


async def test_a_slow_partition_sends_nobody_else_to_the_spool():
    async with publishing() as desk:
        await desk.publisher.publish_batch(desk.events(2, key="other"))
        desk.log.hold()
        waiting = asyncio.create_task(desk.publisher.publish(desk.events(1)[0]))
        await desk.spooling()
        assert desk.telemetry.value(LANES_SPOOLING) == 1
        desk.log.release()
        await desk.passing(waiting)


async def test_after_a_lost_record_nothing_overtakes_it():
    async with publishing() as desk:
        desk.log.next_records(Fault.LOSE)
        tasks = [asyncio.create_task(desk.publisher.publish(event)) for event in desk.events(5)]
        await asyncio.sleep(0)  # noqa: TID251  # the first five are on their way before the next five are accepted
        tasks += [asyncio.create_task(desk.publisher.publish(event)) for event in desk.events(5, first=5)]
        await desk.passing(asyncio.gather(*tasks))
        assert await desk.numbers() == list(range(10))


async def test_backpressure_of_the_client_goes_through_the_spool_in_order():
    async with publishing() as desk:
        desk.log.push_back(3)
        outcomes = await desk.passing(desk.publisher.publish_batch(desk.events(2_500)))
        assert all(isinstance(outcome, Delivered) for outcome in outcomes)
        assert await desk.numbers() == list(range(2_500))


async def test_too_much_in_flight_goes_through_the_spool_after_a_stall():
    async with publishing(max_in_flight=1_000) as desk:
        desk.log.hold()
        task = asyncio.create_task(desk.publisher.publish_batch(desk.events(3_000)))
        await desk.until(lambda: desk.publisher.spool_depth == 3_000)
        desk.log.release()
        await desk.passing(task)
        assert await desk.numbers() == list(range(3_000))


async def test_events_of_the_same_turn_travel_together_in_order():
    async with publishing() as desk:
        await asyncio.gather(*(desk.publisher.publish(event) for event in desk.events(50)))
        assert await desk.numbers() == list(range(50))


# The chain


async def test_a_refusal_ends_the_chain_session_and_the_next_one_names_it():
    async with publishing() as desk:
        await desk.publisher.publish_batch(desk.events(2))
        desk.log.next_records(Fault.REFUSE)
        with pytest.raises(PublishRejected):
            await desk.publisher.publish(desk.events(1, first=2)[0])
        await desk.publisher.publish_batch(desk.events(2, first=3))
        assert await desk.numbers() == [0, 1, 3, 4]
        assert await chain_findings(desk.log, desk.catalogue) == ([], 4)


async def test_a_refusal_in_the_middle_of_a_batch_leaves_a_clean_chain():
    async with publishing() as desk:
        await desk.publisher.publish_batch(desk.events(1))
        desk.log.next_records(Fault.DROP_ACK)
        desk.log.next_records(Fault.REFUSE)
        await desk.passing(desk.publisher.publish_batch(desk.events(3, first=1)))
        await desk.publisher.publish_batch(desk.events(2, first=4))
        assert await desk.numbers() == [0, 1, 3, 4, 5]
        assert await chain_findings(desk.log, desk.catalogue) == ([], 5)


async def test_repeats_keep_their_bytes():
    async with publishing() as desk:
        desk.log.next_records(Fault.DROP_ACK, 3)
        await desk.passing(desk.publisher.publish_batch(desk.events(3)))
        assert await chain_findings(desk.log, desk.catalogue) == ([], 3)


# The spool


async def test_when_the_spool_is_full_nothing_is_accepted():
    async with publishing(spool_max_bytes=10_000) as desk:
        desk.log.hold()
        first = asyncio.create_task(desk.publisher.publish(desk.events(1)[0]))
        await desk.spooling()
        tasks = [asyncio.create_task(desk.publisher.publish(event)) for event in desk.events(50, first=1)]
        await desk.until(lambda: sum(task.done() for task in tasks) > 10)
        desk.log.release()
        await desk.passing(asyncio.gather(first, *tasks, return_exceptions=True))
        refused = [number for number, task in enumerate(tasks, 1) if task.exception() is not None]
        assert refused
        assert all(isinstance(tasks[number - 1].exception(), Backpressure) for number in refused)
        assert desk.telemetry.value(SHED) == len(refused)
        assert await desk.numbers() == [number for number in range(51) if number not in refused]
        assert (await chain_findings(desk.log, desk.catalogue))[0] == []


async def test_a_spool_that_fills_up_in_one_turn_keeps_all_or_refuses():
    async with publishing(spool_max_bytes=6_000) as desk:
        desk.log.hold()
        first = asyncio.create_task(desk.publisher.publish(desk.events(1)[0]))
        await desk.spooling()
        batch = asyncio.create_task(desk.publisher.publish_batch(desk.events(20, first=1)))
        await desk.until(lambda: desk.telemetry.value(SHED) > 0)
        desk.log.release()
        await desk.passing(first)
        outcomes = await desk.passing(batch)
        kept = [number for number, outcome in enumerate(outcomes, 1) if isinstance(outcome, Delivered)]
        assert await desk.numbers() == [0, *kept]
        assert all(isinstance(outcome.error, Backpressure) for outcome in outcomes if isinstance(outcome, Rejected))


async def test_without_a_spool_backpressure_refuses_and_keeps_nothing():
    async with publishing(spool=False) as desk:
        desk.log.push_back()
        with pytest.raises(Backpressure):
            await desk.publisher.publish(desk.events(1)[0])
        await desk.publisher.publish(desk.events(1, first=1)[0])
        assert await desk.numbers() == [1]
        assert (await chain_findings(desk.log, desk.catalogue))[0] == []


async def test_an_event_refused_at_its_first_try_from_the_spool_is_refused_and_stays_for_an_operator():
    async with publishing(topics={"task-events": {"durability": "write-ahead"}}) as desk:
        desk.log.next_records(Fault.REFUSE)
        with pytest.raises(PublishRejected):
            await desk.passing(desk.publisher.publish(desk.events(1)[0]))
        await desk.until(lambda: desk.publisher.refused_in_spool == 1)
        await desk.passing(desk.publisher.publish(desk.events(1, first=1)[0]))
        assert (await chain_findings(desk.log, desk.catalogue))[0] == []


async def test_a_refusal_says_nothing_of_an_earlier_try_that_nobody_heard_of():
    async with publishing() as desk:
        desk.log.next_records(Fault.DROP_ACK)
        desk.log.next_records(Fault.REFUSE)
        with pytest.raises(PublishUncertain) as caught:
            await desk.passing(desk.publisher.publish(desk.events(1)[0]))
        assert not caught.value.kept
        assert await desk.numbers() == [0]
        await desk.until(lambda: desk.publisher.refused_in_spool == 1)


async def test_callers_who_wait_for_room_are_accepted_in_the_order_of_their_calls():
    async with publishing(max_in_flight=10) as desk:
        desk.log.hold_acks()
        tasks = [asyncio.create_task(desk.publisher.publish_batch(desk.events(5, first=first))) for first in range(0, 40, 5)]
        await desk.until(lambda: desk.log.faults.total() == 0 and desk.publisher.unsettled >= 10)
        desk.log.release()
        tasks += [asyncio.create_task(desk.publisher.publish_batch(desk.events(5, first=first))) for first in range(40, 60, 5)]
        await desk.passing(asyncio.gather(*tasks))
        assert await desk.numbers() == list(range(60))


async def test_metrics_of_the_spool_tell_its_depth():
    async with publishing() as desk:
        desk.log.hold()
        task = asyncio.create_task(desk.publisher.publish_batch(desk.events(4)))
        await desk.until(lambda: desk.telemetry.value(SPOOL_DEPTH) == 4)
        desk.log.release()
        await desk.passing(task)
        await desk.until(lambda: desk.telemetry.value(SPOOL_DEPTH) == 0)


# Write-ahead, and not waiting for the acknowledgement


async def test_events_of_write_ahead_topics_are_in_the_spool_before_the_log():
    async with publishing(topics={"task-events": {"durability": "write-ahead"}}) as desk:
        desk.log.hold()
        task = asyncio.create_task(desk.publisher.publish(desk.events(1)[0]))
        await desk.until(lambda: desk.log.faults["held"] == 1)
        assert desk.publisher.spool_depth == 1
        desk.log.release()
        await desk.passing(task)
        await desk.until(lambda: desk.publisher.spool_depth == 0)


async def test_without_waiting_for_the_acknowledgement_publish_returns_when_the_event_is_on_disk(tmp_path):
    async with publishing(tmp_path, wait_for_ack=False) as desk:
        desk.log.hold()
        receipt = await desk.publisher.publish(desk.events(1)[0])
        assert receipt.position is None
        assert desk.publisher.spool_depth == 1
        desk.log.release()
        await desk.settled()
        assert await desk.numbers() == [0]


async def test_without_waiting_concurrent_publishes_keep_their_order():
    async with publishing(wait_for_ack=False) as desk:
        await asyncio.gather(*(desk.publisher.publish(event) for event in desk.events(100)))
        await desk.settled()
        assert await desk.numbers() == list(range(100))


async def test_without_waiting_a_full_spool_still_refuses():
    async with publishing(wait_for_ack=False, spool_max_bytes=3_000) as desk:
        desk.log.hold()
        results = await asyncio.gather(*(desk.publisher.publish(event) for event in desk.events(20)), return_exceptions=True)
        refused = [result for result in results if isinstance(result, Backpressure)]
        assert 0 < len(refused) < 20
        assert desk.telemetry.value(SHED) == len(refused)


# Close, and the next publisher


async def test_close_spools_the_rest_and_the_next_publisher_sends_it_before_new_events(tmp_path):
    async with publishing(tmp_path, exit_grace_ms=100) as first:
        first.log.hold()
        task = asyncio.create_task(first.publisher.publish_batch(first.events(3)))
        await first.until(lambda: first.log.faults["held"] == 3)
        await first.passing(first.publisher.close())
        outcomes = await task
        assert [(type(outcome), outcome.kept) for outcome in outcomes] == [(Unknown, True)] * 3
        await first.log.close()
    async with publishing(tmp_path, seed=1) as second:
        await second.passing(second.publisher.publish_batch(second.events(3, first=3)))
        assert await second.numbers() == list(range(6))
        await second.settled()
    assert not list((tmp_path / "spool").iterdir())


async def test_events_accepted_and_not_yet_handed_over_survive_close(tmp_path):
    async with publishing(tmp_path, exit_grace_ms=100) as first:
        first.log.hold()
        tasks = [asyncio.create_task(first.publisher.publish(event)) for event in first.events(3)]
        await asyncio.sleep(0)  # noqa: TID251  # accepted, staged, not sent
        await first.passing(first.publisher.close())
        caught = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(error, PublishUncertain) and error.kept for error in caught)
        await first.log.close()
    async with publishing(tmp_path, seed=1) as second:
        await second.publisher.connect()
        await second.settled()
        assert await second.numbers() == [0, 1, 2]


async def test_a_damaged_spool_is_moved_aside_and_kept(tmp_path):
    spool = tmp_path / "spool"
    spool.mkdir()
    (spool / "0192-dead.db").write_bytes(b"this is no database" * 500)
    async with publishing(tmp_path) as desk:
        await desk.publisher.publish(desk.events(1)[0])
    assert (spool / "0192-dead.damaged").read_bytes() == b"this is no database" * 500


async def test_a_closed_publisher_refuses():
    async with publishing() as desk:
        await desk.publisher.close()
        with pytest.raises(LogUnavailable):
            await desk.publisher.publish(desk.events(1)[0])
        await desk.publisher.close()


async def test_a_cancelled_publish_withdraws_nothing():
    async with publishing() as desk:
        desk.log.hold()
        task = asyncio.create_task(desk.publisher.publish(desk.events(1)[0]))
        await desk.until(lambda: desk.log.faults["held"] == 1)
        task.cancel()
        await asyncio.wait([task])
        desk.log.release()
        await desk.settled()
        assert await desk.numbers() == [0]


async def test_flush_says_how_many_are_not_in_the_log():
    async with publishing() as desk:
        desk.log.hold()
        task = asyncio.create_task(desk.publisher.publish_batch(desk.events(3)))
        await asyncio.sleep(0)  # noqa: TID251  # lets it be accepted
        assert await desk.passing(desk.publisher.flush(0.5)) == 3
        await desk.spooling()
        await desk.until(lambda: desk.publisher.unsettled == 3)  # in flight and in the spool counts once
        desk.log.release()
        await desk.passing(task)
        assert await desk.passing(desk.publisher.flush(30)) == 0


async def test_an_event_counts_once_at_every_moment_of_its_way_through_the_spool():
    async with publishing() as desk:
        loop, counts = asyncio.get_running_loop(), set()

        def look() -> None:
            threading.Event().wait(0.002)  # the spool's thread runs ahead of the event loop
            counts.add(desk.publisher.unsettled)
            if not task.done():
                loop.call_soon(look)

        desk.log.hold()
        task = asyncio.create_task(desk.publisher.publish_batch(desk.events(3)))
        await asyncio.sleep(0)  # noqa: TID251  # lets it be accepted
        loop.call_soon(look)
        await desk.spooling()
        desk.log.release()
        await desk.passing(task)
        await desk.settled()
        assert counts <= {3, 0}


# Sums


async def test_what_was_accepted_is_delivered_rejected_spooled_or_shed():
    async with publishing(spool_max_bytes=20_000) as desk:
        desk.log.next_records(Fault.REFUSE, 2)
        desk.log.next_records(Fault.DROP_ACK, 2)
        calls = 0
        for first in range(0, 60, 20):
            events = desk.events(20, first=first)
            calls += len(events)
            task = asyncio.create_task(desk.publisher.publish_batch(events))
            await desk.passing(task)
            desk.log.push_back()
        await desk.settled()
        value = desk.telemetry.value
        assert value(DELIVERED) + value(REJECTED) + value(SHED) + desk.publisher.spool_depth == calls


# Handlers


async def test_handlers_are_told_after_delivery():
    told = []
    async with publishing() as desk:
        desk.publisher.register_event_handler("task.completed", lambda event: told.append(event.event_id))
        events = desk.events(2)
        await desk.publisher.publish_batch(events)
        await desk.until(lambda: len(told) == 2)
        assert told == [event.event_id for event in events]


async def test_a_handler_that_raises_is_counted_and_harms_nobody():
    async def fail(event):
        raise RuntimeError(event.event_id)

    async with publishing() as desk:
        desk.publisher.register_event_handler("task.completed", fail)
        await desk.publisher.publish_batch(desk.events(2))
        await desk.until(lambda: desk.telemetry.value(CALLBACK_ERRORS) == 2)


async def test_handlers_are_told_of_events_that_went_through_the_spool():
    told = []
    async with publishing() as desk:
        desk.publisher.register_event_handler("task.completed", told.append)
        desk.log.hold()
        task = asyncio.create_task(desk.publisher.publish(desk.events(1)[0]))
        await desk.spooling()
        desk.log.release()
        await desk.passing(task)
        await desk.until(lambda: told)


# Names and keys that users give


async def test_another_topic_or_key_than_the_events_own_is_refused():
    async with publishing() as desk:
        event = desk.events(1)[0]
        with pytest.raises(InvalidEvent):
            await desk.publisher.publish_event(event, topic="agent-events")
        with pytest.raises(InvalidEvent):
            await desk.publisher.publish_event(event, partition_key="elsewhere")
        assert await desk.publisher.publish_event(event, topic="task-events", partition_key=event.key) == event.event_id


async def test_at_the_end_what_goes_to_disk_is_waited_for_also_without_any_grace(tmp_path):
    async with publishing(tmp_path) as desk:
        desk.log.hold()
        task = asyncio.create_task(desk.publisher.publish_batch(desk.events(500)))
        await asyncio.sleep(0)  # noqa: TID251  # accepted, and on their way
        await asyncio.to_thread(desk.publisher.drain_now, 0)
        assert desk.publisher.spool_depth == 500
        task.cancel()
        await asyncio.wait([task])
        await desk.publisher._delivery.stop()
        desk.publisher._keeper.cancel()
        await desk.publisher._spool.close()


# Event loops


def test_a_publisher_serves_a_second_event_loop_after_the_first_was_closed(tmp_path):
    settings = Settings(url="kafka://127.0.0.1:1", data_dir=tmp_path, topics={"agent-events": {"durability": "write-ahead"}})
    catalogue, clock, builder = catalogue_of(settings), SystemClock(), EventBuilder()
    log = asyncio.run(SqliteLog.open(tmp_path, catalogue, clock=clock))
    publisher = EventPublisher(
        log, catalogue, settings, clock=clock, telemetry=Counters(), open_spool=lambda: SqliteSpool(tmp_path / "spool", max_bytes=1 << 20)
    )

    async def once(number):
        await publisher.publish(builder.event(payload={"number": number}))
        await publisher.publish(builder.event("agent.created", "a", "agent", payload={"number": number}))

    async def cut_off(number):
        waiting = asyncio.create_task(publisher.publish(builder.event("agent.created", "a", "agent", payload={"number": number})))
        await asyncio.sleep(0)  # noqa: TID251  # accepted; the loop ends before anything more
        assert not waiting.done()

    async def end():
        await publisher.publish(builder.event(payload={"number": 4}))
        await publisher.close()
        seen, findings = await seen_in(log, catalogue), await chain_findings(log, catalogue)
        await log.close()
        return firsts(seen, "task-1"), firsts(seen, "a"), findings[0]

    for number in range(3):
        asyncio.run(once(number))
    asyncio.run(cut_off(3))
    assert asyncio.run(end()) == ([0, 1, 2, 4], [0, 1, 2, 3], [])
    gc.collect()  # a task that was destroyed while it waited would warn here

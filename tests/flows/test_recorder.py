"""What a recorder promises its caller: sealed as said, durable as the rules demand, numbered without a repeat."""

from __future__ import annotations

import asyncio
import gc
import logging
from datetime import timedelta
from pathlib import Path

import pytest
from tests.flows.recording import Booth, entries_in, entry, read_back, recording

from tallyroll import Roll
from tallyroll.audit.compliance.pii import MAX_PEOPLE
from tallyroll.audit.ledger.layout import Kind, PartType
from tallyroll.audit.ledger.partition import Verdict
from tallyroll.errors import (
    Backpressure,
    InvalidEvent,
    KeyRingUnavailable,
    LogUnavailable,
    PublishRejected,
    PublishUncertain,
    SealingRequired,
)
from tallyroll.events.context import event_context
from tallyroll.settings import Settings
from tallyroll.telemetry import AUDIT_CREATED, AUDIT_LOST
from tallyroll.testing.faulty_log import Fault
from tallyroll.testing.ledger import NonceReused

SOUND = {Verdict.APPEND}


# What is sealed, and under whose key


@pytest.mark.slow
@pytest.mark.parametrize("encrypt", [True, False])
async def test_data_access_under_gdpr_is_sealed_and_kept_for_six_years(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, *, encrypt: bool
) -> None:
    caplog.set_level(logging.DEBUG)

    async with Roll.open(Settings(url=f"sqlite:///{tmp_path}", audit_enable_encryption=encrypt)) as roll:
        made = await roll.audit.create_audit_entry(
            "customer.read", "data_access", "read", "looked at the record of cust-123",
            payload={"customer_id": "cust-123", "fields": ["name", "address"]}, compliance_frameworks={"gdpr"},
        )  # fmt: skip
        assert made.encrypted
        assert abs(made.retention_date - made.timestamp - timedelta(days=2190)) <= timedelta(days=1)
        assert made.payload == {"customer_id": "cust-123", "fields": ["name", "address"]}
    left = everything_in(tmp_path)
    assert b"audit.sealed" in left
    assert b"cust-123" not in left
    assert "cust-123" not in caplog.text


async def test_what_is_in_the_log_is_what_the_caller_got(tmp_path: Path) -> None:
    async with recording(tmp_path) as booth:
        made = await booth.record(
            user_id="anna", session_id="s-1", source_ip="203.0.113.9", resource="/pay", payload={"customer_id": "cust-1", "n": 1},
            on_behalf_of=["bert"], compliance_frameworks=["sox", "gdpr"], correlation_id="c-1", model={"name": "m"}, severity="high",
        )  # fmt: skip
        (one,) = entries_in(await booth.arrived())
        seen = read_back(one, booth.ring, booth.cipher)
        names = [name for name in made.__struct_fields__ if name not in ("position", "violations", "payload", "model")]
        assert {name: getattr(seen, name) for name in names} == {name: getattr(made, name) for name in names}
        assert (seen.payload, seen.model, [*seen.violations]) == (made.payload, made.model, [*made.violations])
        assert (one.event_id, one.key) == (made.audit_id, "agent:agent-1")
        assert made.position == f"audit-events/{made.partition}/1"


@pytest.mark.slow
async def test_each_person_has_a_part_of_their_own(tmp_path: Path) -> None:
    async with recording(tmp_path) as booth:
        for fields in (
            {"user_id": "anna", "subjects": ["bert"]},
            {"user_id": "anna", "payload": {"deep": [{"customerId": "bert"}], "patient_id": ["carl", 7]}},
            {"user_id": "anna"},
            {"payload": {"customer_id": [f"c-{n}" for n in range(MAX_PEOPLE + 1)]}},
            {"source_ip": "203.0.113.9"},
        ):
            await booth.record(**fields)
        handle = booth.ring.handle_of
        parts = [[(mark.part_type, mark.handle) for mark in one.core.parts] for one in entries_in(await booth.arrived())]
        group = booth.ring.group([handle(name) for name in ("bert", "carl", "7")])
        assert parts[0] == [(PartType.SUBJECT, handle("anna")), (PartType.SUBJECT, handle("bert"))]
        assert parts[1] == [(PartType.SUBJECT, handle("anna")), (PartType.GROUP, group)]
        unknown = [parts[2][1], *parts[3], *parts[4]]
        assert [kind for kind, _ in unknown] == [PartType.UNKNOWN] * 3
        assert len({handle for _, handle in unknown}) == 3


async def test_without_encryption_only_what_is_personal_is_sealed(tmp_path: Path) -> None:
    async with recording(tmp_path, audit_enable_encryption=False) as booth:
        plain = await booth.record(description="build 17 is green", resource="ci")
        await booth.record(description="build 17 is green", resource="ci")
        found = await booth.record(description="wrote to anna@mail.example")
        named = await booth.record(subjects=["bert"])
        assert [one.encrypted for one in (plain, found, named)] == [False, True, True]
        first, second, *_ = entries_in(await booth.arrived())
        assert first.core.parts[0].part_type == PartType.PLAIN
        assert first.core.parts[0].ct_hash != second.core.parts[0].ct_hash, "the salt hides that they are the same"
        assert b"build 17" in first.record.parts[0]


async def test_free_text_in_clear_is_sealed_where_something_personal_is_in_it(tmp_path: Path) -> None:
    async with recording(tmp_path) as booth:
        made = await booth.record(reason="asked by anna@mail.example", purpose="support")
        (one,) = entries_in(await booth.arrived())
        assert b"anna" not in (one.record.env or b"")
        assert one.env["purpose"] == "support"
        assert read_back(one, booth.ring, booth.cipher).reason == made.reason == "asked by anna@mail.example"


async def test_what_is_not_given_comes_from_the_context(tmp_path: Path) -> None:
    async with recording(tmp_path) as booth:
        with event_context(user_id="anna", correlation_id="c-9", tenant_id="acme"):
            made = await booth.record()
        assert (made.user_id, made.correlation_id, made.tenant) == ("anna", "c-9", "acme")


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"category": "fun"}, "category"), ({"severity": "loud"}, "severity"), ({"compliance_frameworks": "gdpr"}, "compliance_frameworks"),
        ({"compliance_frameworks": ["rgpd"]}, "compliance_frameworks"), ({"subjects": ["anna", ""]}, "subjects"),
        ({"subjects": [str(n) for n in range(MAX_PEOPLE + 1)]}, "subjects"), ({"payload": {"x": float("nan")}}, "payload.x"),
        ({"agent_id": 7}, "agent_id"), ({"outcome": " "}, "outcome"), ({"resource": "\ud800"}, "resource"),
        ({"description": None}, "description"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_entry_is_named(fields: dict, names: str) -> None:
    with pytest.raises(InvalidEvent) as caught:
        entry(**fields)
    assert caught.value.field == names


def test_a_field_that_no_entry_has_is_refused() -> None:
    with pytest.raises(TypeError):
        entry(colour="red")


async def test_what_is_too_large_is_refused_before_it_gets_a_number(tmp_path: Path) -> None:
    async with recording(tmp_path, max_record_bytes=4_000) as booth:
        with pytest.raises(InvalidEvent):
            await booth.record(description="x" * 4_000)
        await booth.record()
        assert [one.core.seq for one in await booth.arrived()] == [0, 1]


# As durable as the rules demand


async def test_while_the_log_is_away_an_entry_waits_on_disk_and_its_caller_does_not(tmp_path: Path) -> None:
    async with recording(tmp_path) as booth:
        booth.log.hold()
        made = await booth.record()
        assert made.position is None
        assert booth.desk.publisher.spool_depth == 2  # the genesis of the chain comes first
        before = booth.desk.clock.monotonic()
        await booth.record()
        assert booth.desk.clock.monotonic() - before < booth.desk.settings.stall_ms / 1_000, "only the first one waits for an answer"
        booth.log.release()
        await booth.desk.settled()
        assert {one.verdict for one in await booth.arrived()} == SOUND
        assert made.audit_id in {one.event_id for one in await booth.arrived()}


async def test_where_a_rule_says_block_the_caller_hears_that_the_log_did_not_answer(tmp_path: Path) -> None:
    async with recording(tmp_path, publish_deadline_ms=3_000) as booth:
        booth.log.hold()
        with pytest.raises(PublishUncertain) as caught:
            await booth.record(category="data_deletion", compliance_frameworks=["custom"])
        assert caught.value.kept
        booth.log.release()
        await booth.desk.settled()
        assert [one.event_id for one in entries_in(await booth.arrived())] == [caught.value.event_id]


async def test_where_a_rule_says_count_nobody_waits(tmp_path: Path) -> None:
    async with recording(tmp_path) as booth:
        booth.log.hold()
        made = await booth.recorder.record(entry(category="resource_usage", compliance_frameworks=["custom"]))
        assert made.position is None
        booth.log.release()
        await booth.desk.settled()
        assert len(entries_in(await booth.arrived())) == 1


async def test_when_the_spool_is_full_nothing_is_sealed(tmp_path: Path) -> None:
    async with recording(tmp_path, spool_max_bytes=3_000) as booth:
        booth.log.hold()
        made = await booth.record(category="resource_usage", compliance_frameworks=["custom"])
        with pytest.raises(Backpressure):
            await booth.record(description="x" * 2_000)
        booth.log.release()
        await booth.desk.settled()
        await booth.record()
        arrived = await booth.arrived()
        assert {one.verdict for one in arrived} == SOUND
        assert [one.core.seq for one in arrived] == [0, 1, 2]
        assert arrived[1].event_id == made.audit_id


async def test_what_the_log_refuses_is_a_numbered_gap(tmp_path: Path) -> None:
    async with recording(tmp_path, spool=False) as booth:
        await booth.record()
        booth.log.next_records(Fault.REFUSE)
        with pytest.raises(PublishRejected):
            await booth.record()
        await booth.record()
        assert [(one.core.seq, one.verdict) for one in await booth.arrived()] == [
            (0, Verdict.APPEND), (1, Verdict.APPEND), (3, Verdict.GAP),
        ]  # fmt: skip
        assert booth.desk.telemetry.value(AUDIT_LOST) == 1


@pytest.mark.parametrize("fault", [Fault.DROP_ACK, Fault.LOSE])
async def test_what_may_not_have_arrived_is_sent_again_as_it_is(tmp_path: Path, fault: Fault) -> None:
    async with recording(tmp_path, spool=False) as booth:
        await booth.record()
        booth.log.next_records(fault)
        made = await booth.record()
        arrived = await booth.arrived()
        assert {one.verdict for one in arrived} <= {Verdict.APPEND, Verdict.REPEAT}
        assert [one.event_id for one in entries_in(arrived)][1] == made.audit_id
        assert made.position is not None


@pytest.mark.slow
async def test_what_stays_unknown_is_sent_again_with_the_heartbeat(tmp_path: Path) -> None:
    async with recording(tmp_path, spool=False) as booth:
        await booth.record()
        booth.log.next_records(Fault.LOSE, 4)
        with pytest.raises(PublishUncertain) as caught:
            await booth.record()
        assert caught.value.kept
        heartbeats = booth.desk.clock.monotonic() + 2 * booth.desk.settings.audit_heartbeat_seconds
        await booth.desk.until(lambda: booth.desk.clock.monotonic() > heartbeats)
        assert caught.value.event_id in {one.event_id for one in entries_in(await booth.arrived())}


async def test_without_a_key_what_has_to_be_sealed_is_not_recorded(tmp_path: Path) -> None:
    async with recording(tmp_path, audit_enable_encryption=False) as booth:
        await booth.record()
        put_away(tmp_path, "keys", "away")
        with pytest.raises(SealingRequired):
            await booth.record(compliance_frameworks=["gdpr"])
        await booth.record()
        assert [one.core.seq for one in await booth.arrived()] == [0, 1, 2]
        put_away(tmp_path, "away", "keys")


async def test_of_entries_that_come_together_only_those_that_need_a_key_are_refused(tmp_path: Path) -> None:
    async with recording(tmp_path, audit_enable_encryption=False) as booth:
        await booth.record()
        put_away(tmp_path, "keys", "away")
        together = [booth.recorder.record(entry(compliance_frameworks=frameworks)) for frameworks in ([], ["gdpr"], [])]
        plain, sealed, other = await booth.desk.passing(asyncio.gather(*together, return_exceptions=True))
        assert isinstance(sealed, SealingRequired)
        assert {plain.audit_id, other.audit_id} < {one.event_id for one in entries_in(await booth.arrived())}
        put_away(tmp_path, "away", "keys")


async def test_after_the_end_nothing_is_recorded(tmp_path: Path) -> None:
    async with recording(tmp_path) as booth:
        await booth.record()
        await booth.desk.passing(booth.recorder.close())
        with pytest.raises(LogUnavailable):
            await booth.recorder.record(entry())


async def test_without_a_ring_nothing_begins(tmp_path: Path) -> None:
    async with recording(tmp_path, audit_enable_encryption=False) as booth:
        put_away(tmp_path, "keys", "away")
        with pytest.raises(KeyRingUnavailable):
            await booth.record()


# Numbers, epochs, heartbeats


@pytest.mark.slow
async def test_many_at_once_keep_their_order(tmp_path: Path) -> None:
    async with recording(tmp_path) as booth:
        many = [entry(payload={"n": n}, agent_id=f"agent-{n % 3}") for n in range(1_200)]
        made = await booth.desk.passing(booth.recorder.record_batch(many))
        others = await booth.desk.passing(asyncio.gather(*(booth.recorder.record(one) for one in many[:50])))
        arrived = await booth.arrived()
        assert {one.verdict for one in arrived} == SOUND
        assert [one.payload["n"] for one in made] == list(range(1_200))
        for agent in range(3):
            ids = [one.event_id for one in entries_in(arrived) if one.key == f"agent:agent-{agent}"]
            expected = [one.audit_id for one in made if one.agent_id == f"agent-{agent}"]
            assert ids[: len(expected)] == expected
            assert sorted(ids[len(expected) :]) == sorted(one.audit_id for one in others if one.agent_id == f"agent-{agent}")
        assert booth.desk.telemetry.value(AUDIT_CREATED) == 1_250
        assert await booth.recorder.record_batch([]) == []


@pytest.mark.slow
async def test_an_idle_writer_says_how_far_it_has_come_and_then_that_it_ends(tmp_path: Path) -> None:
    async with recording(tmp_path) as booth:
        await booth.record()
        await booth.record(agent_id="agent-7")
        await _pass(booth, 2.5 * booth.desk.settings.audit_heartbeat_seconds)
        await booth.desk.passing(booth.recorder.close())
        await booth.desk.settled()
        arrived = await booth.arrived()
        assert {one.verdict for one in arrived} == SOUND
        beats = entries_in(arrived, [Kind.HEADS])
        assert len(beats) == 2
        assert {where for where, *_ in beats[0].env["heads"]} == {one.core.chain.partition for one in arrived}
        chains = {one.core.chain for one in arrived}
        assert {one.core.chain for one in entries_in(arrived, [Kind.CLOSE])} == chains
        assert len(chains) == 2


@pytest.mark.slow
async def test_after_a_day_the_epoch_is_another_one_that_names_the_last(tmp_path: Path) -> None:
    async with recording(tmp_path, audit_heartbeat_seconds=3_600) as booth:
        await booth.record()
        for _ in range(25):
            booth.desk.clock.advance(3_600)
            await booth.desk.until(lambda: True)
        await booth.record()
        await booth.desk.settled()
        arrived = await booth.arrived()
        assert {one.verdict for one in arrived} == SOUND
        first, second = entries_in(arrived, [Kind.GENESIS])
        assert first.core.chain.writer == second.core.chain.writer
        assert (first.core.chain.epoch, second.core.chain.epoch, second.env["previous"]["epoch"]) == (1, 2, 1)
        (close,) = entries_in(arrived, [Kind.CLOSE])
        assert second.env["previous"]["heads"] == [[close.core.chain.partition, close.core.seq, second.env["previous"]["heads"][0][2]]]


@pytest.mark.slow
async def test_no_nonce_comes_twice_over_restarts_and_lost_answers(tmp_path: Path) -> None:
    """NonceWatch raises for the second use of a nonce under one key; the negative control shows that it would."""
    async with recording(tmp_path) as booth:
        recorder = booth.recorder
        for restart in range(3):
            booth.log.next_records(Fault.DROP_ACK, 2)
            booth.log.next_records(Fault.LOSE, 1)
            for number in range(4):
                one = entry(user_id="anna", subjects=["bert", "carl"][: number % 3], payload={"n": number})
                await booth.desk.passing(recorder.record(one))
            recorder = booth.another() if restart < 2 else recorder  # as after a crash: nothing is closed, nothing remembered
        await booth.desk.settled()
        arrived = await booth.arrived()
        assert {one.verdict for one in arrived} <= {Verdict.APPEND, Verdict.REPEAT}
        assert len(entries_in(arrived)) == 12
        assert len({one.core.chain.writer for one in arrived}) == 3
        places = [(one.core.chain, one.core.seq) for one in arrived if one.verdict == Verdict.APPEND]
        assert len(set(places)) == len(places)
        await booth.desk.passing(recorder.close())


async def test_a_number_that_is_taken_back_is_noticed(tmp_path: Path) -> None:
    async with recording(tmp_path) as booth:
        await booth.record(user_id="anna", subjects=["anna"])
        writer = booth.recorder._epochs._writer
        for tip in writer._tips.values():
            tip.seq -= 1
        with pytest.raises(NonceReused):
            await booth.record(user_id="anna", subjects=["anna"])
        for tip in writer._tips.values():
            tip.seq += 1
        gc.collect()  # the failed task's traceback holds the caller


async def test_a_destroyed_key_is_not_used_again(tmp_path: Path) -> None:
    async with recording(tmp_path) as booth:
        before = await booth.record(subjects=["anna"])
        handles = [booth.ring.handle_of("anna")]
        booth.ring.destroy(handles)
        await booth.recorder.forget("anna", handles)
        after = await booth.record(subjects=["anna"])
        assert before.subjects != after.subjects
        assert after.subjects == (booth.ring.handle_of("anna").hex(),)


@pytest.mark.parametrize("people", [["anna"], ["anna", "bert"]])
async def test_a_second_after_another_process_has_destroyed_a_key_it_is_not_used_again(tmp_path: Path, people: list[str]) -> None:
    async with recording(tmp_path, audit_heartbeat_seconds=1_000) as booth:
        before, theirs = await booth.record(subjects=people), await booth.record(subjects=["carl"])
        key = booth.ring.key(booth.ring.handle_of("anna"))
        booth.ring.destroy([booth.ring.handle_of("anna")])  # by another process
        booth.desk.clock.advance(1)
        after = await booth.record(subjects=people)
        assert not set(before.subjects) & set(after.subjects)
        assert (await booth.record(subjects=["carl"])).subjects == theirs.subjects
        gc.collect()
        assert key not in [held.key.key for held in booth.recorder._keys._held.values()]


async def test_while_the_ring_is_away_a_key_is_used_for_its_lease_and_then_asked_for(tmp_path: Path) -> None:
    async with recording(tmp_path, audit_heartbeat_seconds=1_000) as booth:
        before = await booth.record(subjects=["anna"])
        put_away(tmp_path, "keys", "away")
        booth.desk.clock.advance(290)
        assert (await booth.record(subjects=["anna"])).subjects == before.subjects
        booth.desk.clock.advance(11)
        with pytest.raises(SealingRequired):
            await booth.record(subjects=["anna"])
        put_away(tmp_path, "away", "keys")
        assert (await booth.record(subjects=["anna"])).subjects == before.subjects


def everything_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def put_away(folder: Path, what: str, to: str) -> None:
    for path in folder.glob(f"{what}*"):
        path.rename(folder / path.name.replace(what, to))


async def _pass(booth: Booth, seconds: float) -> None:
    end = booth.desk.clock.monotonic() + seconds
    await booth.desk.until(lambda: booth.desk.clock.monotonic() >= end)


async def test_single_calls_and_batches_of_one_agent_are_recorded_in_the_order_of_the_calls(tmp_path: Path) -> None:
    async with recording(tmp_path) as booth:
        calls = [
            booth.recorder.record(entry(task_id="0")),
            booth.recorder.record_batch([entry(task_id="1"), entry(task_id="2")]),
            booth.recorder.record(entry(task_id="3")),
        ]
        await booth.desk.passing(asyncio.gather(*calls))
        assert [one.env["task_id"] for one in entries_in(await booth.arrived())] == ["0", "1", "2", "3"]


async def test_of_a_batch_with_an_entry_that_is_too_large_nothing_is_sealed(tmp_path: Path) -> None:
    async with recording(tmp_path, max_record_bytes=4_000) as booth:
        with pytest.raises(InvalidEvent):
            await booth.recorder.record_batch([*[entry()] * 300, entry(description="x" * 4_000)])
        assert not await booth.arrived()


async def test_a_caller_who_is_gone_takes_nothing_from_the_others(tmp_path: Path) -> None:
    async with recording(tmp_path) as booth:
        booth.log.hold()
        gone, stays = (asyncio.ensure_future(booth.recorder.record(entry(task_id=name))) for name in ("gone", "stays"))
        await booth.desk.until(lambda: booth.desk.publisher.unsettled)
        gone.cancel()
        booth.log.heal()
        assert (await booth.desk.passing(stays)).task_id == "stays"
        assert [one.env["task_id"] for one in entries_in(await booth.arrived())] == ["gone", "stays"]

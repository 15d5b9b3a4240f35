"""What arrives is sealed once, whatever happens in between; and the offline verifier agrees."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.flows.sealing import ALL, AUDIT, AUDIT_1, LOG_ID, SYSTEM, TASKS, Away, House, Running

from tallyroll.adapters.crypto import AesGcm
from tallyroll.audit.compliance.rules import REVIEWED, ComplianceRule
from tallyroll.audit.ledger import proving
from tallyroll.audit.ledger.chain import Draft, Writer
from tallyroll.audit.ledger.contents import env_of, part_text
from tallyroll.audit.ledger.facts import facts_of
from tallyroll.audit.ledger.layout import REGISTRY, Kind, pack_record, unpack_core, unpack_record
from tallyroll.audit.ledger.partition import Tip, pack_tip, unpack_tip
from tallyroll.audit.ledger.subjects import part_about, text_of
from tallyroll.audit.ledger.tree import CompactRange
from tallyroll.audit.sealing.checkpointing import Checkpoints
from tallyroll.audit.sealing.deriving import Derived, Deriver
from tallyroll.audit.sealing.finding import FINDING_EVENT
from tallyroll.audit.sealing.publishers import Publishers
from tallyroll.errors import LedgerTampered, PositionConflict, StoreUnavailable, Undecodable
from tallyroll.events.batch import Batch
from tallyroll.events.chain import Chain
from tallyroll.events.codec import encode
from tallyroll.events.event import AgentEvent
from tallyroll.events.position import TopicPartition
from tallyroll.ports import Enrolment, LedgerAppend, LedgerCommit, LedgerRow, LedgerWanted
from tallyroll.simulate import Fleet
from tallyroll.telemetry import FOLLOW_REPEATS
from tallyroll.testing.builders import EventBuilder
from tallyroll.testing.ledger import DAY_US


@pytest.fixture(params=[True, False], ids=["core", "python"])
async def house(tmp_path: Path, request: pytest.FixtureRequest) -> House:
    house = await House.open(tmp_path, compiled=request.param)
    yield house
    await house.store.close()


async def started(house: House, *partitions) -> Running:
    return await Running(house).hold(*partitions)


async def test_sealed_records_and_events_become_one_ledger_that_verifies(house: House) -> None:
    running, writer = await started(house), house.writer()
    house.send(*house.write(writer, part_about(house.ring, b'{"user_id":"anna"}', ["anna"]), action="open"))
    house.send(*house.write(writer, where=AUDIT_1, action="shut"), where=AUDIT_1)
    house.say()
    await running.seal()
    await running.note()
    house.send(*house.write(writer, action="again"))
    await running.seal()
    await running.note()
    assert await house.findings() == {}
    assert sorted(await house.found()) == ["again", "completed", "open", "shut"]
    assert await house.found(agent_id="agent-1") == ["completed"]
    assert await house.found(handles=[house.ring.handle_of("anna")]) == ["open"]
    await running.stop()
    assert await house.findings() == {}


async def test_an_export_of_a_ledger_that_is_signed_again_meanwhile_verifies(house: House) -> None:
    running, writer = await started(house), house.writer()
    house.send(*house.write(writer, action="before"))
    await running.seal()
    await running.note()
    begun = await proving.noted(house.store)
    house.send(*house.write(writer, action="meanwhile"))
    await running.seal()
    await running.note()
    report = await house.report(begun)
    assert dict(report.counts) == {}
    assert report.coverage["entries"] < (await house.report()).coverage["entries"]


async def test_what_was_taken_in_before_is_not_taken_in_again(house: House) -> None:
    running, writer = await started(house), house.writer()
    sealed = house.write(writer)
    house.send(*sealed)
    event = house.say()
    await running.seal()
    house.send(*sealed)  # the same bytes at another offset
    house.log[TASKS].append(house.log[TASKS][0])
    house.log[SYSTEM].append(house.log[TASKS][0])
    await running.seal()
    house.say(event=event)
    await running.seal()
    assert len(await house.found()) == 2
    await running.note()
    assert await house.findings() == {}


async def test_the_same_event_id_with_other_bytes_is_a_finding(house: House) -> None:
    running = await started(house)
    event = house.say(customer_id="cust-1")
    await running.seal()
    house.log[TASKS].append(house.log[TASKS][0].replace(b"agent-1", b"agent-2"))
    house.say(event=event)
    await running.seal()
    assert await house.found(category="audit_system") == ["same_id"]
    assert await house.found(agent_id="agent-2") == []


def say_anew(house: House, event: AgentEvent, session: str, *, lost: int = 0, altered: bool = False) -> None:
    """The event as a publisher's session sends it, behind as many records that are lost and one that was altered on its way."""
    chain = Chain(session * 32)
    before = [chain.link(encode(house.events.event()), 1) for _ in range(1 + altered + lost)]
    house.log[TASKS] += [before[0], *([before[1].replace(b"agent-", b"other-")] if altered else [])]
    house.log[TASKS].append(chain.link(encode(event), 1))


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("payload", [{}, {"customer_id": "cust-1"}])
async def test_an_event_that_is_sent_anew_is_a_repeat_whatever_its_link_and_its_trace(
    house: House, payload: dict[str, str], *, stored: bool
) -> None:
    running, event = await started(house), house.events.event(payload={"agent_id": "agent-1", **payload})
    say_anew(house, event, "a")
    if stored:
        await running.seal()
    say_anew(house, event, "b")
    traced = replace(event.metadata, traceparent=f"00-{'4b' * 16}-{'7a' * 8}-01", trace_id="4b" * 16)
    say_anew(house, replace(event, metadata=traced), "c")
    house.say(event=event)
    await running.seal()
    assert await house.found(category="audit_system") == []
    _, entries = await house.store.find(LedgerWanted(agent_id="agent-1"), limit=9)
    assert sum(f'"event_id":"{event.event_id}"'.encode() in row.raw for row in entries) == 1


@pytest.mark.parametrize("wrong", ["content", "lost", "altered"])
async def test_an_event_that_is_sent_anew_with_another_content_or_a_link_that_does_not_fit_is_a_finding(house: House, wrong: str) -> None:
    running, event = await started(house), house.events.event(payload={"agent_id": "agent-1"})
    say_anew(house, event, "a")
    await running.seal()
    if wrong == "content":
        say_anew(house, replace(event, payload={"agent_id": "agent-2"}), "b")
    else:
        say_anew(house, event, "b", lost=wrong == "lost", altered=wrong == "altered")
    await running.seal()
    assert await house.found(category="audit_system") == ["same_id"]
    assert await house.found(agent_id="agent-2") == []


class EarlierDeriver(Deriver):
    """As entries were made that have no hash of the content alone."""

    def derive(self, batch: Batch, publishers: Publishers) -> list[Derived | Undecodable]:
        found = [item for item in super().derive(batch, publishers) if isinstance(item, Derived)]
        without = re.compile(rb'"content_digest":"[0-9a-f]{64}",')
        return [replace(item, env=without.sub(b"", item.env), marks=(item.marks[0], None)) for item in found]


async def test_an_entry_that_knows_the_whole_hash_alone_is_compared_by_it(house: House) -> None:
    running = await Running(house, deriver=EarlierDeriver(LOG_ID)).hold()
    event = house.events.event(payload={"agent_id": "agent-1"})
    say_anew(house, event, "a")
    await running.seal()
    await running.stop()
    after = await started(house)
    house.log[TASKS].append(house.log[TASKS][-1])
    await after.seal()
    assert await house.found(category="audit_system") == []
    say_anew(house, event, "b")
    await after.seal()
    assert await house.found(category="audit_system") == ["same_id"]


async def test_where_the_log_knows_of_a_ledger_and_none_is_there_nothing_is_sealed(house: House) -> None:
    house.say()
    house.committed = {TASKS: 1, SYSTEM: 0}
    running = Running(house)
    with pytest.raises(LedgerTampered, match=r"task-events/0 was sealed up to 1, and here up to nothing: put the ledger back.*begin-anew"):
        await running.hold()
    assert await house.store.sizes() == {}
    await running.hold(AUDIT, SYSTEM)


@pytest.mark.parametrize("stored", [0, 1])
async def test_a_ledger_that_is_behind_what_was_sealed_once_says_so(house: House, stored: int) -> None:
    for _ in range(stored):
        house.say()
    await house.store.commit(LedgerCommit(positions={TASKS: (None, 0)}))  # it was given up, or is a copy from then
    running = await started(house)
    await running.seal()
    for _ in range(2 - stored):
        house.say()
    house.committed = {TASKS: 2}
    await running.stop()
    after = await started(house)
    await after.seal()
    await after.note()
    assert await house.found(category="audit_system") == ["rewound"]
    assert await house.found(event_type="task.completed") == ["completed"] * 2
    assert [event.payload["code"] for event in house.published] == ["rewound"]
    assert await house.findings() == {}
    await after.stop()
    again = await started(house)  # it has caught up
    await again.seal()
    assert await house.found(category="audit_system") == ["rewound"]


async def test_a_log_that_ends_before_what_was_sealed_of_it_is_not_sealed_on(house: House) -> None:
    for _ in range(3):
        house.say()
    running = await started(house)
    await running.seal()
    await running.stop()
    newest, house.log[TASKS] = house.log[TASKS], house.log[TASKS][:2]
    after = Running(house)
    with pytest.raises(LedgerTampered, match=r"task-events/0 was sealed up to 3, and the log ends at 2.*put the newest back"):
        await after.hold()
    await after.hold(AUDIT, SYSTEM)
    house.log_away = True  # then nobody knows, and nothing can be sealed
    await after.hold()
    house.log_away = False
    house.log[TASKS] = newest
    house.say()
    await after.stop()
    again = await started(house)
    await again.seal()
    assert await house.found(event_type="task.completed") == ["completed"] * 4
    assert await house.found(category="audit_system") == []


UNDATED = "broken, by a time that is in no calendar"


@pytest.mark.parametrize(
    "code", ["fork", "foreign", "unregistered", "closed", "broken", "forged", "backdated", "postdated", "unreadable", UNDATED]
)
async def test_what_is_not_as_it_should_be_is_sealed_as_a_finding_and_nothing_else_of_it(house: House, code: str) -> None:
    running, writer = await started(house), house.writer()
    first = house.write(writer, action="good")
    house.send(*first)
    bad = await wrong(house, writer, code)
    if bad is None:
        house.log[AUDIT].append(b"\xff not a document")
    else:
        house.send(*bad)
    await running.seal()
    await running.note()
    assert await house.findings() == {}
    said = code.partition(",")[0]
    assert await house.found(category="audit_system") == [said] * len(bad or [1])
    assert [event.payload["code"] for event in house.published][:1] == [said]
    assert await house.found(event_type="file.read") == ["good"]
    kept = next(iter((await house.store.find(finding(), limit=1))[1]))
    assert b'"raw":' in text_of(house.ring, AesGcm(), unpack_record(kept.raw), 0), "the bytes in question are kept, sealed"


def finding():
    return LedgerWanted(category="audit_system")


async def wrong(house: House, writer: Writer, code: str):  # noqa: PLR0911  # one for each
    if code == "fork":
        enrolment = Enrolment(writer.writer, writer.epoch, house.ring.k0(writer.writer, writer.epoch), "", writer.opened_us)
        return house.write(Writer(LOG_ID, enrolment, AesGcm(), rule_set="1"), action="other")[1:]
    if code == "foreign":
        return house.write(writer, where=AUDIT_1)[:1]
    if code == "unregistered":
        return house.write(Writer(LOG_ID, Enrolment(b"w" * 16, 1, b"k" * 32, "no", house.clock.now_us()), AesGcm(), rule_set="1"))
    if code == "closed":
        house.send(*house.write(writer, kind=Kind.CLOSE))
        return house.write(writer)
    if code == "backdated":
        writer.advance(3_600)
        return writer.seal(0, house_draft(), house.clock.now_us())
    if code == "postdated":
        return writer.seal(0, house_draft(), house.clock.now_us() + 2 * DAY_US)
    if code == UNDATED:
        return writer.seal(0, house_draft(), 1 << 63)
    if code in ("broken", "forged"):
        [sealed] = house.write(writer)
        changed = {"env": b"{}"} if code == "broken" else {"mac": bytes(range(32))}
        return [replace(sealed, **changed)]
    return None


def house_draft():
    return Draft(Kind.ENTRY, b"{}", (), 0, 30_000)


async def test_a_record_that_is_missing_is_named_and_may_still_come(house: House) -> None:
    running, writer = await started(house), house.writer()
    house.send(*house.write(writer))
    lost, later = house.write(writer, action="lost"), None
    house.clock.advance(7)
    later = house.write(writer, action="later")
    house.send(*later)
    await running.seal()
    await running.note()
    assert await house.findings() == {"gap": 1}
    assert await house.found(category="audit_system") == ["gap"]
    house.send(*lost)
    await running.seal()
    await running.note()
    assert await house.findings() == {"late": 1}, "a warning; its MAC is that of an earlier second"
    assert await house.found(event_type="file.read", start_us=0) != []


async def test_a_sealer_that_was_killed_is_followed_by_one_that_goes_on(house: House) -> None:
    running, writer = await started(house), house.writer()
    house.send(*house.write(writer, action="one"))
    house.say()
    await running.seal()
    await running.note()
    house.send(*house.write(writer, action="two"))
    house.say()
    running.take()  # sealed in memory, and then it is gone
    after = await started(house)
    await after.seal()
    await after.note()
    assert sorted(await house.found()) == ["completed", "completed", "one", "two"]
    assert await house.findings() == {}
    for _ in range(4):  # its silence is noticed, and the registry says so
        house.clock.advance(5)
        house.send(*house.write(writer))
        await after.seal()
        await after.upkeep.turn()
        await after.checkpoints.note()
        assert await house.findings() == {}
    assert await house.found(category="audit_system") == ["silent"]


@pytest.mark.parametrize("unread", [False, True], ids=["the log is away", "it is there and cannot be read"])
async def test_nobody_is_called_silent_while_the_log_is_not_heard(house: House, *, unread: bool) -> None:
    running, writer, other = await started(house), house.writer(), house.writer()
    house.send(*house.write(writer), *house.write(other))
    await running.seal()
    house.log_away = not unread
    for _ in range(12):
        house.clock.advance(5)
        house.send(*house.write(writer))  # it says something, and nobody can hear that
        await running.upkeep.turn()
        await running.checkpoints.note()
    assert await house.found(category="audit_system") == []
    house.log_away = False
    for beat in range(6):  # it is heard again, and the other one has really stopped
        house.clock.advance(5)
        house.send(*house.write(writer))
        await running.seal()
        await running.upkeep.turn()
        await running.checkpoints.note()
        if beat < 3 and not unread:
            assert await house.found(category="audit_system") == [], "who could not be heard may come yet"
    assert await house.found(category="audit_system") == ["silent"]
    assert await house.findings() == {}


async def test_upkeep_leaves_what_records_brought_to_the_loop_and_stores_findings_itself(house: House) -> None:
    running = await Running(house).hold()
    await running.upkeep.turn()  # beats
    before = await house.store.sizes()
    house.say()
    running.take()
    house.clock.advance(1)
    await running.upkeep.turn()
    assert await house.store.sizes() == before
    house.log[AUDIT].append(b"garbage")
    running.take()
    house.clock.advance(1)
    await running.upkeep.turn()
    assert "unreadable" in await house.found(category="audit_system")
    await running.sealer.flush()
    assert sum((await house.store.sizes()).values()) > sum(before.values())


async def heard_of(house: House) -> list[str]:
    """What is said of writers a minute later, by a sealer that goes on."""
    after, writer = await started(house), house.writer()
    for _ in range(12):
        house.clock.advance(5)
        house.send(*house.write(writer))
        await after.seal()
        await after.note()
    assert await house.findings() == {}
    return await house.found(category="audit_system")


class Slow:
    """A store whose commits wait while ``gate`` is closed, and fail, with what they had to keep in ``refused``, while it is ``full``."""

    def __init__(self, inner) -> None:
        self._inner = inner
        self.gate, self.waiting = asyncio.Event(), asyncio.Event()
        self.gate.set()
        self.full, self.refused = False, []

    def __getattr__(self, name):
        return getattr(self._inner, name)

    async def commit(self, change) -> None:
        if not self.gate.is_set():
            self.waiting.set()
            await self.gate.wait()
        if self.full:
            self.refused.append(change)
            raise StoreUnavailable("ledger", "disk full")
        await self._inner.commit(change)


async def test_a_goodbye_is_not_lost_when_the_end_comes_in_the_middle_of_a_turn(house: House) -> None:
    store = house.store = Slow(house.store)
    running = await started(house)
    house.say()
    await running.seal()
    await running.note()
    running.upkeep.start()
    await house.clock.until_asleep()
    running.sealer.drop(ALL)
    store.gate.clear()
    house.clock.advance(1)
    await store.waiting.wait()
    stopping = asyncio.create_task(running.upkeep.stop())
    for _ in range(5):
        await asyncio.sleep(0)  # noqa: TID251  # lets it come as far as it comes
    store.gate.set()
    await stopping
    assert await heard_of(house) == []


async def test_who_ends_after_a_conflict_says_goodbye_too(house: House) -> None:
    running = await started(house)
    house.say()
    await running.seal()
    other = await started(house)
    house.say()
    await other.seal()
    running.take()
    with pytest.raises(PositionConflict):
        await running.sealer.flush()
    await running.stop()
    await other.stop()
    assert await heard_of(house) == []


async def test_a_writer_whose_clock_is_ahead_is_said_once_an_epoch_and_its_records_are_kept(house: House) -> None:
    running, writer = await started(house), house.writer()
    house.send(*house.write(writer, action="in time"))
    for action in ("ahead", "further"):
        day = house.clock.now_us() // DAY_US + 365
        env = env_of({"audit_id": action, "event_type": "file.read", "action": action})
        house.send(*writer.seal(0, Draft(Kind.ENTRY, env, (), 0, day), house.clock.now_us() + 120_000_000))
    await running.seal()
    await running.note()
    assert sorted(await house.found()) == ["ahead", "drift", "further", "in time"]
    assert [event.payload["code"] for event in house.published] == ["drift"]
    assert await house.findings() == {}


async def test_a_review_that_is_overdue_is_said_once_until_somebody_has_looked(house: House) -> None:
    rule = ComplianceRule(rule_id="HOUSE-002", framework="custom", title="look at it", review_interval=30)
    running, writer = await Running(house, rules=[rule]).hold(), house.writer()
    house.send(*house.write(writer))
    await running.seal()
    days = 0

    async def wait(more: int) -> list[str]:
        nonlocal days
        for _ in range(more):
            house.clock.advance(86_400)
            await running.upkeep.turn()
        return [one for one in await house.found(category="audit_system") if one == "overdue"]

    assert await wait(29) == []
    assert await wait(3) == ["overdue"]
    assert await wait(3) == ["overdue"], "once"
    house.send(*house.write(house.writer(), event_type=REVIEWED, action="review"))
    await running.seal()
    assert await wait(20) == ["overdue"]
    assert await wait(12) == ["overdue", "overdue"]


TWO_PERSONS = ComplianceRule(
    rule_id="HOUSE-003", framework="custom", title="two persons", severity="critical", real_time_monitoring=True,
    match={"event_type": ("x.approved",)}, apart_from={"event_type": ("x.requested",)},
)  # fmt: skip


def say_of(house: House, writer: Writer, kind: str, user: str, where: TopicPartition = AUDIT) -> None:
    """An entry whose user is sealed."""
    part = part_about(house.ring, part_text({"user_id": user, "resource": "db"}), (user,))
    clear = {"audit_id": f"{kind} by {user}", "event_type": f"x.{kind}", "action": kind, "compliance_frameworks": ("custom",)}
    house.send(*house.write(writer, part, where=where, **clear), where=where)
    house.clock.advance(1)


@pytest.mark.parametrize("restarted", [False, True])
async def test_who_approves_what_he_asked_for_is_a_finding_also_after_a_restart(house: House, restarted: bool) -> None:  # noqa: FBT001  # a case
    running, writer = await Running(house, rules=[TWO_PERSONS]).hold(), house.writer()
    say_of(house, writer, "requested", "anna")
    await running.seal()
    if restarted:  # killed: nothing of its memory is left
        running = await Running(house, rules=[TWO_PERSONS]).hold()
    other = house.writer()
    say_of(house, other, "approved", "bert", AUDIT_1)
    await running.seal()
    assert (house.told, house.published) == ([], [])
    say_of(house, other, "approved", "anna", AUDIT_1)
    running.take()
    assert house.told == [], "nobody is told of what is not stored"
    await running.sealer.flush()
    assert house.told == [("approved by anna", "HOUSE-003", ("HOUSE-003",))]
    [row] = (await house.store.find(LedgerWanted(framework="custom", event_type=FINDING_EVENT), limit=9))[1]
    assert b'"violations":[{"code":"one_person_decides","fields":["user_id"],"rule_id":"HOUSE-003","severity":"critical"}]' in row.raw
    assert await house.found(severity="critical") == ["one_person_decides"]
    await running.note()
    assert [event.payload["code"] for event in house.published] == ["one_person_decides"]
    assert await house.findings() == {}


async def test_a_pair_is_found_though_the_flush_behind_it_went_to_another_writer(house: House) -> None:
    first, writer = await Running(house, rules=[TWO_PERSONS]).hold(), house.writer()
    say_of(house, writer, "requested", "anna")
    await first.seal()
    say_of(house, writer, "approved", "anna")
    first.take()
    await (await Running(house).hold()).seal()  # one that does not look
    with pytest.raises(PositionConflict):
        await first.sealer.flush()
    assert house.told == []
    third = await Running(house, rules=[TWO_PERSONS]).hold()
    say_of(house, house.writer(), "approved", "anna")
    await third.seal()
    assert [rule_id for _, rule_id, _ in house.told] == ["HOUSE-003"]


@pytest.mark.parametrize("asked", [AUDIT, AUDIT_1])
async def test_two_halves_that_two_processes_seal_at_once_are_found_at_a_later_look(house: House, asked: TopicPartition) -> None:
    first = await Running(house, rules=[TWO_PERSONS]).hold(AUDIT, TASKS, SYSTEM)
    second = await Running(house, rules=[TWO_PERSONS]).hold(AUDIT_1)
    say_of(house, house.writer(), "requested", "anna", asked)
    say_of(house, house.writer(), "approved", "anna", AUDIT_1 if asked == AUDIT else AUDIT)
    await first.seal()
    await second.seal()
    assert (house.told, await house.found(severity="critical")) == ([], []), "neither has seen both"
    await second.upkeep.turn()
    assert house.told == [], "it is for the one that makes checkpoints"
    for _ in range(3):
        house.clock.advance(5)
        await first.upkeep.turn()
    assert house.told == [("approved by anna" if asked == AUDIT else "requested by anna", "HOUSE-003", ("HOUSE-003",))]
    assert await house.found(severity="critical") == ["one_person_decides"], "once"
    again = await Running(house, rules=[TWO_PERSONS]).hold()
    house.clock.advance(5)
    await again.upkeep.turn()
    assert await house.found(severity="critical") == ["one_person_decides"], "also after a restart"


async def test_a_pair_that_one_process_has_found_is_not_said_by_another(house: House) -> None:
    first = await Running(house, rules=[TWO_PERSONS]).hold(AUDIT, TASKS, SYSTEM)
    second = await Running(house, rules=[TWO_PERSONS]).hold(AUDIT_1)
    writer = house.writer()
    for kind in ("requested", "approved"):
        say_of(house, writer, kind, "anna", AUDIT_1)
    await second.seal()
    await first.upkeep.turn()
    await first.seal()
    assert (len(house.told), await house.found(severity="critical")) == (1, ["one_person_decides"])


async def test_nothing_is_told_of_somebody_who_was_forgotten(house: House) -> None:
    running, writer = await Running(house, rules=[TWO_PERSONS]).hold(), house.writer()
    say_of(house, writer, "requested", "anna")
    say_of(house, writer, "approved", "anna")
    house.ring.destroy([key.handle for key in house.ring.subjects(["anna"])])
    await running.seal()
    assert house.told == []
    assert sorted(await house.found()) == ["approved", "requested"]


async def test_a_writer_whose_admission_was_given_up_is_admitted_the_next_time(house: House) -> None:
    one, other = await Running(house).hold(), Running(house)
    house.say()
    house.send(*house.write(house.writer()))
    one.take()
    await other.hold(TASKS)
    await other.seal()
    with pytest.raises(PositionConflict):
        await one.sealer.flush()
    await one.hold(AUDIT, AUDIT_1, SYSTEM)
    await one.seal()
    await one.note()
    assert await house.findings() == {}
    assert sorted(await house.found()) == ["completed", "read"]


async def forge(house: House, writer: Writer, number: int = 0) -> int:
    """Somebody without keys writes into the store, with every hash as it has to be; where it is in the partition."""
    sealed = house.write(writer, where=TopicPartition("audit-events", number))
    records, tail = [one.record._replace(mac=b"\x07" * 32) for one in sealed], (await house.store.tails())[number]
    tree = CompactRange(tail.size, tail.peaks)
    nodes = tree.extend([one.leaf for one in sealed])
    rows = [LedgerRow(number, tail.size + at, pack_record(one), sealed[at].leaf, 0, None) for at, one in enumerate(records)]
    facts = [facts_of(one, unpack_core(one.core)) for one in records]
    await house.store.commit(LedgerCommit([LedgerAppend(number, tail.size, rows, facts, nodes, tree.peaks)]))
    return tail.size


async def test_what_somebody_adds_to_the_registry_is_not_signed(house: House) -> None:
    running, writer = await Running(house).hold(), house.writer()
    house.send(*house.write(writer))
    await running.seal()
    await running.upkeep.turn()
    place = await forge(house, writer, REGISTRY)
    for _ in range(3):
        house.clock.advance(5)
        await running.upkeep.turn()
    known = await proving.noted(house.store)
    assert known is not None
    assert known.sizes[REGISTRY] == place
    assert [one for one in await house.found(severity="critical") if one == "forged"] == ["forged"], "said once"
    assert (await house.store.sizes())[0] == known.sizes[0], "the rest is signed"
    with pytest.raises(LedgerTampered) as found:
        await Checkpoints(house.store, house.signer, house.ring).note()
    assert (found.value.code, found.value.partition, found.value.index) == ("mac", REGISTRY, place)


async def test_the_registry_can_be_noted_alone_and_the_rest_is_left_to_who_seals_it(house: House) -> None:
    running, writer = await Running(house).hold(), house.writer()
    house.send(*house.write(writer))
    await running.seal()
    beside = Checkpoints(house.store, house.signer, house.ring)
    await beside.check_unnoted({REGISTRY})
    assert await beside.note(only={REGISTRY})
    assert not await beside.note(only={REGISTRY}), "nothing has grown there"
    sizes, known = await house.store.sizes(), await proving.noted(house.store)
    assert known is not None
    assert known.sizes == {REGISTRY: sizes[REGISTRY]}
    await running.note()
    assert await house.findings() == {}
    place = await forge(house, writer, 0)
    await beside.check_unnoted({REGISTRY})  # what is not signed here is not answered for here
    with pytest.raises(LedgerTampered) as found:
        await beside.check_unnoted()
    assert (found.value.code, found.value.partition, found.value.index) == ("mac", 0, place)


async def test_what_somebody_adds_to_the_store_is_neither_signed_nor_built_upon(house: House) -> None:
    running, writer = await Running(house).hold(), house.writer()
    house.send(*house.write(writer))
    await running.seal()
    await running.upkeep.turn()
    place = await forge(house, writer)
    for _ in range(3):
        house.clock.advance(2)
        await running.upkeep.turn()
    known = await proving.noted(house.store)
    assert known is not None
    assert known.sizes[0] == place, "a running sealer does not sign what it has not appended"
    with pytest.raises(PositionConflict):
        await running.seal()
    with pytest.raises(LedgerTampered) as found:
        await running.hold()
    assert (found.value.code, found.value.partition, found.value.index) == ("mac", 0, place)
    with pytest.raises(LedgerTampered):
        await Running(house).hold()


async def test_a_flush_that_failed_is_stored_as_it_was_sealed(house: House) -> None:
    store = house.store = Slow(house.store)
    running = await started(house)
    house.say()
    running.take()
    store.full = True
    with pytest.raises(StoreUnavailable):
        await running.sealer.flush()
    house.say()
    running.take()
    store.full = False
    await running.sealer.flush()
    stored = {row.raw for number in await house.store.sizes() for row in await house.store.rows(number, 0, 100)}
    assert {row.raw for append in store.refused[0].appends for row in append.rows} <= stored
    await running.note()
    assert await house.findings() == {}


async def test_of_two_that_hold_a_partition_one_yields_and_begins_a_new_epoch(house: House) -> None:
    one, two = await started(house), await started(house)
    house.say()
    one.take()
    two.take()
    await one.sealer.flush()
    before = two.sealer.registrar.writer
    with pytest.raises(PositionConflict):
        await two.sealer.flush()
    await two.hold()
    house.say()
    await two.seal()
    assert two.sealer.registrar.writer == (before[0], before[1] + 1)
    one.take()
    with pytest.raises(PositionConflict):
        await one.sealer.flush()
    await two.note()
    assert len(await house.found()) == 2
    assert await house.findings() == {}


async def test_partitions_move_between_two_processes(house: House) -> None:
    one, two = await started(house, AUDIT, TASKS), await started(house, AUDIT_1, SYSTEM)
    writer = house.writer()
    for step in range(4):
        house.send(*house.write(writer))
        house.send(*house.write(writer, where=AUDIT_1), where=AUDIT_1)
        house.say()
        house.say(SYSTEM)
        await one.seal()
        await two.seal()
        if step % 2:
            one.take()
            one.sealer.drop([TASKS])  # lost, with nothing flushed
            await two.hold(TASKS)
        else:
            two.sealer.drop([TASKS])
            await one.hold(TASKS)
        house.clock.advance(1)
    await one.seal()
    await two.seal()
    await one.note()
    assert await house.findings() == {}
    assert len(await house.found()) == 16
    await two.stop()
    await one.stop()
    assert await house.findings() == {}


async def test_a_new_epoch_names_the_heads_of_the_one_before(house: House) -> None:
    running = await Running(house, epoch_s=100).hold()
    house.say()
    await running.seal()
    await running.note()
    for _ in range(2):
        house.clock.advance(100)
        house.say()
        await running.seal()
        await running.note()
    house.say()
    await running.seal()
    await running.note()
    assert running.sealer.registrar.writer[1] == 3
    assert await house.findings() == {}


def tamper(house: House, statement: str) -> None:
    with sqlite3.connect(house.path) as connection:
        assert connection.execute(statement).rowcount
    connection.close()


@pytest.mark.parametrize(
    ("attack", "codes"),
    [
        (
            "UPDATE record SET raw = CAST(substr(raw, 1, 150) || X'00' || substr(raw, 152) AS BLOB) WHERE id = 3",
            {"env_hash", "core", "root", "link"},
        ),
        ("DELETE FROM record WHERE id = 3", {"size"}),
        ("DELETE FROM record WHERE id >= 5 AND id < 1000", {"size"}),
    ],
    ids=["a byte", "a row", "the tail"],
)
async def test_what_is_changed_in_the_file_is_found_by_the_verifier_and_stops_a_sealer(house: House, attack: str, codes: set[str]) -> None:
    running, writer = await started(house), house.writer()
    for number in range(6):
        house.send(*house.write(writer, action=f"a{number}"))
    await running.seal()
    await running.note()
    assert await house.findings() == {}
    await house.store.close()
    tamper(house, attack)
    again = await House.open(house.folder)
    report = await again.report()
    assert report.broken
    assert set(report.counts) & codes
    if attack.startswith("DELETE"):
        with pytest.raises(LedgerTampered):
            await started(again)
    await again.store.close()


async def test_swapped_neighbours_of_two_writers_show_in_the_root_only(house: House) -> None:
    running = await started(house)
    one, two = house.writer(), house.writer()
    house.send(*house.write(one))
    house.send(*house.write(two))
    house.send(*house.write(one, action="x"))
    house.send(*house.write(two, action="y"))
    await running.seal()
    await running.note()
    with sqlite3.connect(house.path) as connection:
        rows = connection.execute("SELECT id, leaf, raw FROM record WHERE id IN (4, 5) ORDER BY id").fetchall()
        for (place, _, _), (_, leaf, raw) in zip(rows, reversed(rows), strict=True):
            connection.execute("UPDATE record SET leaf = ?, raw = ? WHERE id = ?", (leaf, raw, place))
    connection.close()
    assert set(await house.findings()) == {"root"}
    with pytest.raises(LedgerTampered, match="root"):
        await started(house)


async def test_an_entry_about_a_person_holds_its_digest_where_an_erasure_takes_it(house: House) -> None:
    running = await started(house)
    house.say(customer_id="cust-7")
    house.say()
    await running.seal()
    rows = (await house.store.find(finding()._replace(category=None), limit=9))[1]
    for name in (b'"digest"', b'"content_digest"'):
        assert {name in row.raw for row in rows} == {True, False}
    assert not any(b"cust-7" in path.read_bytes() for path in house.folder.iterdir())
    assert [len(unpack_record(row.raw).parts) for row in rows] in ([0, 1], [1, 0])
    assert await house.found(handles=[house.ring.handle_of("cust-7")]) == ["completed"]


async def test_events_of_authentication_keep_their_payload_sealed(house: House) -> None:
    running = await started(house)
    house.say(SYSTEM, house.events.event("auth.failure", "session-1", "session", {"user_id": "eve", "why": "wrong password"}))
    await running.seal()
    [row] = (await house.store.find(finding()._replace(category="authentication"), limit=9))[1]
    record = unpack_record(row.raw)
    assert b"wrong password" not in row.raw
    assert b"wrong password" in text_of(house.ring, AesGcm(), record, 0)
    assert await house.found(outcome="failure") == ["failure"]


async def test_partitions_of_topics_are_numbered_once(house: House) -> None:
    running = await started(house, *ALL[:2])
    house.send(*house.write(house.writer()))
    await running.seal()
    numbers = dict(running.sealer.registrar.registry.numbers)
    other = await started(house, TASKS)
    assert other.sealer.registrar.registry.numbers == numbers
    assert numbers[TASKS] == 1_024 + 8
    assert len(set(numbers.values())) == len(numbers) == 28


async def test_events_for_which_there_was_no_key_are_sealed_when_they_come_again(house: House) -> None:
    before = await started(house)
    house.say()
    await before.seal()
    await before.stop()
    house.ring = ring = Away(house.ring)
    running = await started(house)
    house.say()
    house.say()
    ring.away = True
    with pytest.raises(StoreUnavailable):
        running.take()
    ring.away = False
    await running.seal()
    assert len(await house.found()) == 3
    await running.note()
    assert await house.findings() == {}


class Failing:
    """A cipher that goes away after so many calls."""

    def __init__(self, error: Exception) -> None:
        self._inner, self._error = AesGcm(), error
        self.left = 1 << 30

    def seal(self, key: bytes, nonce: bytes, plain: bytes, aad: bytes) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise self._error
        return self._inner.seal(key, nonce, plain, aad)

    def open(self, key: bytes, nonce: bytes, sealed: bytes, aad: bytes) -> bytes:
        return self._inner.open(key, nonce, sealed, aad)


@pytest.mark.parametrize("error", [StoreUnavailable("cipher", "away"), RuntimeError("a fault of our own")], ids=["away", "fault"])
async def test_of_a_batch_whose_sealing_fails_in_its_middle_nothing_is_sealed_until_it_comes_again(house: House, error: Exception) -> None:
    house.aes = cipher = Failing(error)
    running = await started(house)
    house.log[TASKS].append(b"[")  # a finding of this is another one each time
    for number in range(100):
        house.say(customer_id=f"cust-{number}")
        house.say()
    chain = Chain("b" * 32)
    house.log[TASKS][1:] = [chain.link(value, 1) for value in house.log[TASKS][1:]]
    cipher.left = 90
    for _ in range(2):
        with pytest.raises(type(error)):
            running.take()
        assert not running.sealer.lanes[TASKS].has_pending
        assert running.sealer.lanes[TASKS].next == 0
        await running.sealer.flush()
    cipher.left = 1 << 30
    await running.seal()
    assert running.counters.value(FOLLOW_REPEATS, follower="audit") == 0
    assert sorted(await house.found()) == ["completed"] * 200 + ["unreadable"]
    rows = [row for number in await house.store.sizes() for row in await house.store.rows(number, 0, 1_000)]
    fits = Counter(found for row in rows for found in re.findall(rb'"publisher_chain":"(\w+)"', row.raw))
    assert fits == {b"linked": 200}
    await running.note()
    assert await house.findings() == {}


async def test_a_ledger_says_the_same_with_the_compiled_core_and_without_it(tmp_path: Path) -> None:
    said = []
    events = list(Fleet(seed=3, agents=5, start=datetime(2026, 1, 5, tzinfo=UTC)).run(events=200))
    chain = Chain("a" * 32)
    values = [chain.link(encode(event), 1) for event in events]
    personal = encode(EventBuilder().event(payload={"agent_id": "agent-1", "customer_id": "cust-1"}))
    values[60:60] = [b"[", personal, values[7], values[7].replace(b"simulate", b"emulated"), b'{"a":1}']
    for compiled in (True, False):
        house = await House.open(tmp_path / str(compiled), compiled=compiled)
        running = await started(house)
        for start in range(0, len(values), 90):
            house.log[TASKS] += values[start : start + 90]
            await running.seal()
        await running.note()
        assert await house.findings() == {}
        rows = [row for number in await house.store.sizes() if number != REGISTRY for row in await house.store.rows(number, 0, 1_000)]
        said.append([unpack_record(row.raw).env for row in rows if unpack_core(unpack_record(row.raw).core).kind == Kind.ENTRY])
        await house.store.close()
    assert said[0] == said[1]
    assert len(said[0]) == len(values) - 1


POISON = [
    "UPDATE tip SET packed = :ahead WHERE partition = 0",
    "UPDATE tip SET packed = x'c1' WHERE partition = 0",
    "DELETE FROM tip WHERE partition = 0",
    "INSERT INTO tip VALUES (0, :writer, :epoch + 1, :ahead, 1)",
    "INSERT INTO tip VALUES (0, :writer, :epoch + 1, :ahead, 0)",
]


@pytest.mark.parametrize("poison", POISON)
async def test_a_sealer_does_not_start_where_a_chain_is_said_to_stand_elsewhere(house: House, poison: str) -> None:
    """What comes of that chain next would be taken for a repeat, and dropped without a word."""
    running, writer = await started(house), house.writer()
    house.send(*house.write(writer))
    await running.seal()
    await running.note()
    await running.stop()
    ahead = pack_tip((writer.writer, writer.epoch), Tip(10**9, bytes(32), 0, closed=False)).packed
    with sqlite3.connect(house.path) as connection:
        assert connection.execute(poison, {"writer": writer.writer, "epoch": writer.epoch, "ahead": ahead}).rowcount > 0
    connection.close()
    with pytest.raises(LedgerTampered) as found:
        await started(house)
    assert (found.value.code, found.value.partition) == ("resume", 0)
    assert set(await house.findings()) == {"resume"}


async def test_where_a_chain_stands_of_which_everything_was_pruned_is_no_finding_unless_it_was_moved(house: House) -> None:
    running = await started(house)
    await running.note()  # a heartbeat
    await running.stop()
    house.clock.advance(400 * 86_400)
    running = await started(house)
    assert set((await house.retention().run(operator="op-1", prune=True)).pruned) == {0}
    assert await house.findings() == {}
    [tip] = (await house.store.tails(ended=True))[0].tips
    stands = unpack_tip(tip)
    moved = pack_tip((tip.writer, tip.epoch), replace(stands, seq=stands.seq + 1)).packed
    with sqlite3.connect(house.path) as connection:
        assert connection.execute("UPDATE tip SET packed = ? WHERE partition = 0", (moved,)).rowcount == 1
    connection.close()
    assert await house.findings() == {"resume": 1}

"""The judgement of a soak finds what is planted: each rule passes on a sound history, and not on one that is broken in one place."""

from __future__ import annotations

from datetime import datetime
from hashlib import sha256

import msgspec
import pytest
from soak import checks
from soak.checks import Log, Record
from soak.plan import CALM_S, KINDS, plan
from soak.told import Diary, Race, Recorded, entries_in, history_in, races_in

from tallyroll.events.chain import Chain
from tallyroll.testing.history import Fail, Info, Invoke, Ok

PLACE = "task-events/0"
AGENT = "ä b"


def records(count=6, *, garbage=()):
    """A partition of one publisher's events, with garbage at some offsets."""
    chain, made = Chain("5" * 32), []
    for number in range(count):
        offset = len(made)
        if offset in garbage:
            made.append(Record(PLACE, offset, checks.GARBAGE_KEY, b"no json", None))
            offset += 1
        body = {"id": f"e-{number}", "type": "task.completed", "data": {"agent_id": AGENT}}
        made.append(record(offset, chain.link(msgspec.json.encode(body), number + 1)))
    return made


def record(offset, value, *, key=b"task:1", place=PLACE):
    return Record(place, offset, key, value, msgspec.json.decode(value))


def again(one, offset):
    return one._replace(offset=offset)


def swapped(at):
    made = records()
    made[at : at + 2] = again(made[at + 1], at), again(made[at], at + 1)
    return made


def raced(*expects, key=b"workflow:race"):
    """Events of one aggregate that expect versions, as (version, offset seen)."""
    chain, made = Chain("6" * 32), []
    for offset, (version, seen) in enumerate(expects):
        body = {"id": f"r-{offset}", "type": "workflow.step.completed", "expects": f"{version}/{seen}", "data": {}}
        made.append(record(offset, chain.link(msgspec.json.encode(body), offset + 1), key=key, place="workflow-events/0"))
    return Log(made)


def told(count=6):
    """The publisher's side of ``records``."""
    return [
        entry
        for number in range(count)
        for entry in (Invoke("p", f"e-{number}", "task:1"), Ok(f"e-{number}", PLACE, number))
    ]  # fmt: skip


def kinds(findings):
    return {finding.check for finding in findings}


def test_a_sound_log_gives_no_finding():
    log = Log([*records(), again(records()[2], 6)])  # a repeat is none
    assert kinds([*checks.history(told(), log), *checks.invented(told(), log), *checks.chains(log)]) == set()
    assert [one.id for one in log.firsts] == [f"e-{number}" for number in range(6)]


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        (records()[:-1], {"history: unseen"}),
        ([one for one in records() if one.offset != 2], {"history: lost", "history: unseen", "chain"}),
        ([*records(), record(6, records()[0].value.replace(b'"e-0"', b'"e-9"'))], {"invented"}),
        ([*records(), record(6, records()[0].value.replace(b'"chainnumber":"1"', b'"chainnumber":"7"'))], {"doubled", "chain"}),
        ([*records(), record(6, b'{"id":"e-0","type":"task.completed","data":{}}')], {"chain"}),
        ([*records(), Record(PLACE, 6, b"task:1", b"no json", None)], {"invented", "chain"}),
        (swapped(2), {"history: order", "history: inconsistent offset", "chain"}),
    ],
)  # fmt: skip
def test_a_broken_log_is_found(broken, expected):
    log = Log(broken)
    assert kinds([*checks.history(told(), log), *checks.invented(told(), log), *checks.chains(log)]) == expected


GENESIS = "0" * 64


def test_a_notice_may_come_again_under_another_link_and_with_nothing_else_new():
    def notice(session, value):
        link = f'"sequence":"1","chainsession":"{session}","chainnumber":"1","chainprev":"{GENESIS}"'
        return b'{"id":"n-0","type":"anomaly.detected","data":{"value":%d},%s}' % (value, link.encode())

    def judged(*values):
        return kinds(checks.chains(Log([record(offset, value) for offset, value in enumerate(values)])))

    assert judged(notice("a", 1), notice("b", 1)) == set()
    assert judged(notice("a", 1), notice("b", 2)) == {"doubled"}


def test_what_was_refused_and_lies_there_is_found():
    entries = [entry for entry in told() if entry != Ok("e-3", PLACE, 3)]
    assert kinds(checks.history([*entries, Fail("e-3")], Log(records()))) == {"history: aborted read"}
    assert kinds(checks.history([*entries, Info("e-3")], Log(records()))) == set()


def test_races():
    log = raced((0, 0), (0, 0), (1, 1))
    sound = [Race("r-0", "workflow:race", 0, "won"), Race("r-1", "workflow:race", 0, "lost"), Race("r-2", "workflow:race", 1, "open")]
    assert log.outrun == {"r-1"}
    assert kinds(checks.races(sound, log)) == set()
    assert kinds(checks.races([Race("r-1", "workflow:race", 0, "won")], log)) == {"race"}
    assert kinds(checks.races([Race("r-0", "workflow:race", 0, "lost")], log)) == {"race"}
    assert kinds(checks.races([Race("r-9", "workflow:race", 2, "won")], log)) == {"race"}
    assert kinds(checks.races([], raced((0, 0), (2, 1)))) == {"race"}


def entry(audit_id, event_id=None):
    return {"audit_id": audit_id, "event_id": event_id, "origin": "derived" if event_id else "recorded"}


def test_the_trail():
    log, recorded = Log(records(2)), [Recorded("a-9", "anna", "", 1)]
    sound = [entry("a-0", "e-0"), entry("a-1", "e-1"), entry("a-9")]
    assert kinds(checks.trail(sound, recorded, log)) == set()
    for broken in (sound[1:], sound[:-1], [*sound, entry("a-2", "e-1")], [*sound, entry("a-2", "e-7")], [*sound, sound[2]]):
        assert kinds(checks.trail(broken, recorded, log)) == {"trail"}


def test_dead_letters():
    log = Log(records(garbage={2}))
    assert log.garbage == {f"{PLACE}/2"}
    sound = [("state", f"{PLACE}/2"), ("nats", f"{PLACE}/2")]
    assert kinds(checks.letters(sound, log)) == set()
    assert kinds(checks.letters(sound[1:], log)) == {"dead letter"}
    assert kinds(checks.letters([*sound, ("redis", f"{PLACE}/3")], log)) == {"dead letter"}


def test_states():
    body = b'{"tasks_completed":6}'
    assert kinds(checks.views({"agent:a": body}, {"agent:a": sha256(body).hexdigest()})) == set()
    for found, wanted in (({}, {"agent:a": ""}), ({"agent:a": body}, {}), ({"agent:a": body}, {"agent:a": "0"})):
        assert kinds(checks.views(found, wanted)) == {"redis"}
    log = Log([*records(), again(records()[2], 6)])
    assert kinds(checks.tasks_completed({AGENT: {"tasks_completed": 6}}, log, where="w")) == set()
    for states in ({}, {AGENT: {"tasks_completed": 7}}, {AGENT: {"tasks_completed": 6}, "other": {"tasks_completed": 1}}):
        assert kinds(checks.tasks_completed(states, log, where="w")) == {"w"}


def test_messages():
    log, ids = Log(records(3)), ["e-0", "e-1", "e-2"]
    assert kinds(checks.messages(ids, {"task.completed"}, log)) == set()
    for found in (ids[1:], [*ids, "e-1"], [*ids, "e-9"]):
        assert kinds(checks.messages(found, {"task.completed"}, log)) == {"nats"}


def test_the_archive():
    log = Log(records(3))
    sound = [(one.offset, one.key, one.value) for one in log.records]
    assert kinds(checks.archived({PLACE: sound}, log)) == set()
    for found in (
        {},
        {PLACE: sound[:-1]},
        {PLACE: [*sound, sound[-1]]},
        {PLACE: [*sound[:-1], (2, b"task:1", b"x")]},
        {PLACE: sound, "x/0": sound},
    ):
        assert kinds(checks.archived(found, log)) == {"archive"}


def test_what_was_pruned_of_the_archive_was_old_enough():
    times = "2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z", "2026-01-01T00:00:02Z"
    old, second, young = (
        record(offset, b'{"id":"e-%d","type":"t","time":"%s"}' % (offset, at.encode())) for offset, at in enumerate(times)
    )
    log = Log([old, second, young])
    left, bound_us = [(2, young.key, young.value)], round(datetime.fromisoformat(times[2]).timestamp() * 1e6)

    def judged(found, kept, pruned_us):
        return kinds(checks.archived({PLACE: found}, log, kept=kept, pruned_us=pruned_us))

    assert judged(left, {PLACE: 2}, bound_us) == set()
    assert judged(left, {PLACE: 2}, bound_us - 1_000_000) == {"archive"}  # the second one was too young
    assert judged(left, {PLACE: 2}, 0) == {"archive"}  # nobody has pruned
    assert judged(left, {}, bound_us) == {"archive"}  # lost, not pruned
    assert judged([], {PLACE: 2}, bound_us) == {"archive"}


@pytest.mark.parametrize(
    ("kept", "wrong"),
    [
        ("gO|Y", False),  # with the events of its segment, before them or behind them
        ("Og|Y", False),
        ("g|OY", True),  # alone
        ("gg|Y", True),
        ("gY|O", True),  # with an event that was not to go
        ("OgY|O", True),
    ],
)
def test_garbage_is_pruned_with_old_events_only(kept, wrong):
    """``g`` is garbage, ``O`` an old event, ``Y`` one that is young, ``|`` what pruning has left behind it."""
    old, young = "2026-01-01T00:00:00Z", "2026-01-01T00:00:02Z"
    bound_us = round(datetime.fromisoformat(young).timestamp() * 1e6)

    def made(offset, kind):
        if kind == "g":
            return Record(PLACE, offset, checks.GARBAGE_KEY, b"no json", None)
        return record(offset, b'{"id":"e-%d","type":"t","time":"%s"}' % (offset, (old if kind == "O" else young).encode()))

    gone, left = kept.split("|")
    log = Log([made(offset, kind) for offset, kind in enumerate(gone + left)])
    found = [(one.offset, one.key, one.value) for one in log.records[len(gone) :]]
    judged = kinds(checks.archived({PLACE: found}, log, kept={PLACE: len(gone)}, pruned_us=bound_us))
    assert judged == ({"archive"} if wrong else set())
    unpruned = kinds(checks.archived({PLACE: found}, log, kept={PLACE: len(gone)}))
    assert unpruned == {"archive"}, "nobody has pruned"


def test_persons():
    late = 400_000_000  # no recorder holds the old key any more
    recorded = [
        Recorded("a-0", "anna", "d0", 10),
        Recorded("a-1", "anna", "d1", late),
        Recorded("a-2", "bert", "d2", 10),
        Recorded("a-3", "anna", "d3", 30),
    ]
    erased = {"anna": (20, 25)}
    for either in ("d3", None):
        assert kinds(checks.persons({"a-0": None, "a-1": "d1", "a-2": "d2", "a-3": either}, recorded, erased)) == set()
    for broken in ({"a-0": "d0"}, {"a-1": None}, {"a-2": None}, {"a-2": "d1"}):
        assert kinds(checks.persons(broken, recorded, erased)) == {"erasure"}


def test_what_must_be_sealed_is_found_and_not_shown():
    forbidden = {"the secret": b"s3cr3t"}
    assert list(checks.in_clear([("a", b"nothing")], forbidden)) == []
    (found,) = checks.in_clear([("a", b"nothing"), ("b", b"...s3cr3t...")], forbidden)
    assert found == checks.Finding("in clear", "the secret in b")


def test_a_plan_is_that_of_its_seed_and_leaves_time_at_both_ends():
    steps = plan(7, 600)
    assert steps == plan(7, 600)
    assert steps != plan(8, 600)
    assert CALM_S <= steps[0].at_s <= steps[-1].at_s <= 600 - CALM_S
    assert {step.fault for step in plan(7, 36_000)} == set(KINDS)
    assert {step.fault for step in plan(7, 600, {"kill redis", "erase person"})} == {"kill redis", "erase person"}


def test_a_diary_is_read_up_to_the_line_in_which_its_writer_died(tmp_path):
    diary = Diary(tmp_path, "p.1")
    diary.happened(*told(1))
    diary.fact(Race("r-0", "workflow:race", 0, "won"))
    diary.fact(Recorded("a-0", "anna", "d", 1))
    for name in ("history", "races", "entries"):
        with (tmp_path / f"p.1.{name}").open("ab") as file:
            file.write(b'{"half')
    assert history_in(tmp_path) == told(1)
    assert races_in(tmp_path) == [Race("r-0", "workflow:race", 0, "won")]
    assert entries_in(tmp_path) == [Recorded("a-0", "anna", "d", 1)]

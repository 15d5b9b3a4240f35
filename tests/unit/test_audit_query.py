"""The trail is read by pages, by id, and by who; what is opened is recorded, and who may not see gets the clear fields only."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.patience import PATIENCE_S
from tests.unit.readable_ledger import ReadableStore, Reading
from tests.unit.stored_ledger import LedgerClock

from tallyroll.audit.entry import SEALED_FIELDS
from tallyroll.audit.reading.query import KEY_HOLDER, Reader, Wanted
from tallyroll.audit.reading.reader import LedgerReader
from tallyroll.errors import LedgerTampered, SubjectErased
from tallyroll.ports import LedgerRow

CLERK = Reader("clerk-1")
AUDITOR = Reader("auditor-7", frozenset({"personal"}), "yearly review")


class Damaged:
    """A store whose rows somebody alters in the file, behind its back: ``alter`` says how."""

    def __init__(self, store: ReadableStore) -> None:
        self._store = store
        self.alter: Callable[[LedgerRow], LedgerRow] = lambda row: row

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    async def find(self, *args: object, **options: object) -> tuple[int, list[LedgerRow]]:
        total, rows = await self._store.find(*args, **options)
        return total, [self.alter(row) for row in rows]

    async def entry(self, audit_id: str) -> LedgerRow | None:
        row = await self._store.entry(audit_id)
        return row and self.alter(row)


class Office:
    """A house and who reads in it; ``said`` are the reads that were recorded."""

    def __init__(self, folder: Path) -> None:
        self.house = Reading(folder)
        self.said: list[dict] = []
        self.waited = 0
        self.store = Damaged(self.house.store)
        self.reader = LedgerReader(
            self.store, self.house.ring, self.house.aes,
            clock=LedgerClock(self.house.ledger), record=self._record, catch_up=self._catch_up,
        )  # fmt: skip

    async def _record(self, event_type: str, category: str, action: str, description: str, **fields: object) -> None:
        self.said.append({"event_type": event_type, "category": category, "action": action, "description": description, **fields})

    async def _catch_up(self) -> None:
        self.waited += 1

    def query(self, reader: Reader = KEY_HOLDER, *, limit: int = 1_000, offset: int = 0, as_of: dict | None = None, **wanted: object):
        return asyncio.run(self.reader.query(Wanted(**wanted), limit=limit, offset=offset, as_of=as_of, reader=reader))

    def get(self, audit_id: str, reader: Reader = KEY_HOLDER):
        return asyncio.run(self.reader.entry(audit_id, reader=reader))


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path)


def ids(answer) -> list[str]:
    return [entry.audit_id for entry in answer.entries]


def test_newest_first_with_everything_opened_for_who_holds_the_keys(office: Office) -> None:
    first, second = office.house.entry("anna", subject="cust-123"), office.house.entry("bert", task_id="task-1")
    answer = office.query()
    assert ids(answer) == [second, first]
    entry = answer.entries[1]
    assert (entry.user_id, entry.source_ip, entry.payload["customer"]) == ("anna", "203.0.113.9", "cust-123")
    assert (entry.encrypted, entry.erased, entry.state, entry.position) == (True, (), "sealed", "audit-events/0/1")
    assert len(entry.subjects) == 2
    assert office.waited == 1


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"agent_id": "agent-2"}, [2]),
        ({"task_id": "task-1"}, [3]),
        ({"workflow_id": "wf-1"}, [4]),
        ({"category": "ai_decision"}, [5]),
        ({"severity": "critical"}, [6]),
        ({"outcome": "denied"}, [7]),
        ({"event_type": "file.sent"}, [8]),
        ({"compliance_framework": "gdpr"}, [9]),
        ({"user_id": "bert"}, [10]),
        ({"user_id": "carl"}, []),
        ({"agent_id": "agent-1", "user_id": "anna", "severity": "critical"}, [6]),
        ({"agent_id": "agent-1", "user_id": "bert", "severity": "critical"}, []),
    ],
)
def test_every_filter(office: Office, wanted: dict, found: list[int]) -> None:
    enter = office.house.entry
    made = [
        enter(), enter(), enter(agent_id="agent-2"), enter(task_id="task-1"), enter(workflow_id="wf-1"), enter(category="ai_decision"),
        enter(severity="critical"), enter(outcome="denied"), enter(event_type="file.sent"), enter(compliance_frameworks=["gdpr"]),
        enter("bert", subject="anna"),
    ]  # fmt: skip
    answer = office.query(**wanted)
    assert ids(answer) == [made[number] for number in found]
    assert answer.total_count == len(found)


def test_a_user_is_found_by_who_acted_not_by_whom_it_was_about_also_without_encryption(office: Office) -> None:
    office.house.entry("bert", subject="anna")
    mine = [office.house.entry("anna"), office.house.entry("anna", plain=True)]
    assert ids(office.query(user_id="anna")) == mine[::-1]
    assert ids(office.query(user_id="anna", limit=1, offset=1)) == [mine[0]]


def test_times_are_inclusive_and_have_a_zone(office: Office) -> None:
    made = [office.house.entry() for _ in range(4)]
    moments = [entry.timestamp for entry in office.query().entries][::-1]
    assert ids(office.query(start_time=moments[1], end_time=moments[2])) == [made[2], made[1]]
    assert ids(office.query(start_time=moments[3].astimezone(UTC) + timedelta(microseconds=1))) == []
    with pytest.raises(ValueError, match="start_time"):
        office.query(start_time=datetime(2027, 1, 1))  # noqa: DTZ001  # that is the point
    with pytest.raises(ValueError, match="end_time"):
        office.query(end_time=datetime(2027, 1, 1))  # noqa: DTZ001  # as above


@pytest.mark.parametrize("wrong", [{"limit": 0}, {"limit": 10_001}, {"offset": -1}, {"category": "fun"}, {"severity": "LOW"}])
def test_what_no_entry_can_have_is_refused(office: Office, wrong: dict) -> None:
    with pytest.raises(ValueError, match="expected"):
        office.query(**wrong)


def test_pages_are_stable_while_entries_come_in(office: Office) -> None:
    made = [office.house.entry() for _ in range(5)]
    first = office.query(limit=2)
    office.house.entry()
    second, third = office.query(limit=2, offset=2, as_of=first.as_of), office.query(limit=2, offset=4, as_of=first.as_of)
    assert [*ids(first), *ids(second), *ids(third)] == made[::-1]
    assert {first.total_count, second.total_count, third.total_count} == {5}
    assert office.query(limit=2).total_count == 6


def test_an_entry_is_witnessed_once_a_cosigned_note_covers_it(office: Office) -> None:
    first = office.house.entry()
    assert office.get(first).state == "sealed"
    office.house.ledger.checkpoint()
    second = office.house.entry()
    assert [entry.state for entry in office.query().entries] == ["sealed", "witnessed"]
    office.house.ledger.witnesses.clear()
    office.house.ledger.checkpoint()
    assert (office.get(second).state, office.get(first).state) == ("sealed", "witnessed"), "what nobody cosigned takes nothing back"


def test_the_page_is_plain_json(office: Office) -> None:
    office.house.entry("anna", subject="cust-123")
    page = office.query(limit=7).page()
    assert json.loads(json.dumps(page)) == page
    assert (page["total_count"], page["returned_count"], page["limit"], page["offset"]) == (1, 1, 7, 0)
    entry = page["entries"][0]
    assert entry["digital_signature"] == entry["mac"]
    assert entry["payload"]["customer"] == "cust-123"


def test_who_may_not_see_gets_clear_fields_and_leaves_no_trace(office: Office) -> None:
    office.house.entry("anna", subject="cust-123", rule_ids=["GDPR-001"])
    office.house.entry("anna", subject="cust-123", plain=True)
    for entry in office.query(CLERK).entries:
        shown = entry.to_dict()
        assert all(shown[name] is None for name in SEALED_FIELDS)
        assert shown["erased"] == []
        assert entry.agent_id == "agent-1"
        assert "anna" not in str(shown)
        assert "cust-123" not in str(shown)
    assert office.said == []
    with pytest.raises(ValueError, match="personal"):
        office.query(CLERK, user_id="anna")


def test_a_call_that_opens_something_is_recorded_once(office: Office) -> None:
    for _ in range(3):
        office.house.entry("anna", subject="cust-123")
    office.query(AUDITOR, user_id="anna")
    (said,) = office.said
    assert (said["event_type"], said["category"], said["action"]) == ("audit.read", "audit_system", "query")
    assert (said["user_id"], said["purpose"]) == ("auditor-7", "yearly review")
    assert said["payload"] == {"entries": 3, "parts": 6, "filters": ["user_id"]}
    office.get("entry-001", AUDITOR)
    assert [one["action"] for one in office.said] == ["query", "get"]
    assert office.get("nobody", AUDITOR) is None
    assert len(office.said) == 2
    office.query(AUDITOR, user_id="nobody")
    assert len(office.said) == 3, "that there is nothing about somebody is an answer too"


def test_what_cannot_be_recorded_is_not_given(office: Office) -> None:
    office.house.entry("anna")

    async def full(*_: object, **__: object) -> None:
        raise BlockingIOError

    reader = LedgerReader(
        office.house.store, office.house.ring, office.house.aes,
        clock=LedgerClock(office.house.ledger), record=full, catch_up=office._catch_up,
    )  # fmt: skip
    with pytest.raises(BlockingIOError):
        asyncio.run(reader.query(Wanted()))
    assert asyncio.run(reader.query(Wanted(), reader=CLERK)).total_count == 1


def test_every_entry_of_a_query_in_turn(office: Office) -> None:
    made = [office.house.entry() for _ in range(7)]

    async def every(reader: Reader) -> list[str]:
        return [entry.audit_id async for entry in office.reader.each(Wanted(agent_id="agent-1"), reader=reader, page=3)]

    assert asyncio.run(every(AUDITOR)) == made[::-1]
    assert [one["payload"]["entries"] for one in office.said] == [7]
    assert asyncio.run(every(CLERK)) == made[::-1]
    assert len(office.said) == 1


@pytest.mark.parametrize("page", [1, 2, 3, 5])
def test_every_entry_comes_once_also_where_many_are_of_one_moment(office: Office, page: int) -> None:
    made = []
    for pause in (0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 1, 0):
        office.house.pause = pause
        made.append(office.house.entry())

    async def every() -> list[str]:
        return [entry.audit_id async for entry in office.reader.each(Wanted(), reader=CLERK, page=page)]

    assert asyncio.run(every()) == made[::-1]


def test_what_was_erased_is_none_and_named(office: Office) -> None:
    mine, theirs = office.house.entry("anna", subject="cust-123"), office.house.entry("bert", subject="cust-77")
    asyncio.run(office.house.eraser.erase("cust-123"))
    entry = office.get(mine)
    assert entry.user_id == "anna"
    assert (entry.payload, entry.description) == ({"erased": True}, None)
    assert {"payload", "description"} <= set(entry.erased)
    assert "user_id" not in entry.erased
    assert office.get(theirs).erased == ()
    assert office.get(mine, CLERK).payload == {"erased": True}, "that it is gone may be known by everybody"
    with pytest.raises(SubjectErased):
        asyncio.run(office.reader.clear_text(mine))
    assert asyncio.run(office.reader.clear_text(theirs)).payload["customer"] == "cust-77"
    assert asyncio.run(office.reader.clear_text("nobody")) is None
    with pytest.raises(ValueError, match="personal"):
        asyncio.run(office.reader.clear_text(theirs, reader=CLERK))


def test_nobody_finds_an_erased_user(office: Office) -> None:
    office.house.entry("anna")
    asyncio.run(office.house.eraser.erase("anna"))
    assert office.query(user_id="anna").total_count == 0
    assert office.query().entries[0].user_id is None


def test_what_is_restricted_is_kept_from_readers(office: Office) -> None:
    audit_id = office.house.entry("anna", subject="cust-123")
    asyncio.run(office.house.retention.set_hold(who="counsel-7", why="case 12", subject="cust-123"))
    assert office.get(audit_id).held
    assert not office.get(audit_id).restricted
    asyncio.run(office.house.eraser.erase("cust-123"))
    entry = office.get(audit_id)
    assert entry.restricted
    assert (entry.payload, entry.user_id, entry.erased) == (None, "anna", ())
    with pytest.raises(SubjectErased):
        asyncio.run(office.reader.clear_text(audit_id))


def test_an_expired_entry_is_what_its_core_says(office: Office) -> None:
    audit_id = office.house.entry("anna")
    office.house.ledger.drop_body(0, 1)
    assert office.get(audit_id) is None
    (entry,) = office.query().entries
    assert (entry.audit_id, entry.payload) == ("", {"erased": True})
    assert entry.chain.endswith("/1/0/1")


def test_a_part_that_does_not_open_is_marked_and_the_rest_is_shown(office: Office) -> None:
    audit_id = office.house.entry("anna")
    office.house.ledger.change(0, 1, lambda record: record._replace(parts=(bytes(80), record.parts[1])))
    entry = office.get(audit_id)
    assert (entry.state, entry.user_id) == ("broken", None)
    assert entry.payload["customer"] == "nobody"


def test_what_cannot_be_read_is_a_finding_and_the_rest_of_the_page_is_given(office: Office) -> None:
    made = [office.house.entry(user) for user in ("anna", "bert", "anna", "anna")]
    places = {made_id: row.number for made_id in made if (row := asyncio.run(office.house.store.entry(made_id)))}
    cut = {(0, places[made[0]]), (0, places[made[2]])}
    office.store.alter = lambda row: replace(row, raw=row.raw[:-1]) if (row.partition, row.number) in cut else row

    answer = office.query()
    assert (answer.total_count, ids(answer)) == (4, [made[3], made[1]])
    findings = answer.page()["findings"]
    assert [(one["code"], one["partition"], one["index"]) for one in findings] == [
        ("frame", 0, places[made[2]]),
        ("frame", 0, places[made[0]]),
    ]
    json.dumps(findings)
    assert [ids(page) for page in (office.query(limit=2), office.query(limit=2, offset=2))] == [[made[3]], [made[1]]]
    assert ids(office.query(CLERK)) == [made[3], made[1]], "who opens nothing reads the same"
    annas = office.query(user_id="anna")
    assert (ids(annas), len(annas.findings)) == ([made[3]], 2), "whose those are nobody knows"
    assert ids(office.query(user_id="bert")) == [made[1]]

    with pytest.raises(LedgerTampered, match="frame"):
        office.get(made[0])
    with pytest.raises(LedgerTampered, match="frame"):
        asyncio.run(office.reader.clear_text(made[0]))
    given: list[str] = []

    async def every() -> None:
        async for entry in office.reader.each(Wanted(), page=1):
            given.append(entry.audit_id)  # noqa: PERF401  # they are given before it raises

    with pytest.raises(LedgerTampered, match=f"index {places[made[2]]}"):
        asyncio.run(every())
    assert given == [made[3], made[1]], "everything else came first"


def test_every_entry_comes_to_an_end_whatever_time_an_altered_record_says(office: Office) -> None:
    made = [office.house.entry("anna") for _ in range(5)]
    row = asyncio.run(office.house.store.entry(made[2]))
    late = row.raw[:53] + b"\x0f" + row.raw[54:]
    office.store.alter = lambda one: replace(one, raw=late) if (one.partition, one.number) == (0, row.number) else one

    async def every() -> list[str]:
        return [entry.audit_id async for entry in office.reader.each(Wanted(), page=1)]

    given = asyncio.run(asyncio.wait_for(every(), PATIENCE_S))
    assert set(given) >= set(made[:2] + made[3:])

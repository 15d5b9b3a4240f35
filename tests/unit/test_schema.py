from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tallyroll.errors import IncompatibleSchema, UnknownSchema
from tallyroll.events.payloads import PAYLOADS
from tallyroll.events.schema import SCHEMAS, SchemaRegistry
from tallyroll.events.types import EventType

NAME = "invoice.checked"
GOLDEN = [json.loads(line) for line in (Path(__file__).parents[1] / f"golden/schema/{NAME}.jsonl").read_text().splitlines()]


class V1(msgspec.Struct):
    invoice: str
    lines: list[dict[str, Any]]
    agent_id: str | None = None
    took: float | None = None


class V1Dot1(V1):
    note: str | None = None


class V2(msgspec.Struct):
    invoice: str
    lines: list[dict[str, Any]]
    agent_id: str | None = None
    duration_ms: int | None = None
    note: str | None = None


class V3(msgspec.Struct):
    invoice: str
    sku: str
    count: int = 1
    agent_id: str | None = None
    duration_ms: int | None = None
    note: str | None = None


def seconds_to_ms(payload: dict[str, Any]) -> list[dict[str, Any]]:
    if "took" in payload:
        payload["duration_ms"] = round(payload.pop("took") * 1000)
    return [payload]


def one_per_line(payload: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**payload, **line} for line in payload.pop("lines")]


def registry() -> SchemaRegistry:
    made = SchemaRegistry()
    made.register(NAME, "1.0.0", V1)
    made.register(NAME, "1.1.0", V1Dot1)
    made.register(NAME, "2.0.0", V2, seconds_to_ms)
    made.register(NAME, "3.0.0", V3, one_per_line)
    return made


@pytest.mark.parametrize("line", GOLDEN, ids=lambda line: f"{line['version']}-{line['payload']['invoice']}")
def test_payloads_of_every_old_version_mean_today_what_the_golden_file_says(line):
    given_payload = deepcopy(line["payload"])
    assert registry().upcast(NAME, line["version"], given_payload) == line["expected"]
    assert given_payload == line["payload"]


def test_the_golden_file_has_every_version_and_every_number_of_results():
    assert {line["version"].rsplit(".", 1)[0] for line in GOLDEN} == {"1.0", "1.1", "2.0", "3.0"}
    assert {min(len(line["expected"]), 2) for line in GOLDEN} == {0, 1, 2}


def test_numbers_count_pairs_of_major_and_minor_and_patches_share_theirs():
    made = registry()
    assert [made.number(NAME, version) for version in ("1.0.0", "1.0.7", "1.1.0", "2.0.1", "3.0.0", "3.0.5")] == [1, 1, 2, 3, 4, 4]
    assert made.current(NAME) == "3.0.0"


@pytest.mark.parametrize("version", ["3.1.0", "4.0.0", "1.2.0", "0.9.0", "3", "", "x"])
def test_a_version_that_is_not_known_is_unknown_never_guessed(version):
    made = registry()
    for ask in (made.number, made.is_current, lambda name, asked: made.upcast(name, asked, {})):
        with pytest.raises(UnknownSchema) as caught:
            ask(NAME, version)
        assert (caught.value.event_type, caught.value.version, caught.value.known) == (NAME, version, "3.0.0")


def test_a_current_payload_comes_back_as_the_same_object():
    payload = {"a": 1}
    for version in ("3.0.0", "3.0.1"):
        [same] = registry().upcast(NAME, version, payload)
        assert same is payload


def test_a_type_without_registered_versions_passes_at_any_version():
    made = SchemaRegistry()
    payload = {"a": 1}
    for version in ("1.0.0", "7.3.1"):
        assert made.is_current("order.placed", version)
        assert made.number("order.placed", version) == 1
        assert made.upcast("order.placed", version, payload)[0] is payload
    assert made.current("order.placed") == "1.0.0"


def test_an_old_version_without_upcasters_on_its_way_passes_unchanged():
    made = SchemaRegistry()
    made.register(NAME, "1.0.0", V1)
    made.register(NAME, "1.1.0", V1Dot1)
    assert not made.is_current(NAME, "1.0.0")
    assert made.upcast(NAME, "1.0.0", {"invoice": "i"}) == [{"invoice": "i"}]


@pytest.mark.parametrize("field", ["agent_id", "task_id"])
@pytest.mark.parametrize(
    "change", [lambda p, f: {**p, f: "other"}, lambda p, f: {k: v for k, v in p.items() if k != f}], ids=["alters", "drops"]
)
def test_an_upcaster_that_changes_whose_event_it_is_is_refused(field, change):
    made = SchemaRegistry()
    made.register(NAME, "1.0.0", V1)
    made.register(NAME, "2.0.0", V2, lambda payload: [payload, change(payload, field)])
    with pytest.raises(IncompatibleSchema, match=field):
        made.upcast(NAME, "1.0.0", {field: "a-1"})
    assert len(made.upcast(NAME, "1.0.0", {"other": 1})) == 2


def test_an_upcaster_may_name_the_agent_where_none_was_named():
    made = SchemaRegistry()
    made.register(NAME, "1.0.0", V1)
    made.register(NAME, "2.0.0", V2, lambda payload: [{"agent_id": payload["agent"]}])
    assert made.upcast(NAME, "1.0.0", {"agent": "a-1"}) == [{"agent_id": "a-1"}]


def test_a_version_that_cannot_read_old_events_needs_an_upcaster():
    made = SchemaRegistry()
    made.register(NAME, "1.0.0", V1)
    with pytest.raises(IncompatibleSchema) as caught:
        made.register(NAME, "2.0.0", V3)
    assert any(problem.startswith("sku") for problem in caught.value.problems)
    assert made.current(NAME) == "1.0.0"
    made.register(NAME, "2.0.0", V3, one_per_line)


def test_the_rule_is_transitive_back_to_the_last_upcaster():
    class Needs(msgspec.Struct):
        note: str

    class Optional(msgspec.Struct):
        note: str | None = None

    class Number(msgspec.Struct):
        note: int | None = None

    made = SchemaRegistry()
    made.register(NAME, "1.0.0", Number)
    made.register(NAME, "2.0.0", Optional, lambda payload: [payload])
    made.register(NAME, "2.1.0", Needs, mode="NONE")
    made.register(NAME, "2.2.0", Optional)
    with pytest.raises(IncompatibleSchema):
        made.register(NAME, "2.3.0", Needs)


def test_a_patch_keeps_its_shape():
    made = registry()
    with pytest.raises(IncompatibleSchema, match="another shape"):
        made.register(NAME, "3.0.1", V2, one_per_line)
    with pytest.raises(IncompatibleSchema, match="another upcaster"):
        made.register(NAME, "3.0.1", V3)
    made.register(NAME, "3.0.1", V3, one_per_line)
    assert made.current(NAME) == "3.0.1"
    made.register(NAME, "3.0.0", V3, one_per_line)
    assert made.current(NAME) == "3.0.1"


def test_registering_the_same_again_changes_nothing():
    made = registry()
    before = made.fingerprint()
    made.register(NAME, "3.0.0", V3, one_per_line)
    assert (made.fingerprint(), len(made.versions(NAME))) == (before, 4)


@pytest.mark.parametrize("version", ["1", "1.0", "1.0.0.0", "v1.0.0", "1.0.x", "", "01.0.0"])
def test_malformed_versions_are_refused(version):
    made = SchemaRegistry()
    with pytest.raises(ValueError, match="is not a version"):
        made.register(NAME, version, V1)
    assert made.event_types() == ()


def test_versions_are_registered_in_order_and_the_first_has_nothing_to_lift():
    with pytest.raises(ValueError, match="in order"):
        registry().register(NAME, "1.2.0", V1)
    with pytest.raises(ValueError, match="first version"):
        SchemaRegistry().register(NAME, "1.0.0", V1, one_per_line)


def test_the_fingerprint_follows_versions_and_upcasters_and_not_patches_or_order():
    one, two = registry(), SchemaRegistry()
    two.register("other.done", "1.0.0", V1)
    for args in (("1.0.0", V1), ("1.1.0", V1Dot1), ("2.0.0", V2, seconds_to_ms), ("3.0.2", V3, one_per_line)):
        two.register(NAME, *args)
    assert one.fingerprint() != two.fingerprint()
    assert one.fingerprint([NAME]) == two.fingerprint([NAME]) == one.fingerprint([NAME, "never.heard"])
    other = SchemaRegistry()
    other.register(NAME, "1.0.0", V1)
    other.register(NAME, "1.1.0", V1Dot1)
    other.register(NAME, "2.0.0", V2, one_per_line)
    other.register(NAME, "3.0.0", V3, one_per_line)
    assert other.fingerprint() != one.fingerprint()


def test_the_fingerprint_is_the_same_in_every_process():
    assert SCHEMAS.fingerprint(["task.completed", "agent.started"]) == "30733da9bf9910eae6647abb9b5f900ab02b320daa536137cd952b45b454e8cc"


@pytest.mark.parametrize("member", EventType)
def test_every_built_in_type_is_known_at_1_0_0(member):
    assert SCHEMAS.current(member) == "1.0.0"
    assert SCHEMAS.is_current(member, "1.0.0")
    assert SCHEMAS.number(member.value, "1.0.3") == 1
    with pytest.raises(UnknownSchema):
        SCHEMAS.number(member, "1.1.0")


KNOWN_FIELDS = {
    EventType.AGENT_CREATED: {"agent_id": "a", "agent_type": "coder", "capabilities": ["x"], "configuration": {"a": 1}, "created_by": "u"},
    EventType.TASK_CREATED: {"task_id": "t", "task_type": "x", "task_description": "do", "created_by": "u", "priority": "high"},
    EventType.TASK_COMPLETED: {"agent_id": "a", "duration_ms": 5200, "execution_time": 5.2, "result": {"status": "ok"}, "tokens": 9,
                               "input_tokens": 4, "output_tokens": 5, "cost": "0.0123"},
    EventType.TASK_FAILED: {"error": "boom", "error_type": "timeout", "duration_ms": 1.5, "cost": 0.1},
    EventType.TOOL_INVOKED: {"tool_name": "search", "invocation_id": "i-1", "arguments": [1]},
    EventType.PERFORMANCE_METRIC: {"metric_name": "cpu", "value": 0.5, "unit": "percent"},
}  # fmt: skip


@pytest.mark.parametrize("member", KNOWN_FIELDS)
def test_the_fields_that_users_know_are_described(member):
    payload = KNOWN_FIELDS[member]
    assert msgspec.to_builtins(msgspec.convert({**payload, "unknown": 1}, PAYLOADS[member])) == payload


@pytest.mark.parametrize("member", [member for member in EventType if member is not EventType.PERFORMANCE_METRIC])
def test_no_field_is_required_where_the_event_says_something_without_it(member):
    msgspec.convert({}, PAYLOADS[member])

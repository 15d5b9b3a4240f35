"""Kinds of fields: what a part keeps, and that joins do not depend on the order of parts."""

from __future__ import annotations

from functools import reduce
from itertools import count

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallyroll.events.names import OTHER_NAME
from tallyroll.replay import by_name, open_set
from tallyroll.replay.by_name import CountBy, CountTypes, LastBy, LastSeen, SummaryBy
from tallyroll.replay.fields import COUNT, INT_MAX, LAST, SUM, Count, Field, First, Last, Max, Min, Place, Sum, Value
from tallyroll.replay.fold import check_canonical
from tallyroll.replay.open_set import OpenSet
from tallyroll.replay.values import named, split_named

GIVEN = Value("given", (), lambda facts, _head, _time_us: facts)
NAMED = Value("named", (), lambda facts, _head, _time_us: None if facts is None else named(f"n{facts % 3}", str(facts)))
KINDS = {
    "count": Count(("up",)),
    "sum": Sum(("up",), GIVEN),
    "min": Min(("up",), GIVEN),
    "max": Max(("up",), GIVEN),
    "last": Last({"up": GIVEN}),
    "first": First({"up": GIVEN}),
    "count_by": CountBy(("up",), Value("name", (), lambda facts, _head, _time_us: None if facts is None else f"n{facts % 5}")),
    "open_set": OpenSet(Value("id", (), lambda facts, _head, _time_us: None if facts is None else f"t{facts % 5}"), ("up",), ("down",)),
    "count_types": CountTypes(("up", "down")),
    "last_by": LastBy(("up",), NAMED),
    "summary_by": SummaryBy(("up",), NAMED),
    "last_seen": LastSeen({"up": "UP", "down": "DOWN"}),
}

EVENTS = st.lists(st.tuples(st.sampled_from(["up", "down"]), st.none() | st.integers(-9, 9), st.integers(0, 5)), max_size=12)


def slot_of(field: Field, events: list[tuple[str, int | None, int]], *, read_back: int | None = None) -> object:
    """What a part keeps after these (type, value, order_us), offsets from 0; the order never falls inside a part.

    ``read_back``: before which of them the slot was kept, and read from there.
    """
    slots, high = [field.start()], 0
    for offset, (kind, given_value, order_us) in enumerate([*events, ("none", None, 0)]):
        if offset == read_back:
            slots = [kept(field, slots[0])]
        high = max(high, order_us)
        step = field.step(kind)
        if step is None:
            continue
        value = step[0].get(given_value, None, high)
        if step[1] == COUNT:
            slots[0] += 1
        elif step[1] == SUM:
            slots[0] += value or 0
        elif step[1] == LAST:
            slots[0] = slots[0] if value is None else (high, offset, value)
        else:
            step[1](slots, 0, value, high, offset)
    return slots[0]


def kept(field: Field, slot: object) -> object:
    return msgspec.json.decode(msgspec.json.encode(slot), type=field.kept)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60)
@given(parts=st.lists(st.tuples(EVENTS, st.integers(0, 12)), min_size=1, max_size=4))
def test_a_slot_that_was_kept_goes_on_as_any_other(kind: str, parts: list) -> None:
    field, places = KINDS[kind], [Place("t", number) for number in range(len(parts))]
    slots = [slot_of(field, events) for events, _ in parts]
    others = [slot_of(field, events, read_back=min(at, len(events))) for events, at in parts]
    assert [msgspec.json.encode(slot) for slot in others] == [msgspec.json.encode(slot) for slot in slots]
    settled = field.settle(slots, places)
    assert field.settle(others, places) == field.settle([kept(field, slot) for slot in slots], places) == settled
    assert field.show(reduce(field.join, map(field.lift, others, places))) == settled
    assert field.alone(kept(field, slots[0]), places[0]) == field.settle(slots[:1], places[:1])


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60)
@given(parts=st.lists(EVENTS, min_size=1, max_size=4), seed=st.randoms(use_true_random=False))
def test_joins_are_commutative_and_associative(kind: str, parts: list, seed: object) -> None:
    field = KINDS[kind]
    lifted = [field.lift(slot_of(field, events), Place("t", number)) for number, events in enumerate(parts)]
    left = reduce(field.join, lifted)
    right = reduce(lambda a, b: field.join(b, a), reversed(lifted))
    seed.shuffle(lifted)
    assert field.show(left) == field.show(right) == field.show(reduce(field.join, lifted))
    assert left == right


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60)
@given(parts=st.lists(EVENTS, min_size=1, max_size=4))
def test_a_field_settles_at_what_its_joins_show(kind: str, parts: list) -> None:
    field, places = KINDS[kind], [Place("t", number) for number in range(len(parts))]
    slots = [slot_of(field, events) for events in parts]
    assert field.settle(slots, places) == field.show(reduce(field.join, map(field.lift, slots, places)))
    for slot, place in zip(slots, places, strict=True):
        before = msgspec.json.encode(slot)
        alone = field.alone(slot, place)
        assert alone == field.settle([slot], [place])
        if isinstance(alone, list | dict):
            alone.clear()
        assert msgspec.json.encode(slot) == before, "who changes the state changes the part"


@settings(max_examples=100)
@given(parts=st.lists(EVENTS, min_size=1, max_size=4))
def test_last_and_first_are_decided_by_the_order_key(parts: list) -> None:
    keyed = []
    for number, events in enumerate(parts):
        high = 0
        for offset, (kind, value, order_us) in enumerate(events):
            high = max(high, order_us)
            if kind == "up" and value is not None:
                keyed.append(((high, "t", number, offset), value))
    for name, choose in (("last", max), ("first", min)):
        field = KINDS[name]
        joined = reduce(field.join, [field.lift(slot_of(field, events), Place("t", number)) for number, events in enumerate(parts)])
        assert field.show(joined) == (choose(keyed)[1] if keyed else None)


def test_an_end_closes_a_start_that_lies_in_another_part() -> None:
    field = KINDS["open_set"]
    start = field.lift(slot_of(field, [("up", 1, 3)]), Place("a", 0))
    end = field.lift(slot_of(field, [("down", 1, 4)]), Place("b", 0))
    before = field.lift(slot_of(field, [("down", 1, 2)]), Place("b", 0))
    assert field.show(field.join(start, end)) == []
    assert field.show(field.join(start, before)) == ["t1"]


def test_an_open_set_remembers_so_many_ends_and_no_more() -> None:
    field, slots = KINDS["open_set"], [[{}, {}, {}]]
    for number in range(3_000):
        field.close(slots, 0, f"elsewhere{number}", 1, number)
        field.open(slots, 0, f"here{number}", 1, number)
        field.close(slots, 0, f"here{number}", 1, number)
    opened, here, elsewhere = slots[0]
    assert (len(opened), len(here), len(elsewhere)) == (0, open_set.CLOSED_HERE, open_set.CLOSED_ELSEWHERE)
    assert "elsewhere2999" in elsewhere
    assert "elsewhere0" not in elsewhere


def test_open_ids_of_a_part_are_bounded() -> None:
    field, slots, numbers = KINDS["open_set"], [[{}, {}, {}]], count()
    for number in range(open_set.MAX_OPEN + 5):
        field.open(slots, 0, f"t{number}", 1, next(numbers))
    assert len(slots[0][0]) == open_set.MAX_OPEN
    assert "t0" not in slots[0][0]


def test_names_beyond_the_bound_count_as_other() -> None:
    slots = [{}]
    for number in range(by_name.MAX_NAMES + 5):
        CountBy.update(slots, 0, f"n{number}", 1, number)
    assert slots[0][OTHER_NAME] == 5
    assert len(slots[0]) == by_name.MAX_NAMES + 1
    CountBy.update(slots, 0, "n0", 1, 0)
    assert slots[0]["n0"] == 2


@given(st.text(), st.text())
def test_a_name_and_its_text_come_apart_again(name: str, text: str) -> None:
    assert split_named(named(name, text)) == (name, text)


@settings(max_examples=100)
@given(parts=st.lists(EVENTS, min_size=1, max_size=4))
def test_a_summary_is_what_the_numbers_say(parts: list) -> None:
    numbers: dict[str, list[int]] = {}
    for events in parts:
        for kind, value, _ in events:
            if kind == "up" and value is not None:
                numbers.setdefault(f"n{value % 3}", []).append(value)
    field = KINDS["summary_by"]
    joined = reduce(field.join, [field.lift(slot_of(field, events), Place("t", number)) for number, events in enumerate(parts)])
    assert joined == {name: [len(some), sum(some), min(some), max(some)] for name, some in numbers.items()}


@settings(max_examples=100)
@given(parts=st.lists(EVENTS, min_size=1, max_size=4))
def test_what_was_seen_last_is_decided_by_the_order_key_and_says_where_it_lies(parts: list) -> None:
    newest: dict[str, tuple] = {}
    for number, events in enumerate(parts):
        high = 0
        for offset, (kind, _, order_us) in enumerate(events):
            high = max(high, order_us)
            newest[kind.upper()] = max(newest.get(kind.upper(), ()), (high, "t", number, offset))
    field = KINDS["last_seen"]
    joined = reduce(field.join, [field.lift(slot_of(field, events), Place("t", number)) for number, events in enumerate(parts)])
    assert {name: where for name, (where, _) in field.show(joined).items()} == {
        name: f"{topic}/{partition}/{offset}" for name, (_, topic, partition, offset) in newest.items()
    }


def test_a_sum_beyond_64_bits_is_kept_and_not_shown() -> None:
    field, slots = KINDS["summary_by"], [{}]
    for number in (INT_MAX, 1):
        field.update(slots, 0, named("m", str(number)), 1, 0)
    (lifted,) = (field.lift(slot, Place("t", 0)) for slot in slots)
    shown = field.show(lifted)
    assert shown == {"m": [2, None, 1, INT_MAX]}
    check_canonical(shown)
    assert field.show(field.join(lifted, {"m": [1, -1, -1, -1]})) == {"m": [3, INT_MAX, -1, INT_MAX]}


def test_names_beyond_the_bound_share_one_place() -> None:
    slots: list = [{}, {}]
    for number in range(by_name.MAX_NAMES + 5):
        LastBy.update(slots, 0, named(f"n{number}", "x"), 1, number)
        SummaryBy.update(slots, 1, named(f"n{number}", "2"), 1, number)
    assert (len(slots[0]), len(slots[1])) == (by_name.MAX_NAMES + 1, by_name.MAX_NAMES + 1)
    assert slots[0][OTHER_NAME] == (1, by_name.MAX_NAMES + 4, "x")
    assert slots[1][OTHER_NAME] == [5, 10, 2, 2]


def test_an_id_of_any_text_is_found_among_the_kept() -> None:
    field, names = KINDS["open_set"], ["plain", 'a "b"', "back\\slash", "ü 漢 🙂", "tab\t", ""]
    opened, closed = ([{}, {}, {}] for _ in range(2))
    for name in names:
        field.open([opened], 0, name, 1, 0)
        field.close([closed], 0, name, 2, 0)
        assert field.settle([[{name: (1, 0)}, {}, {}], kept(field, closed)], [Place("t", 0), Place("t", 1)]) == []
    assert field.settle([kept(field, opened), [{}, {}, {}]], [Place("t", 0), Place("t", 1)]) == sorted(names)
    assert field.settle([kept(field, opened), kept(field, closed)], [Place("t", 0), Place("t", 1)]) == []

"""Sequence numbers of aggregates: what is found does not depend on how records come in batches."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tallyroll.events.batch import Batch
from tallyroll.replay.findings import SequenceCheck

DOCUMENT = (
    '{"specversion":"1.0","id":"%s","source":"s","type":"task.started","aggregatetype":"task","aggregateid":"%s",'
    '"sequence":"%s","chainsession":"%s","chainnumber":"1"}'
)


def record(event_id: object, number: object, aggregate: str = "t", session: str = "s") -> bytes:
    return (DOCUMENT % (event_id, aggregate, number, session)).encode()


def batch(values: list[bytes], first: int = 0) -> Batch:
    count = len(values)
    return Batch("t", 0, offsets=range(first, first + count), keys=[None] * count, values=values, timestamps_ms=[0] * count)


def found(*batches: Batch) -> list[tuple[str, int, int]]:
    check = SequenceCheck("t", 0)
    for one in batches:
        check.read(one)
    return [(finding.kind, finding.position.offset, finding.missing) for finding in check.findings()]


def test_numbers_in_order_are_fine_from_wherever_they_begin() -> None:
    assert found(batch([record(n, n) for n in range(41, 60)])) == []


def test_a_jump_is_a_gap_until_the_missing_number_comes() -> None:
    values = [record("a", 1), record("d", 4), record("b", 2)]
    assert found(batch(values[:2])) == [("gap", 1, 2)]
    assert found(batch(values)) == [("gap", 1, 1)]
    assert found(batch([*values, record("c", 3)])) == []


def test_a_number_of_another_event_is_a_fork_and_the_same_event_again_is_none() -> None:
    assert found(batch([record("a", 1), record("b", 2), record("b", 2), record("x", 2)])) == [("fork", 3, 0)]


def test_an_aggregate_that_is_counted_anew_begins_a_run_and_the_gaps_of_the_last_remain() -> None:
    assert found(batch([record("a", 1), record("c", 3), record("d", 1), record("e", 2)])) == [("gap", 1, 1)]


def test_copies_and_records_without_a_number_are_passed_over() -> None:
    check = SequenceCheck("t", 0)
    check.read(batch([record("a", 1), record("b", 7), b"{", record("c", ""), record("d", "x"), record("e", 9, session="")]), {1})
    assert check.findings() == []


RECORDS = st.lists(st.builds(record, st.integers(0, 30), st.integers(0, 12), st.sampled_from("tu"), st.sampled_from("rs")), min_size=1)


@given(RECORDS, st.integers(1, 7))
def test_the_same_is_found_in_any_batches(values: list[bytes], size: int) -> None:
    batches = [batch(values[start : start + size], start) for start in range(0, len(values), size)]
    assert found(*batches) == found(batch(values))


NUMBERED = st.tuples(
    st.integers(0, 30).map(str),
    st.integers(0, 12).map(str) | st.sampled_from(["00", "01", "07", "x", "", "-1", "1" * 19]),
    st.sampled_from("tu"),
    st.sampled_from(["r", "s", ""]),
)


def plainly(records: list[tuple[str, str, str, str]]) -> list[tuple[str, int, int]]:
    """What a reader finds who reads every number and keeps every id: kind, offset, how many are missing."""
    runs: dict[tuple[str, str], tuple[list[str], dict[int, int]]] = {}
    highs: dict[tuple[str, str], int] = {}
    found, ended = [], list[dict[int, int]]()
    for offset, (event_id, digits, aggregate, session) in enumerate(records):
        if not digits.isdecimal() or len(digits) > 18 or not session:
            continue
        number, key = int(digits), (session, aggregate)
        ids, missing = runs.setdefault(key, ([], {}))
        if event_id in ids[-8:]:
            continue
        if not ids or number == 1:
            ended.append(missing)
            runs[key], highs[key] = ([event_id], {}), number
            continue
        ids.append(event_id)
        if number > highs[key]:
            missing.update(dict.fromkeys(range(highs[key] + 1, number), offset))
            highs[key] = number
        elif missing.pop(number, None) is None:
            found.append(("fork", offset, 0))
    for missing in [*ended, *(missing for _, missing in runs.values())]:
        found += [("gap", offset, list(missing.values()).count(offset)) for offset in set(missing.values())]
    return sorted(found, key=lambda one: (one[1], one[0]))


@given(st.lists(NUMBERED, min_size=1, max_size=60), st.integers(0, 60))
def test_what_is_found_is_what_reading_every_number_finds(records: list[tuple[str, str, str, str]], at: int) -> None:
    values = [record(event_id, digits, aggregate, session) for event_id, digits, aggregate, session in records]
    first, then, check = values[:at], values[at:], SequenceCheck("t", 0)
    if first:
        check.read(batch(first))
    check = SequenceCheck.load("t", 0, check.dump()) if not check.findings() else check
    if then:
        check.read(batch(then, len(first)))
    told = [(finding.kind, finding.position.offset, finding.missing) for finding in check.findings()]
    assert sorted(told, key=lambda one: (one[1], one[0])) == plainly(records)

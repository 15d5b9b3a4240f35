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

"""The history checker on histories made by hand: for each check one that it must find, and one that it must not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallyroll.testing.checker import CHECKS, check
from tallyroll.testing.history import Assign, End, Fail, Info, Invoke, Ok, Poll, Read, dump, load

P = "task-events/0"


def sent(*ids, key="k", process="p", transaction=None):
    return [Invoke(process, event, key, transaction) for event in ids]


def poll(*records, process="c"):
    return Poll(process, [Read(P, offset, event) for offset, event in records])


GOOD = {
    "aborted read": [*sent("a", "b"), Fail("a"), Ok("b", P, 0), poll((0, "b"))],
    "inconsistent offset": [*sent("a", "b"), Ok("a", P, 0), Ok("b", P, 1), poll((0, "a"), (1, "b")), poll((0, "a"), process="d")],
    "lost": [*sent("a", "b"), Ok("a", P, 0), Info("b"), poll((0, "a"))],
    "duplicate": [*sent("a"), Ok("a", P, 0), poll((0, "a")), Assign("c", [P]), poll((0, "a"))],
    "poll": [*sent("a", "b", "c"), poll((0, "a")), poll((5, "c")), Assign("c", [P]), poll((0, "a"))],
    "order": [*sent("a", "b"), *sent("x", key="other"), poll((0, "x"), (1, "a"), (2, "b"), (3, "a"))],
    "transaction": [*sent("a", "b", transaction="t"), Ok("a", P, 0), Ok("b", P, 1), End("t", committed=True), poll((0, "a"), (1, "b"))],
    "unseen": [*sent("a", "b"), Ok("a", P, 0), Info("b"), poll((0, "a"))],
}
BAD = {
    "aborted read": [*sent("a"), Fail("a"), poll((0, "a"))],
    "inconsistent offset": [*sent("a", "b"), Ok("a", P, 0), poll((0, "a")), poll((0, "b"), process="d")],
    "lost": [*sent("a", "b"), Ok("a", P, 0), Ok("b", P, 1), poll((1, "b"))],
    "duplicate": [*sent("a"), Ok("a", P, 0), poll((0, "a"), (1, "a"))],
    "poll": [*sent("a", "b"), poll((0, "a"), (1, "b")), poll((0, "a"))],
    "order": [*sent("a", "b"), poll((0, "b"), (1, "a"))],
    "transaction": [*sent("a", transaction="t"), poll((0, "a")), End("t", committed=True)],
    "unseen": [*sent("a"), Ok("a", P, 0)],
}


@pytest.mark.parametrize("name", CHECKS)
def test_a_good_history_is_clean(name):
    report = check(GOOD[name], repeats_allowed=name == "order")
    assert report.clean, str(report)


@pytest.mark.parametrize("name", CHECKS)
def test_a_bad_history_is_found_by_its_check(name):
    assert check(BAD[name]).of(name)


@pytest.mark.parametrize("name", [name for name in CHECKS if name != "lost"])  # what is lost is unseen too
def test_a_bad_history_is_found_by_no_other_check(name):
    assert {finding.check for finding in check(BAD[name], repeats_allowed=name == "order").findings} == {name}


def test_two_readers_that_saw_different_events_at_one_offset_are_found():
    assert check([*sent("a", "b"), poll((0, "a")), poll((0, "b"), process="d")]).of("inconsistent offset")


def test_a_reader_that_skipped_what_another_one_saw_is_found():
    history = [*sent("a", "b", "c"), poll((0, "a"), (1, "b"), (2, "c")), poll((0, "a"), process="d"), poll((2, "c"), process="d")]
    assert [finding.id for finding in check(history).of("poll")] == ["c"]


def test_holes_that_nobody_saw_a_record_in_are_no_skip():
    assert not check([*sent("a", "b"), poll((0, "a"), (7, "b"))]).of("poll")


def test_an_aborted_transaction_that_was_read_is_found():
    assert check([*sent("a", transaction="t"), End("t", committed=False), poll((0, "a"))]).of("transaction")


def test_a_committed_transaction_that_was_read_in_part_is_found():
    history = [*sent("a", "b", transaction="t"), Ok("a", P, 0), Ok("b", P, 1), End("t", committed=True), poll((1, "b"))]
    assert [finding.id for finding in check(history).of("transaction")] == ["a"]


def test_repeats_are_no_finding_where_they_are_allowed():
    assert check(BAD["duplicate"], repeats_allowed=True).clean


def test_order_is_judged_by_first_copies():
    assert check([*sent("a", "b"), poll((0, "a"), (1, "b"), (2, "a"))], repeats_allowed=True).clean
    assert check([*sent("a", "b"), poll((0, "b"), (1, "a"), (2, "b"))], repeats_allowed=True).of("order")


def test_other_senders_and_keys_have_no_order_among_each_other():
    history = [*sent("a"), *sent("b", key="other"), *sent("c", process="q"), poll((0, "c"), (1, "b"), (2, "a"))]
    assert check(history).clean


def test_unseen_counts_only_once_the_readers_are_done():
    assert check(BAD["unseen"], settled=False).clean


def test_the_report_names_checks_events_and_sums():
    text = str(check(BAD["lost"]))
    assert text.splitlines()[0] == "2 sent: 2 acknowledged, 0 failed, 0 unknown; 1 records read"
    assert "lost: 1\n  a: acknowledged at task-events/0/0, read up to 1, never seen" in text


def test_a_clean_report_says_so():
    assert str(check([])).endswith("clean")


IDS = st.sampled_from("abcd")
OFFSETS = st.integers(0, 5)
ENTRIES = st.one_of(
    st.builds(Invoke, st.sampled_from("pq"), IDS, st.sampled_from("kl"), st.none() | st.sampled_from("tu")),
    st.builds(Ok, IDS, st.just(P), OFFSETS),
    st.builds(Fail, IDS),
    st.builds(Info, IDS),
    st.builds(Poll, st.sampled_from("cd"), st.lists(st.builds(Read, st.just(P), OFFSETS, IDS), max_size=4)),
    st.builds(Assign, st.sampled_from("cd"), st.just([P])),
    st.builds(End, st.sampled_from("tu"), st.booleans()),
)


@given(st.lists(ENTRIES))
def test_any_history_gets_a_report(entries):
    report = check(entries)
    assert report.clean == (not report.findings)
    assert str(report)


@given(st.lists(ENTRIES))
def test_a_history_survives_being_written_and_read(entries):
    assert load(dump(entries)) == entries


def test_a_last_line_that_was_cut_off_is_left_out():
    assert load(dump(sent("a", "b"))[:-5]) == sent("a")


def test_any_other_line_that_is_no_entry_is_refused():
    with pytest.raises(ValueError, match="line 1"):
        load(b'{"type":"nothing"}\n' + dump(sent("a")))

from __future__ import annotations

import hashlib
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallyroll.events.chain import GENESIS, MAX_MISSING, MAX_SESSIONS, Chain, ChainChecker
from tallyroll.events.codec import Head, decode_head
from tallyroll.events.links import Told
from tallyroll.events.repeats import Counting, RepeatFilter, RepeatState

BODY = '{"specversion":"1.0","id":"%s","source":"s","type":"task.started","aggregatetype":"task","aggregateid":"t"}'


def body(name: object) -> bytes:
    return (BODY % name).encode()


def history(records: int, session: str = "s") -> list[bytes]:
    chain = Chain(session)
    return [chain.link(body(f"{session}-{number}"), number) for number in range(records)]


def checked(values: list[bytes], *, from_start: bool = True) -> tuple[ChainChecker, list[str]]:
    """The checker after reading, and every kind of finding: those of the records, then the open gaps."""
    checker = ChainChecker(from_start=from_start)
    found = [checker.feed(offset, value, decode_head(value).link()) for offset, value in enumerate(values)]
    for piece in (1, 3, len(values) or 1):  # together they are the same as one by one
        together, told = ChainChecker(from_start=from_start), []
        for at in range(0, len(values), piece):
            some = values[at : at + piece]
            told += [one for _, one in together.feed_all(range(at, at + len(some)), some, [*map(decode_head, some)])]
        assert told == [*filter(None, found)]
        assert (together.dump(), together.linked, together.repeats) == (checker.dump(), checker.linked, checker.repeats)
    return checker, [finding.kind for finding in [*filter(None, found), *checker.open_gaps()]]


LENGTHS = st.integers(2, 12)


def test_a_record_carries_the_hash_of_the_bytes_before_it():
    first, second = history(2)
    assert decode_head(first).link() == ("s", 1, GENESIS, "")
    assert decode_head(second).link() == ("s", 2, hashlib.sha256(first).hexdigest(), "")


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=30))
def test_a_good_history_of_interleaved_sessions_verifies(turns):
    chains = {name: Chain(name) for name in "abc"}
    values = [chains[name].link(body(index), index) for index, name in enumerate(turns)]
    checker, findings = checked(values)
    assert findings == []
    assert (checker.linked, checker.repeats, checker.unlinked, checker.sessions) == (len(turns), 0, 0, len(set(turns)))


@given(LENGTHS, st.data())
def test_a_dropped_record_is_a_gap_with_its_number_and_where_it_showed(length, data):
    values = history(length)
    at = data.draw(st.integers(0, length - 2))
    del values[at]
    checker, findings = checked(values)
    assert findings == ["gap"]
    assert checker.open_gaps()[0][1:] == (at, "s", at + 1)


@given(LENGTHS, st.data())
def test_an_altered_record_is_found_at_the_next_one(length, data):
    values = history(length)
    at = data.draw(st.integers(0, length - 2))
    values[at] = values[at].replace(b"task.started", b"task.stopped")
    checker = ChainChecker()
    found = [checker.feed(offset, value, decode_head(value).link()) for offset, value in enumerate(values)]
    assert [(finding.kind, finding.offset) for finding in found if finding] == [("altered", at + 1)]


@given(LENGTHS, st.data())
def test_two_records_that_changed_places_are_found(length, data):
    values = history(length)
    one, two = sorted(data.draw(st.lists(st.integers(0, length - 1), min_size=2, max_size=2, unique=True)))
    values[one], values[two] = values[two], values[one]
    _, findings = checked(values)
    assert "reordered" in findings


@given(LENGTHS, st.data())
def test_a_forged_record_in_place_of_the_next_one_is_found_whichever_comes_first(length, data):
    values = history(length)
    at = data.draw(st.integers(0, length - 1))
    forged = values[at].replace(b"task.started", b"task.stopped")
    for where in (at, at + 1):
        _, findings = checked([*values[:where], forged, *values[where:]])
        assert "altered" in findings


@given(LENGTHS)
def test_a_forged_record_that_runs_ahead_leaves_a_gap(length):
    forged = history(length + 2)[-1].replace(b"task.started", b"task.stopped")
    _, findings = checked([*history(length), forged])
    assert findings == ["gap"]


def test_an_inserted_record_without_a_link_is_counted():
    values = history(3)
    checker, findings = checked([values[0], body("x"), *values[1:]])
    assert findings == []
    assert checker.unlinked == 1


@given(LENGTHS, st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=12))
def test_repeats_are_counted_and_not_reported(length, again):
    values = history(length)
    copies = [[value] for value in values]
    repeated = [(min(first, later), max(first, later)) for first, later in again if max(first, later) < length]
    for first, later in repeated:
        copies[later].append(values[first])
    checker, findings = checked([value for group in copies for value in group])
    assert findings == []
    assert checker.repeats == len(repeated)


def test_a_late_record_closes_its_gap_and_is_reported_as_reordered():
    one, two, three, four = history(4)
    checker, findings = checked([one, three, four, two])
    assert findings == ["reordered"]
    assert checker.linked == 4


def refused_then_continued(*, say_so: bool) -> list[bytes]:
    chain = Chain("a")
    values = [chain.link(body(number), number) for number in range(2)]
    chain.link(body("refused"), 2)
    values.append(chain.link(body("after"), 3))
    if say_so:
        chain.void("a", 3, "b")
    else:
        chain = Chain("b")
    return [*values, chain.link(body("next"), 4)]


def test_a_void_justifies_the_gap_of_a_refused_record():
    assert checked(refused_then_continued(say_so=True))[1] == []


def test_without_a_void_the_refused_record_is_a_gap():
    assert checked(refused_then_continued(say_so=False))[1] == ["gap"]


def test_several_refusals_are_named_by_one_new_session():
    chain = Chain("a")
    values = [chain.link(body(number), number) for number in range(4)]
    chain.void("a", 2, "b")
    chain.void("a", 3, "c")
    assert chain.session == "b"
    values = [values[0], values[3], chain.link(body("next"), 4)]
    assert decode_head(values[-1]).link().voids == "a/2,a/3"
    assert checked(values)[1] == []


def test_the_voids_of_a_record_that_was_refused_itself_are_said_again():
    chain = Chain("a")
    values = [chain.link(body(number), number) for number in range(3)]
    chain.void("a", 2, "b")
    chain.link(body("refused too"), 3)
    chain.void("b", 1, "c")
    values = [values[0], values[2], chain.link(body("next"), 4)]
    assert decode_head(values[-1]).link() == ("c", 1, GENESIS, "a/2,b/1")
    assert checked(values)[1] == []


def test_voids_are_said_once():
    chain = Chain("a")
    chain.link(body(0), 0)
    chain.void("a", 1, "b")
    assert [bool(decode_head(chain.link(body(number), number)).link().voids) for number in range(3)] == [True, False, False]


@pytest.mark.parametrize("voids", ["", "/", ",", "a", "a/", "a/x", "a/²", "a/" + "9" * 5_000, "a/2,,/"])
def test_malformed_voids_are_ignored(voids):
    value = history(1)[0]
    checker = ChainChecker()
    assert checker.feed(0, value, decode_head(value).link()._replace(voids=voids)) is None


def test_after_retention_a_session_may_begin_in_its_middle():
    rest = history(9)[5:]
    assert checked(rest, from_start=False)[1] == []
    assert checked(rest, from_start=True)[1] == ["gap"] * 5
    assert checked([rest[0], rest[2]], from_start=False)[1] == ["gap"]


def test_the_gaps_of_a_forgotten_session_are_still_reported():
    one, _, three = history(3, "old")
    checker, findings = checked([one, three, *(history(1, f"new-{number}")[0] for number in range(MAX_SESSIONS))])
    assert findings == ["gap"]
    assert checker.sessions == MAX_SESSIONS


def test_a_number_far_ahead_costs_bounded_memory():
    value = history(1)[0]
    checker = ChainChecker()
    checker.feed(0, value, decode_head(value).link()._replace(number=10**17))
    assert len(checker.open_gaps()) == MAX_MISSING


ARRIVALS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 12)), max_size=60)


def firsts(arrivals):
    seen: set = set()
    return [not (one in seen or seen.add(one)) for one in arrivals]


@given(ARRIVALS)
def test_in_any_order_with_any_repeats_exactly_the_first_copies_are_kept(arrivals):
    repeats = RepeatFilter()
    assert [repeats.is_first(*one) for one in arrivals] == firsts(arrivals)


@given(ARRIVALS, st.integers(0, 60))
def test_dumping_and_loading_in_mid_stream_changes_no_decision(arrivals, at):
    repeats = RepeatFilter()
    before = [repeats.is_first(*one) for one in arrivals[:at]]
    loaded = RepeatFilter.from_bytes(repeats.to_bytes())
    assert before + [loaded.is_first(*one) for one in arrivals[at:]] == firsts(arrivals)


@settings(max_examples=30)
@given(st.lists(st.integers(1, 3 * MAX_MISSING), max_size=40))
def test_no_copy_counts_twice_however_far_numbers_jump(numbers):
    repeats = RepeatFilter()
    kept = [number for number in numbers if repeats.is_first("s", number)]
    assert len(kept) == len(set(kept))


def test_a_late_missing_number_is_accepted_once():
    repeats = RepeatFilter()
    assert [repeats.is_first("s", number) for number in (1, 3, 2, 2, 3, 1, 4)] == [True, True, True, False, False, False, True]


def test_the_first_record_of_a_session_may_come_after_its_second():
    repeats = RepeatFilter()
    assert [repeats.is_first("s", number) for number in (2, 1, 1)] == [True, True, False]


def test_a_session_met_far_in_its_middle_misses_nothing():
    repeats = RepeatFilter()
    assert repeats.is_first("s", 50_000)
    assert repeats.dump() == RepeatState([("s", 50_000, [])], [])


def test_a_session_that_goes_on_writing_is_not_forgotten():
    repeats = RepeatFilter()
    numbers = count(1)
    for other in range(2 * MAX_SESSIONS):
        repeats.is_first("busy", last := next(numbers))
        repeats.is_first(f"other-{other}", 1)
    assert not repeats.is_first("busy", last)
    assert len(repeats.dump().sessions) == MAX_SESSIONS


def test_missing_numbers_are_bounded():
    repeats = RepeatFilter()
    for number in (1, 10**6, 10**9):
        repeats.is_first("s", number)
    [(_, _, missing)] = repeats.dump().sessions
    assert len(missing) == MAX_MISSING
    assert max(missing) == 10**9 - 1


def test_an_id_is_a_duplicate_among_the_last_256_records_only():
    repeats = RepeatFilter()
    assert not repeats.is_duplicate("twice")
    assert repeats.is_duplicate("twice")
    for number in range(256):
        assert not repeats.is_duplicate(f"other-{number}")
    assert not repeats.is_duplicate("twice")


def test_recent_ids_survive_a_restart():
    repeats = RepeatFilter()
    repeats.is_duplicate("twice")
    assert RepeatFilter.load(repeats.dump()).is_duplicate("twice")
    assert not RepeatFilter().is_duplicate("twice")


def test_what_was_kept_before_there_were_versions_is_read():
    assert RepeatFilter.from_bytes(b'[[["s",7,[3]]],["one"]]').dump() == RepeatState([("s", 7, [3])], ["one"])
    assert RepeatFilter.from_bytes(b"").dump() == RepeatState([], [])


HEADS = st.lists(
    st.builds(
        Head,
        specversion=st.just("1.0"),
        id=st.integers(1, 400).map(str),
        source=st.just("s"),
        type=st.just("t"),
        chainsession=st.sampled_from(["", "a", "b"]),
        aggregatetype=st.just("task"),
        aggregateid=st.sampled_from("tu"),
        expects=st.just("") | st.builds("0/{}".format, st.integers(0, 150)),
        chainnumber=st.integers(1, 40).map(str) | st.sampled_from(["", "0", "x", "007", "9" * 19, "\N{ARABIC-INDIC DIGIT THREE}"]),
    ),
    max_size=120,
)
STEADY = st.integers(0, 700).map(
    lambda count: [
        Head(specversion="1.0", id=str(n % 600), source="s", type="t", chainsession="a", chainnumber=str(n + 1)) for n in range(count)
    ]
)


@given(HEADS | STEADY, st.integers(1, 500))
def test_batches_are_judged_as_their_records_one_by_one(heads, size):
    alone, together, expected, found = RepeatFilter(), RepeatFilter(), {}, {}
    for index, head in enumerate(heads):
        link = head.link()
        if link is not None and not alone.is_first(link.session, link.number):
            expected[index] = "repeat"
        elif alone.is_duplicate(head.id):
            expected[index] = "duplicate"
        elif head.expects and not alone.wins(head, index + index // 7):
            expected[index] = "conflict"
    offsets = [index + index // 7 for index in range(len(heads))]  # with holes
    for start in range(0, len(heads), size):
        part = slice(start, start + size)
        found |= {start + index: kind for index, kind in together.copies(heads[part], offsets[part]).items()}
    assert found == expected
    assert together.dump() == alone.dump()


def runs_of(heads: list[Head]) -> list[tuple[str, int, int]]:
    """Sessions with the numbers that follow each other."""
    runs: list[tuple[str, int, int]] = []
    for head in heads:
        number = int(head.chainnumber) if head.chainnumber.isascii() and head.chainnumber.isdecimal() else 0
        if runs and runs[-1][0] == head.chainsession and sum(runs[-1][1:]) == number:
            runs[-1] = (*runs[-1][:2], runs[-1][2] + 1)
        else:
            runs.append((head.chainsession, number, 1))
    return runs


def prints_of(heads: list[Head]) -> list[int]:
    """Numbers that are the same for some ids that differ."""
    return [int(head.id) % 397 if int(head.id) > 350 else -int(head.id) for head in heads]


ORDERLY = st.lists(st.tuples(st.sampled_from(["", "a", "b", "c"]), st.integers(1, 30)), max_size=20).map(
    lambda turns: [
        Head(specversion="1.0", id=str(place), source="s", type="t", chainsession=session, chainnumber=str(number))
        for place, (session, number) in enumerate(
            (session, sum(length for name, length in turns[:turn] if name == session) + at)
            for turn, (session, length) in enumerate(turns)
            for at in range(1, length + 1)
        )
    ]
)


@given(ORDERLY | HEADS.map(lambda heads: [head for head in heads if not head.expects]) | STEADY, st.integers(1, 500), st.booleans())
def test_a_batch_in_which_all_count_is_known_by_its_runs(heads, size, tells):
    usual, other = RepeatFilter(), RepeatFilter()
    for start in range(0, len(heads), size):
        some = heads[start : start + size]
        before = usual.dump()
        copies = other.copies(some, range(start, start + len(some)))
        prints = prints_of(some)
        distinct = len({*prints, *usual.recent_prints}) == len(prints) + len(usual.recent_prints)
        if usual.all_count(runs_of(some), [head.id for head in some], prints, distinct=distinct and tells):
            assert copies == {}
        else:
            assert usual.dump() == before, "nothing is remembered of what is to be judged again"
            usual.copies(some, range(start, start + len(some)))
        assert usual.dump() == other.dump()


@given(ORDERLY | HEADS | STEADY, st.integers(1, 500))
def test_heads_that_were_looked_at_for_several_filters_are_judged_as_for_one(heads, size):
    one, other = RepeatFilter(), RepeatFilter()
    for start in range(0, len(heads), size):
        some = heads[start : start + size]
        offsets = range(start, start + len(some))
        assert one.copies_among(Counting.of(Told.by(some)), offsets) == other.copies(some, offsets)
        assert one.dump() == other.dump()


@given(ORDERLY)
def test_what_is_in_order_is_never_judged_twice(heads):
    assert RepeatFilter().all_count(runs_of(heads), [head.id for head in heads], prints_of(heads))


def test_where_a_session_has_to_go_the_order_decides():
    full, whole = RepeatFilter(), RepeatFilter()
    for repeats in (full, whole):
        for number in range(MAX_SESSIONS):
            assert repeats.is_first(f"s{number}", 1)
    assert not full.all_count([("new", 1, 1), ("s0", 2, 1)], ["x", "y"], [1, 2])
    assert not whole.is_first("s1", 1)

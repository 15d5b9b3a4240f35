"""Which of the events that expected a version count: the log's order decides, and every reader finds the same."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallyroll.events.expected import WINDOW, Contest, Expected

RECORDS = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 40), st.integers(1, WINDOW // 2)), max_size=40)


def plainly(records: list[tuple[str, int, int]]) -> list[bool]:
    """The rule as it is written down, over the whole history."""
    won: list[tuple[str, int]] = []
    found = []
    for aggregate, as_of, offset in records:
        wins = 0 <= offset - as_of <= WINDOW and not any(name == aggregate and lies >= as_of for name, lies in won)
        found.append(wins)
        if wins:
            won.append((aggregate, offset))
    return found


def placed(drawn: list[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """Records at rising offsets, their authors some way behind."""
    offset, records = 0, []
    for aggregate, behind, step in drawn:
        offset += step if behind > 30 else behind + 1
        records.append((aggregate, max(0, offset - step), offset))
    return records


@given(RECORDS, st.integers(0, 40))
def test_the_rule_in_constant_memory_and_over_a_restart(drawn: list[tuple[str, int, int]], at: int) -> None:
    records = placed(drawn)
    contest, found = Contest(), []
    for number, (aggregate, as_of, offset) in enumerate(records):
        if number == at:
            contest = Contest(contest.dump())
        found.append(contest.wins(aggregate, f"0/{as_of}", offset))
    assert found == plainly(records)
    assert len(contest.dump()) <= 2


class Author:
    """Reads the log up to its end, then appends, perhaps much later."""

    def __init__(self) -> None:
        self.seen: Expected | None = None


@settings(max_examples=50)
@given(st.integers(0, 2**32), st.integers(2, 6))
def test_of_honest_authors_one_takes_each_version_and_none_is_left_out(seed: int, authors: int) -> None:
    rng = Random(seed)  # noqa: S311  # interleavings, not secrets
    log: list[Expected | None] = []
    contest, taken = Contest(), []
    crowd = [Author() for _ in range(authors)]
    for _ in range(120):
        author = rng.choice(crowd)
        if author.seen is None:
            author.seen = Expected(len(taken), len(log))
        elif rng.random() < 0.3:
            log.append(None)  # somebody else's record
        else:
            log.append(author.seen)
            if contest.wins("a", str(author.seen), len(log) - 1):
                taken.append(author.seen.version + 1)
            author.seen = None
    assert taken == list(range(1, len(taken) + 1))
    assert taken


def test_a_rule_without_the_offset_lets_two_take_one_version() -> None:
    """The negative control: who has read before a rival's event is caught by the offset alone."""
    contest = Contest()
    assert contest.wins("a", "0/0", 0)
    assert not contest.wins("a", "0/0", 1)
    assert contest.wins("a", "0/1", 2)  # so it would be, had its author claimed to have seen the first one


@pytest.mark.parametrize(("behind", "wins"), [(0, True), (WINDOW, True), (WINDOW + 1, False), (-1, False)])
def test_the_window_bounds_how_late_a_record_may_come(behind: int, *, wins: bool) -> None:
    assert Contest().wins("a", f"3/{10_000 - behind}", 10_000) == wins


@pytest.mark.parametrize("text", ["", "1", "/", "1/", "/1", "a/1", "1/b", "-1/2", "1/2/3", "1/" + "9" * 19, "١/1", " 1/1"])
def test_what_cannot_be_read_never_counts(text: str) -> None:
    assert Expected.parse(text) is None
    assert not Contest().wins("a", text, 1)


def test_text_there_and_back() -> None:
    assert Expected.parse(str(Expected(7, 12_345))) == Expected(7, 12_345)


def test_memory_is_that_of_the_window() -> None:
    contest = Contest()
    for offset in range(3 * WINDOW):
        assert contest.wins(f"a-{offset}", f"0/{offset}", offset)
    assert len(contest.dump()) == WINDOW + 1

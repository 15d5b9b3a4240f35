"""One alarm per incident: it begins once, may become worse, and is over once."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from tallyroll.analytics.anomalies.incidents import LOOK_BACK, QUIET_PANES, Incidents
from tallyroll.analytics.signal import Severity

LOUD, LOUDER, QUIET = 0.8, 0.95, 0.2
THRESHOLD = 0.75


def changes(scores: Sequence[float | None], incidents: Incidents | None = None) -> list[tuple[int, str]]:
    incidents = incidents or Incidents()
    found = []
    for at, score in enumerate(scores):
        change = incidents.silent() if score is None else incidents.step(at, score * 10, score, THRESHOLD)
        if change is not None:
            found.append((at, change.what))
    return found


def test_a_score_at_the_threshold_begins_an_incident_and_five_quiet_panes_end_it() -> None:
    assert changes([QUIET, THRESHOLD, *[QUIET] * 20]) == [(1, "began"), (6, "over")]


def test_below_the_threshold_nothing_begins() -> None:
    assert changes([THRESHOLD - 1e-9] * 50) == []


def test_loud_panes_in_between_keep_it_open_and_say_nothing() -> None:
    assert changes([LOUD, QUIET, QUIET, QUIET, QUIET, LOUD, LOUD, QUIET, LOUD, *[QUIET] * 5]) == [(0, "began"), (13, "over")]


def test_only_a_higher_severity_speaks_again() -> None:
    assert changes([LOUD, LOUD + 0.001, LOUDER, LOUDER - 0.1, LOUDER, LOUD]) == [(0, "began"), (2, "worse")]


def test_what_is_no_louder_than_the_last_hundred_panes_does_not_begin_another() -> None:
    first = [LOUD, *[QUIET] * 10]
    assert changes([*first, LOUD, *[QUIET] * 20]) == [(0, "began"), (5, "over")]
    assert changes([*first, LOUDER]) == [(0, "began"), (5, "over"), (11, "began")]
    assert changes([LOUD, *[QUIET] * (LOOK_BACK - 1), LOUD])[2:] == []
    assert changes([LOUD, *[QUIET] * LOOK_BACK, LOUD])[2:] == [(LOOK_BACK + 1, "began")]


def test_panes_without_a_value_are_quiet_and_begin_nothing() -> None:
    assert changes([None] * 20) == []
    assert changes([LOUD, QUIET, None, QUIET, None, None, None]) == [(0, "began"), (5, "over")]


def test_an_incident_has_its_start_its_worst_moment_and_its_end() -> None:
    incidents = Incidents()
    for at, score in enumerate([QUIET, LOUD, LOUDER, LOUD, QUIET]):
        incidents.step(60 * at, score * 10, score, THRESHOLD)
    one = incidents.open
    assert one is not None
    assert (one.since, one.peak, one.peak_at, one.peak_value, one.last_at, one.severity) == (60, LOUDER, 120, 9.5, 180, Severity.CRITICAL)


@given(st.lists(st.sampled_from([None, 0.0, 0.5, 0.74, 0.75, 0.8, 0.9, 0.97, 1.0]), max_size=300), st.integers(0, 300))
def test_each_incident_begins_once_and_is_over_once_also_after_a_restart(scores: list[float | None], cut: int) -> None:
    found = changes(scores)
    is_open = False
    for _, what in found:
        assert what == "began" if not is_open else what in ("worse", "over")
        is_open = what != "over"
    first = Incidents()
    before = changes(scores[:cut], first)
    second = msgspec.msgpack.decode(msgspec.msgpack.encode(first), type=Incidents)
    after = [(at + min(cut, len(scores)), what) for at, what in changes(scores[cut:], second)]
    assert [*before, *after] == found
    for (start, _), (end, _) in zip([one for one in found if one[1] == "began"], [one for one in found if one[1] == "over"], strict=False):
        assert end - start >= QUIET_PANES

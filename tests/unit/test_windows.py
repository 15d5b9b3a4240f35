"""Windows are where a plain reference says they are, whatever the day."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallyroll.analytics.windows import (
    MINUTES_KEPT_S,
    WINDOWS,
    Stretch,
    TimeWindow,
    moment_of,
    readable,
    rolling,
    seconds_of,
    window_named,
)
from tallyroll.errors import SettingsError
from tallyroll.settings import Settings

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
minutes = st.integers(1, 3_000).map(lambda count: timedelta(minutes=count))
moments = st.datetimes(datetime(1970, 1, 2), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001  # the zone is given beside


@given(minutes, st.none() | minutes, moments)
def test_a_moment_lies_in_the_windows_of_a_plain_reference(duration: timedelta, slide: timedelta | None, moment: datetime) -> None:
    step = slide or duration
    expected = []
    start = EPOCH + (moment - EPOCH) // step * step
    while start + duration > moment:
        expected.insert(0, (start, start + duration))
        start -= step
    assert TimeWindow(duration, slide).containing(moment) == expected


@pytest.mark.parametrize("name", WINDOWS)
def test_windows_are_closed_at_the_start_and_open_at_the_end(name: str) -> None:
    window = window_named(name)
    midnight = datetime(2024, 2, 29, tzinfo=UTC)
    [(start, end)] = window.containing(midnight)
    assert (start, end - start) == (midnight, window.duration)
    assert window.containing(end) == [(end, end + window.duration)]
    assert window.containing(end - timedelta(microseconds=1)) == [(start, end)]


def test_the_day_before_and_the_day_after_a_leap_day() -> None:
    day = window_named("1day")
    [(start, end)] = day.containing(datetime(2024, 2, 29, 23, 59, 59, 999_999, tzinfo=UTC))
    assert (start, end) == (datetime(2024, 2, 29, tzinfo=UTC), datetime(2024, 3, 1, tzinfo=UTC))
    [(start, end)] = day.containing(datetime(2023, 2, 28, 23, 59, tzinfo=UTC))
    assert end == datetime(2023, 3, 1, tzinfo=UTC)


def test_other_zones_mean_the_same_moments() -> None:
    there = timezone(timedelta(hours=5, minutes=45))
    assert window_named("1day").containing(datetime(2026, 1, 1, 5, 44, tzinfo=there))[0][0] == datetime(2025, 12, 31, tzinfo=UTC)
    with pytest.raises(ValueError, match="time zone"):
        window_named("1day").containing(datetime(2026, 1, 1))  # noqa: DTZ001  # the slip under test


@pytest.mark.parametrize(
    ("duration", "slide", "said"),
    [
        (timedelta(seconds=90), None, "duration 0:01:30 is no whole multiple of the pane of 0:01:00"),
        (timedelta(hours=1), timedelta(seconds=61), "slide 0:01:01 is no whole multiple of the pane"),
        (timedelta(0), None, "pane of 0:01:00"),
        (timedelta(minutes=-5), None, "pane of 0:01:00"),
        (timedelta(minutes=5), timedelta(0), "slide"),
    ],
)
def test_other_lengths_than_whole_panes_are_refused_naming_the_pane(duration: timedelta, slide: timedelta | None, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TimeWindow(duration, slide)


def test_a_window_of_other_panes() -> None:
    assert TimeWindow(timedelta(seconds=90), pane=timedelta(seconds=30)).duration_s == 90
    with pytest.raises(ValueError, match="0:15:00"):
        TimeWindow(timedelta(hours=1, minutes=5), pane=timedelta(minutes=15))


def test_the_five_names_and_no_other() -> None:
    assert {name: window.duration for name, window in WINDOWS.items()} == {
        "1min": timedelta(minutes=1),
        "5min": timedelta(minutes=5),
        "15min": timedelta(minutes=15),
        "1hour": timedelta(hours=1),
        "1day": timedelta(days=1),
    }
    for wrong in ("", "1h", "2hours", "1HOUR"):
        with pytest.raises(SettingsError, match="accepted: 1min, 5min, 15min, 1hour, 1day") as caught:
            window_named(wrong)
        assert isinstance(caught.value, ValueError)


def test_the_setting_is_checked_at_the_start() -> None:
    assert Settings().analytics_window == "1hour"
    for name in WINDOWS:
        assert Settings.from_env({"ANALYTICS_WINDOW_SIZE": name}).analytics_window == name
    with pytest.raises(SettingsError, match="ANALYTICS_WINDOW_SIZE: expected one of 1min, 5min, 15min, 1hour, 1day"):
        Settings.from_env({"ANALYTICS_WINDOW_SIZE": "1week"})


def test_windows_are_equal_by_what_they_are() -> None:
    assert TimeWindow(timedelta(hours=1)) == WINDOWS["1hour"] != TimeWindow(timedelta(hours=1), timedelta(minutes=1))
    assert len({TimeWindow(timedelta(hours=1)), WINDOWS["1hour"]}) == 1
    assert repr(TimeWindow(timedelta(hours=1))) == "TimeWindow(datetime.timedelta(seconds=3600))"


@given(st.floats(1e6, 4e9), st.sampled_from([60, 300, 900, 3_600, 86_400]), st.sampled_from([1, 10, 60]))
def test_a_rolling_window_covers_what_was_asked_with_whole_panes(now: float, duration: int, pane: int) -> None:
    start, end = rolling(now, duration, pane)
    assert start % pane == end % pane == 0
    assert start <= now - duration < start + pane
    assert end - pane <= now < end


def test_where_minutes_are_gone_windows_have_whole_quarter_hours() -> None:
    newest = 100 * 86_400
    recent = Stretch(newest - MINUTES_KEPT_S, newest)
    assert readable(recent, 60, newest) == recent
    old = Stretch(newest - MINUTES_KEPT_S - 60, newest - 120)
    assert readable(old, 60, newest) == Stretch(newest - MINUTES_KEPT_S - 900, newest - 120)
    older = Stretch(newest - 10 * 86_400 + 60, newest - 9 * 86_400 + 60)
    assert readable(older, 60, newest) == Stretch(newest - 10 * 86_400, newest - 9 * 86_400 + 900)
    assert readable(older, 900, newest) == older


def test_seconds_and_moments() -> None:
    moment = datetime(2024, 2, 29, 12, 0, 0, 999_999, tzinfo=UTC)
    assert moment_of(seconds_of(moment)) == moment.replace(microsecond=0)
    assert seconds_of(datetime(1969, 12, 31, 23, 59, 59, 1, tzinfo=UTC)) == -1

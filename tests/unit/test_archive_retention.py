"""How much time is left until the log forgets what is not archived."""

from __future__ import annotations

from typing import Any

import pytest

from tallyroll.archive.retention import headroom

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


def left(**more: Any) -> Any:
    given = {"archived": 10, "log_start": 0, "log_end": 20, "oldest_ms": 0, "retention_ms": 7 * DAY_MS, "now_ms": HOUR_MS}
    return headroom(**{**given, **more})


def test_what_waits_has_the_retention_less_its_age() -> None:
    assert left() == ("ok", 10, 7 * DAY_MS - HOUR_MS)


def test_nothing_that_waits_is_never_late() -> None:
    assert left(log_end=10, now_ms=100 * DAY_MS) == ("ok", 0, None)


def test_an_unknown_age_warns_of_nothing() -> None:
    assert left(oldest_ms=None) == ("ok", 10, None)


@pytest.mark.parametrize(("retention_ms", "warned_below_ms"), [(7 * DAY_MS, DAY_MS), (2 * DAY_MS, 12 * HOUR_MS)])
def test_it_warns_below_a_day_or_a_quarter_whichever_is_less(retention_ms: int, warned_below_ms: int) -> None:
    assert left(retention_ms=retention_ms, now_ms=retention_ms - warned_below_ms).alarm == "ok"
    assert left(retention_ms=retention_ms, now_ms=retention_ms - warned_below_ms + 1).alarm == "warning"


def test_a_log_that_ends_before_the_archive_is_not_the_one_that_was_archived() -> None:
    assert left(log_end=9) == ("ahead", 0, None)
    assert left(log_end=10).alarm == "ok"


def test_a_log_that_starts_behind_the_archive_has_lost_something() -> None:
    assert left(log_start=11) == ("lost", 9, 0)
    assert left(log_start=10).alarm == "ok"

"""Whoever floods a ledger with findings fills no log: the first ones stand in it, and how many more there were."""

from __future__ import annotations

import asyncio
import logging

import pytest

from tallyroll.audit.sealing.finding import Finding
from tallyroll.audit.sealing.telling import Telling
from tallyroll.testing.clock import FakeClock

FLOOD = [Finding("fork", f"audit-events/0/{number}", "writer 00") for number in range(5_000)]


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="tallyroll.audit")
    return caplog


def telling(clock: FakeClock) -> Telling:
    return Telling(None, bytes(16), monotonic=clock.monotonic)


def test_a_flood_of_findings_is_some_lines_and_a_count(lines: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    told = telling(clock)
    for start in range(0, len(FLOOD), 500):
        told.tell(FLOOD[start : start + 500])
    assert len(lines.messages) == 20
    assert lines.messages[0] == "audit-events/0/0: fork writer 00"
    told.tell([Finding("gap", "audit-events/0/9", "1 of it")])
    clock.advance(61)
    told.tell([])
    assert lines.messages[20:] == ["4,981 more findings: fork 4,980, gap 1; all are in the ledger, and audit_findings_total counts them"]
    told.tell([])
    assert len(lines.messages) == 21, "said once"
    told.tell(FLOOD[:1])
    assert lines.messages[21:] == ["audit-events/0/0: fork writer 00"], "a later one is said again"


def test_what_was_only_counted_is_said_in_the_end(lines: pytest.LogCaptureFixture) -> None:
    told = telling(FakeClock())
    told.tell(FLOOD[:30])
    asyncio.run(told.settled())
    assert lines.messages[20:] == ["10 more findings: fork 10; all are in the ledger, and audit_findings_total counts them"]
    asyncio.run(told.settled())
    assert len(lines.messages) == 21


def test_few_findings_are_all_said(lines: pytest.LogCaptureFixture) -> None:
    clock, told = FakeClock(), None
    told = telling(clock)
    for finding in FLOOD[:60]:
        told.tell([finding])
        clock.advance(4)
    assert len(lines.messages) == 60

"""The embedded log keeps the contract of event logs, in memory and on disk."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from tallyroll.adapters.sqlite import SqliteLog
from tallyroll.adapters.system import SystemClock
from tallyroll.events.topics import Catalogue
from tallyroll.testing.log_contract import CASES, PROCESS_CASES, SHARED_CASES, Case, LogUnderTest


def name_of(case: object) -> str:
    return case.__name__


def under_test(folder: Path | None, *, session_timeout_ms: int = 3_600_000) -> LogUnderTest:
    """With leases that run out for nobody who is alive, however long he stands still."""
    opener = partial(SqliteLog.open, folder, clock=SystemClock(), session_timeout_ms=session_timeout_ms)
    return LogUnderTest(Catalogue(prefix="contract."), opener)


@pytest.mark.parametrize("case", CASES, ids=name_of)
async def test_in_memory(case: Case) -> None:
    await case(under_test(None))


@pytest.mark.parametrize("case", [*CASES, *SHARED_CASES], ids=name_of)
async def test_on_disk(case: Case, tmp_path: Path) -> None:
    await case(under_test(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("case", PROCESS_CASES, ids=name_of)
async def test_over_processes(case: Case, tmp_path: Path) -> None:
    await case(under_test(tmp_path, session_timeout_ms=400))  # somebody waits for it to run out

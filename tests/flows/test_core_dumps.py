"""A process that holds the ledger's keys leaves no core file."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
from pathlib import Path

import pytest
from tests.apart import Program

from tallyroll.cli import main as tallyroll


def serve(follower: str, folder: Path) -> None:
    """Runs a follower until it has caught up; says what the limit was before and is then."""
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))  # as on a machine where cores are wanted
    os.environ["TALLYROLL_URL"] = f"sqlite:///{folder}"
    sys.argv = ["tallyroll", "run", follower, "--once"]
    with contextlib.suppress(SystemExit):
        tallyroll()
    sys.stdout.write(f"{hard} {resource.getrlimit(resource.RLIMIT_CORE)}\n")


@pytest.mark.slow
@pytest.mark.parametrize(("follower", "expected"), [("audit", "(0, 0)"), ("state", None)])
def test_only_who_holds_keys_may_leave_no_core_file(follower: str, expected: str | None, tmp_path: Path) -> None:
    code, said = Program(serve, follower, tmp_path).ended()
    assert code == 0, said
    hard, _, limits = said.splitlines()[-1].partition(" ")
    if hard == "0":
        pytest.skip("no core files may be made here at all")
    assert limits == (expected or f"({hard}, {hard})"), said

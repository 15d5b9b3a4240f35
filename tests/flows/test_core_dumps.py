"""A process that holds the ledger's keys leaves no core file."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from tests.apart import Program, server
from tests.flows.dumping import serve

HARD = resource.getrlimit(resource.RLIMIT_CORE)[1]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(HARD == 0, reason="the hard limit is 0 here: no process may ever leave a core file")]
if HARD:
    server()  # now: a test that runs a command with keys in this process takes its own core files away, for good


@pytest.mark.parametrize(("follower", "limits"), [("audit", (0, 0)), ("state", (HARD, HARD))])
def test_only_who_holds_keys_may_leave_no_core_file(follower: str, limits: tuple[int, int], tmp_path: Path) -> None:
    code, said = Program(serve, follower, tmp_path, HARD).ended()
    assert code == 0, said
    assert said.splitlines()[-1] == str(limits), said

"""Ends that nobody planned: what was acknowledged is in the log in the end, and no number was given twice."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from tests.flows.publishing import publishing
from tests.flows.recording import Arrived, arrived_in, entries_in
from tests.patience import PATIENCE_S

from tallyroll import Roll
from tallyroll.audit.ledger.layout import Kind
from tallyroll.audit.ledger.partition import Verdict

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("recording_program.py")
AWAY = "kafka://127.0.0.1:1"


def run(way: str, url: str, folder: Path, count: int, *, kill_after: int | None = None) -> list[str]:
    """The ids that were acknowledged before the end."""
    arguments = [sys.executable, "-W", "error", str(PROGRAM), way, url, str(folder), str(count)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        ids = []
        for line in process.stdout:
            ids.append(line.strip())
            if len(ids) == kill_after:
                process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE_S)
    return ids


def everything_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


async def in_log(folder: Path) -> list[Arrived]:
    async with Roll.open(f"sqlite:///{folder}") as roll:
        return await arrived_in(roll.log)


def places(arrived: list[Arrived]) -> list[tuple[object, int]]:
    return [(one.core.chain, one.core.seq) for one in arrived if one.verdict != Verdict.REPEAT]


async def test_what_a_killed_process_had_acknowledged_goes_out_as_it_was_sealed(tmp_path: Path) -> None:
    """With the broker away everything lies in the spool, sealed; the next publisher sends it, and a new recorder goes on."""
    ids = run("close", AWAY, tmp_path, 10_000, kill_after=40)
    ids += run("close", AWAY, tmp_path, 10_000, kill_after=10)
    left = everything_in(tmp_path)
    assert ids[0].encode() in left
    assert not any(name in left for name in (b"anna", b"bert", b"file 1"))
    async with publishing(tmp_path) as desk:
        assert await desk.passing(desk.publisher.flush(60)) == 0
        arrived = await arrived_in(desk.log)
    assert set(ids) <= {one.event_id for one in arrived}
    assert {one.verdict for one in arrived} <= {Verdict.APPEND, Verdict.REPEAT}
    assert len(set(places(arrived))) == len(places(arrived))
    assert len({one.core.chain.writer for one in arrived}) == 2


async def test_a_forked_child_is_another_writer(tmp_path: Path) -> None:
    ids = run("fork", f"sqlite:///{tmp_path}", tmp_path, 3)
    assert len(ids) == 9
    arrived = await in_log(tmp_path)
    assert {one.event_id for one in entries_in(arrived)} == set(ids)
    assert {one.verdict for one in arrived} == {Verdict.APPEND}
    agents = defaultdict(set)
    for one in entries_in(arrived):
        agents[one.env["agent_id"]].add((one.core.chain.writer, one.core.chain.epoch))
    assert len(agents["parent"]) == len(agents["child"]) == 1
    assert agents["parent"] != agents["child"]


async def test_a_process_that_ends_without_closing_closes_its_chains(tmp_path: Path) -> None:
    ids = run("leave", f"sqlite:///{tmp_path}", tmp_path, 2)
    arrived = await in_log(tmp_path)
    assert [one.event_id for one in entries_in(arrived)] == ids
    (close,) = entries_in(arrived, [Kind.CLOSE])
    assert close.env == {"close": "exit"}

"""An archive whose process is killed at any step goes on where it was: nothing lost, nothing twice, no orphan read."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from tests.flows.archiving import archive, history
from tests.unit.archiving import ALL, archive_in, files_in, raw
from tests.unit.replay_histories import batch_of

pytestmark = pytest.mark.slow
POINTS = (
    *("flushed", "tail read", "file made", "file written", "file synced", "file renamed", "file put"),
    *("before commit", "in commit", "after commit"),
)
ROOT = Path(__file__).parents[2]


def die(folder: Path, point: str, count: int) -> None:
    command = [sys.executable, "-m", "tests.flows.archiving", str(folder), point, str(count)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize("point", POINTS)
async def test_a_kill_at_any_step_loses_nothing_and_doubles_nothing(tmp_path: Path, point: str) -> None:
    rng = Random(point)  # noqa: S311  # repeatable
    for _ in range(2):
        die(tmp_path, point, rng.randint(1, 4))
    await archive(tmp_path, "", 0)  # and once to the end
    log = history()
    with archive_in(tmp_path) as kept:
        for partition, values in log.items():
            if not values:
                continue
            assert raw(list(kept.reader.records(partition, 0, ALL))) == raw([batch_of(partition, values)])
            assert kept.keeper.verify(partition) == []
            named = {one.name for one in kept.reader.segments(partition)}
            assert {path.name for path in files_in(tmp_path, partition).iterdir()} == named  # a folder of the test
            assert kept.reader.marks([partition])[partition].next == len(values)


def test_a_place_that_is_never_passed_kills_nobody(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        die(tmp_path, "no such place", 1)

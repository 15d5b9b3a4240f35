"""The archive survives ``kill -9`` at every step of a seal, and at any other moment: nothing is lost, nothing doubled."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from tests.apart import Program, die_of
from tests.contracts.test_archive import holds
from tests.flows.archiving_at_random import main
from tests.unit.archiving import archive_in, files_in
from tests.unit.replay_histories import random_log

from tallyroll.events.position import TopicPartition

COUNT = 150
POINTS = (
    "tail read",
    "file made",
    "file written",
    "file synced",
    "file renamed",
    "file put",
    "before commit",
    "in commit",
    "after commit",
)


def acknowledged(lines: list[str]) -> dict[TopicPartition, int]:
    """What the program had flushed when it died."""
    told = {}
    for line in lines:
        topic, partition, following = line.split()
        told[TopicPartition(topic, int(partition))] = int(following)
    return told


def nothing_is_lost(folder: Path, seed: int, told: dict[TopicPartition, int]) -> None:
    """What was flushed is there; going on from there, everything is, and no file that nobody knows."""
    log = random_log(Random(seed), COUNT)  # noqa: S311  # a fixed history
    with archive_in(folder) as archive:
        marks = archive.reader.marks(list(log))
        assert all(marks[place].next >= following for place, following in told.items())
        holds(archive, {place: values[: marks[place].next] for place, values in log.items() if place in marks})
    code, said = Program(main, folder, seed, COUNT).ended()
    assert code == 0, said
    with archive_in(folder) as archive:
        holds(archive, log)
        for place in log:
            known = {segment.name for segment in archive.reader.segments(place)}
            assert {path.name for path in files_in(folder, place).glob("*")} == known


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("nth", [1, 4])
def test_killed_at_a_step_of_a_seal(tmp_path: Path, point: str, nth: int) -> None:
    said = die_of(main, tmp_path, nth, COUNT, point, nth)
    nothing_is_lost(tmp_path, nth, acknowledged(said.splitlines()))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_killed_at_a_moment_of_its_own(tmp_path: Path, seed: int) -> None:
    running = Program(main, tmp_path, seed, COUNT)
    wanted = Random(seed).randint(1, 60)  # noqa: S311  # a fixed history
    lines = [line for _, line in zip(range(wanted), running.lines, strict=False)]
    running.kill()
    _, rest = running.ended()
    whole = [*lines, *(line for line in rest.splitlines(keepends=True) if line.endswith("\n"))]
    nothing_is_lost(tmp_path, seed, acknowledged(whole))


@pytest.mark.slow
def test_the_check_notices_a_flush_that_was_lost(tmp_path: Path) -> None:
    _, said = Program(main, tmp_path, 1, COUNT).ended()
    told = acknowledged(said.splitlines())
    with pytest.raises(AssertionError):
        nothing_is_lost(tmp_path, 1, {place: following + 1_000 for place, following in told.items()})

"""An archive whose process is killed at any step goes on where it was: nothing lost, nothing twice, no orphan read."""

from __future__ import annotations

import shutil
from pathlib import Path
from random import Random

import pytest
from tests.apart import die_of
from tests.flows.archiving import archive, history, main
from tests.unit.archiving import ALL, archive_in, files_in, raw
from tests.unit.pruning import left_holds
from tests.unit.replay_histories import batch_of

from tallyroll.archive.anchor import anchor_name

pytestmark = pytest.mark.slow
POINTS = (
    *("flushed", "tail read", "file made", "file written", "file synced", "file renamed", "file put"),
    *("before commit", "in commit", "after commit"),
)


@pytest.mark.parametrize("mode", ["", "beside"])
@pytest.mark.parametrize("point", POINTS)
async def test_a_kill_at_any_step_loses_nothing_and_doubles_nothing(tmp_path: Path, point: str, mode: str) -> None:
    rng = Random(point)  # noqa: S311  # repeatable
    for number in range(2):
        die_of(main, tmp_path, point, rng.randint(1, 4) if not mode else 2 - number, mode)
        left_is_whole(tmp_path)
    await archive(tmp_path, "", 0, beside=bool(mode))  # and once to the end
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


@pytest.mark.parametrize("point", ["pruning checked", "file synced", "file renamed", "anchor put", "in pruning", "pruned", "file removed"])
async def test_a_kill_while_pruning_leaves_all_of_it_or_none(tmp_path: Path, point: str) -> None:
    kept = tmp_path / "kept"
    for number, count in enumerate((3, 1) if point.startswith("file s") or point == "file renamed" else (2, 1)):
        die_of(main, kept, point, count, "prune")  # the third file is that of the first pruning
        left_is_whole(kept)
        copy = tmp_path / f"copy-{number}"  # and were the index lost at that moment, too
        shutil.copytree(kept, copy)
        for index in copy.glob("*/*/index.db*"):
            index.unlink()
        with archive_in(copy) as again:
            for partition in history():
                if any(one.suffix != ".tmp" for one in files_in(copy, partition).glob("*")):
                    again.keeper.rebuild(partition)
        left_is_whole(copy)
    await archive(kept, "", 0, prune=True)
    left_is_whole(kept)
    with archive_in(kept) as done:
        for partition, mark in done.reader.marks(list(history())).items():
            named = {one.name for one in done.reader.segments(partition)} | ({anchor_name(mark.kept)} if mark.kept else set())
            assert {path.name for path in files_in(kept, partition).iterdir()} == named
            assert mark.next == len(history()[partition])
        assert any(mark.kept for mark in done.reader.marks(list(history())).values())


def left_is_whole(folder: Path) -> None:
    """As far as it goes; nothing is removed before, as it would be by who goes on."""
    with archive_in(folder) as kept:
        marks = kept.reader.marks(list(history()))
        left_holds(kept, {partition: values[: marks[partition].next] for partition, values in history().items() if partition in marks})


def test_a_place_that_is_never_passed_kills_nobody(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        die_of(main, tmp_path, "no such place", 1)

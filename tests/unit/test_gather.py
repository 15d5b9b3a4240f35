"""Owner by owner out of a log that is not sorted by owner."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from tests.unit.owner_histories import Rowed, dice, owned, owners, projector, random_rows

from tallyroll.events.rows import Rows
from tallyroll.replay.gather import bucketed, owners_by
from tallyroll.replay.kinds import StateType
from tallyroll.replay.order import in_order
from tallyroll.replay.projector import Projected, fold_events
from tallyroll.replay.selection import take_rows

AGENT = StateType.AGENT_STATE


def cut(rng: Random, rows: Rowed) -> Iterator[Rows]:
    """In random pieces, partitions interleaved."""
    left = dict.fromkeys(rows, 0)
    while left:
        partition = rng.choice(list(left))
        start, stop = left[partition], min(len(rows[partition]), left[partition] + rng.randint(1, 9))
        yield take_rows(rows[partition], range(start, stop))
        left[partition] = stop
        if stop == len(rows[partition]):
            del left[partition]


def folded(seed: int, rows: Rowed, folder: Path, **options: int) -> dict[str, Projected]:
    made = projector()
    found: dict[str, Projected] = {}
    for owner, history in bucketed(cut(dice(seed), rows), owners_by("agent"), folder, **options):
        assert owner not in found
        found[owner] = fold_events(made, AGENT, owner, in_order(history, made.types(AGENT)))
    return found


@pytest.mark.parametrize("seed", range(10))
def test_states_do_not_depend_on_batches_buckets_or_spilling(seed: int, tmp_path: Path) -> None:
    rows = random_rows(seed)
    made = projector()
    expected = {
        owner: fold_events(made, AGENT, owner, in_order(owned(rows, "agent", owner), made.types(AGENT))) for owner in owners(rows, "agent")
    }
    for buckets in (1, 2, 7, 256):
        for max_bytes in (0, 20_000, 1 << 30):
            assert folded(seed + buckets, rows, tmp_path, buckets=buckets, max_bytes=max_bytes) == expected
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["agent", "task", "aggregate"])
def test_histories_come_out_whole(kind: str, tmp_path: Path) -> None:
    rows = random_rows(3)
    found = dict(bucketed(cut(dice(3), rows), owners_by(kind), tmp_path, max_bytes=5_000))
    assert sorted(found) == owners(rows, kind)
    for owner, history in found.items():
        expected = owned(rows, kind, owner)
        assert history.keys() == expected.keys()
        for partition, some in history.items():
            for name in ("offsets", "times_us", "types", "versions", "subjects", "data", "agents", "ids", "values"):
                assert list(getattr(some, name)) == list(getattr(expected[partition], name))


def test_the_order_of_owners_is_the_same_each_time(tmp_path: Path) -> None:
    rows = random_rows(4)
    first, second = (
        [owner for owner, _ in bucketed(cut(dice(seed), rows), owners_by("task"), tmp_path, max_bytes=seed * 9_000, buckets=4)]
        for seed in (0, 1)
    )
    assert first == second


def test_nothing_stays_behind_when_it_is_left_early(tmp_path: Path) -> None:
    running = bucketed(cut(dice(1), random_rows(1)), owners_by("agent"), tmp_path, max_bytes=0)
    next(running)
    running.close()
    assert list(tmp_path.iterdir()) == []

    def breaks() -> Iterator[Rows]:
        yield from cut(dice(1), random_rows(1))
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(bucketed(breaks(), owners_by("agent"), tmp_path, max_bytes=0))
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_bound_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one bucket"):
        next(bucketed([], owners_by("agent"), buckets=0))

"""Analytics on the embedded log survives ``kill -9`` at every step of a flush and of an alert, and at any other moment."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from tests.apart import Program, die_of
from tests.flows.analysing import POINTS, RULE, TALLY, count, fill, history, main, read, slow_task
from tests.unit.analytics_histories import NOW, NOW_US, PLACES, SPECS, differences, stored
from tests.unit.analytics_reference import Reference

from tallyroll.adapters.sqlite.window_store import SqliteWindowStore
from tallyroll.analytics.alerts.notice import OUTBOX
from tallyroll.events.position import TopicPartition

pytestmark = pytest.mark.slow
Wanted = dict[TopicPartition, Reference]


def told(folder: Path) -> Counter[tuple[str, str, str]]:
    """How often each notice was told: incident, state, id."""
    path = folder / "told"
    return Counter(tuple(json.loads(line)) for line in path.read_text().splitlines()) if path.exists() else Counter()


async def plainly(folder: Path) -> Wanted:
    """What a plain computation makes of the log."""
    return {place: Reference(SPECS, NOW_US).feed(records) for place, records in (await read(folder)).items()}


async def all_is_right(folder: Path, wanted: Wanted) -> None:
    """Panes, counts and alerts are what the log says, each alert under one id."""
    store = await SqliteWindowStore.open(folder / "analytics.db")
    found = await stored(store)
    for place, reference in wanted.items():
        assert reference.counts["events"] > 70
        assert differences(found.get(place, {}), reference) == []
    assert await store.documents(TALLY) == {TALLY: str(sum(one.news["events_processed"] for one in wanted.values())).encode()}
    assert await store.documents(OUTBOX) == await store.documents("alert") == {}
    await store.close()
    slow = {
        f"response_time|agent|{key}|slow|{begin}"
        for one in wanted.values()
        for (dimension, key, _, begin, name), _ in one.panes.items()
        if (dimension, name) == ("agent", "response_time") and key in RULE.keys
    }
    assert len(slow) > 10
    assert sorted((key, state) for key, state, _ in told(folder)) == sorted(
        (key, state) for key in slow for state in ("firing", "resolved")
    )


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Wanted]:
    """A log, and what it says."""
    folder = tmp_path_factory.mktemp("filled")
    asyncio.run(fill(folder, history(7)))
    return folder, asyncio.run(plainly(folder))


@pytest.fixture
def folder(filled: tuple[Path, Wanted], tmp_path: Path) -> Path:
    return shutil.copytree(filled[0], tmp_path / "log")


@pytest.fixture
def wanted(filled: tuple[Path, Wanted]) -> Wanted:
    return filled[1]


# Whether rows are read at all depends on how flushes fall beside the reading.
@pytest.mark.parametrize("point", [point for point in POINTS if point != "rows read"])
def test_killed_at_a_step(folder: Path, wanted: Wanted, point: str) -> None:
    die_of(main, folder, point, Random(point).randint(1, 1 if "removal" in point else 2))  # noqa: S311  # repeatable
    asyncio.run(count(folder, lambda _: None))
    asyncio.run(all_is_right(folder, wanted))


@pytest.mark.parametrize("seed", range(2))
def test_killed_at_moments_of_its_own(folder: Path, wanted: Wanted, seed: int) -> None:
    random = Random(seed)  # noqa: S311  # repeatable
    for _ in range(3):
        running = Program(main, folder)
        for _, _ in zip(range(random.randint(1, 40)), running.lines, strict=False):
            pass
        running.kill()
        running.ended()
    asyncio.run(count(folder, lambda _: None))
    asyncio.run(all_is_right(folder, wanted))


def test_the_check_notices_a_record_that_was_not_counted(folder: Path, wanted: Wanted) -> None:
    asyncio.run(count(folder, lambda _: None))
    asyncio.run(all_is_right(folder, wanted))
    assert set(told(folder).values()) == {1}, "without a death, nothing twice"
    asyncio.run(fill(folder, {PLACES[0]: [(slow_task(NOW, "another"), -1)]}))
    more = asyncio.run(plainly(folder))
    with pytest.raises(AssertionError):
        asyncio.run(all_is_right(folder, more))

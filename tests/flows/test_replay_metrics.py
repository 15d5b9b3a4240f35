"""What a replay counts of itself."""

from __future__ import annotations

import pytest

from tallyroll.errors import TallyrollError
from tallyroll.events.codec import HEADERS
from tallyroll.ports import Encoded
from tallyroll.replay.plan import ReplayMode
from tallyroll.replay.policy import Policy
from tallyroll.replay.replayer import Ask
from tallyroll.replay.views import TASK
from tallyroll.roll import Roll
from tallyroll.telemetry import RECONSTRUCTED, REPLAY_SECONDS, Counters
from tallyroll.testing.builders import EventBuilder


def buckets(counters: Counters) -> tuple[int, ...]:
    (reading,) = next(readings for metric, readings in counters.readings() if metric is RECONSTRUCTED)
    return reading.counts


async def test_replays_are_timed_and_judged_by_what_could_be_folded() -> None:
    counters = Counters()
    async with Roll.open("sqlite://:memory:", telemetry=counters) as roll:
        engine = await roll.replay_engine()
        await engine.replay(Ask(TASK))
        assert counters.value(RECONSTRUCTED) == 1  # nothing to read, nothing amiss
        await roll.publish_batch(EventBuilder(1).events(99))
        await engine.replay(Ask(TASK))
        assert counters.value(RECONSTRUCTED) == 2
        roll.log.append([Encoded("x", "task-events", 0, b"k", b"not json", HEADERS, 0)])
        found = await engine.replay(Ask(TASK, policy=Policy().but(poison="warn")))
        assert counters.value(RECONSTRUCTED) == pytest.approx(3 - 1 / found.records)
        with pytest.raises(TallyrollError):
            await engine.replay(Ask(TASK, mode=ReplayMode.FULL, policy=Policy().but(poison="fail")))
        assert sum(buckets(counters)) == 4
        assert buckets(counters)[0] == 1  # the one that failed counts as 0
        assert sum(next(readings for metric, readings in counters.readings() if metric is REPLAY_SECONDS)[0].counts) == 4

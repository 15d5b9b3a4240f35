"""Replay and archive on a real broker: the same states from topic, archive and both; groups and ends stay as they were."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.flows.agreeing import all_agree
from tests.patience import PATIENCE_S
from tests.servers.faulting import create_topics
from tests.unit.test_projector_kept import projector

from tallyroll.events.ids import new_id
from tallyroll.events.position import Position
from tallyroll.replay.kinds import StateType
from tallyroll.replay.plan import ReplayMode
from tallyroll.replay.replayer import Ask
from tallyroll.replay.views import AGENT, TASK
from tallyroll.roll import ARCHIVE_FOLLOWER, Roll
from tallyroll.settings import Settings
from tallyroll.simulate.fleet import Fleet

pytestmark = [pytest.mark.server, pytest.mark.slow]


async def test_topic_archive_and_both_give_the_same_states_and_nothing_is_touched(kafka_settings: Settings) -> None:
    await create_topics(kafka_settings)
    async with Roll.open(kafka_settings) as roll:
        await roll.publish_batch(list(Fleet(seed=9, agents=8).run(events=2_000)))
        partitions = await roll.archive_partitions()
        names = sorted({one.topic for one in partitions})
        engine = await roll.replay_engine()
        wanted = {view.name: await engine.replay(Ask(view)) for view in (AGENT, TASK)}
        assert wanted["agent"].states
        first = await engine.project(projector(), StateType.AGENT_STATE, mode=ReplayMode.INCREMENTAL)
        loop = await roll.follow(ARCHIVE_FOLLOWER)
        ends = await roll.log.ends(names)
        for partition, end in ends.items():
            assert not end or await loop.caught_up(Position(*partition, end - 1), PATIENCE_S)
        await loop.stop()
        roll.archive().keeper.seal_all(partitions)
        await roll.publish_batch(list(Fleet(seed=10, agents=8).run(events=300)))
        engine = await roll.replay_engine()
        before = (await roll.log.ends(names), await roll.log.committed(kafka_settings.group("state"), names))
        for view in (AGENT, TASK):
            full = await engine.replay(Ask(view, source="log"))
            for ask in (
                Ask(view),
                Ask(view, columnar=True),
                Ask(view, mode=ReplayMode.INCREMENTAL),
                Ask(view, mode=ReplayMode.PARALLEL, workers=2),
                Ask(view, validate="chain"),
            ):
                found = await engine.replay(ask)
                assert (found.states, found.as_of, found.coverage) == (full.states, full.as_of, "complete"), ask
            sealed = await engine.replay(Ask(view, source="archive"))
            assert sealed.states == wanted[view.name].states
        assert before == (await roll.log.ends(names), await roll.log.committed(kafka_settings.group("state"), names))
        second = await engine.project(projector(), StateType.AGENT_STATE, mode=ReplayMode.INCREMENTAL)
        assert (first.snapshot, second.snapshot) == ("none", str(len(first.states)))
        assert second.states == (await engine.project(projector(), StateType.AGENT_STATE)).states
        third = await engine.project(projector(), StateType.AGENT_STATE, mode=ReplayMode.INCREMENTAL)
        assert (third.folded, third.late, third.set_hash) == (0, 0, second.set_hash)


@settings(max_examples=2, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32), count=st.integers(1, 160))
async def test_any_history_comes_to_the_same_states_in_any_number_of_processes(kafka_settings: Settings, seed: int, count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        own = replace(kafka_settings, topic_prefix=f"r{new_id()[-8:]}.", data_dir=Path(folder))
        await create_topics(own)
        async with Roll.open(own) as roll:
            await all_agree(roll, seed, count)

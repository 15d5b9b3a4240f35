"""Both bridges on a real broker: states in Redis are those of a replay, events reach NATS once, over a restart of the process."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from redis import Redis
from services.nats import NatsServer
from services.redis import RedisServer
from tests.patience import PATIENCE_S
from tests.servers.faulting import create_topics
from tests.servers.test_nats_forward import events, ids, kept, make_stream

from tallyroll.bridges.state_sync import TOPICS, VIEWS
from tallyroll.events.position import Position
from tallyroll.replay.fold import state_hash
from tallyroll.roll import NATS_FOLLOWER, REDIS_FOLLOWER, Roll
from tallyroll.settings import Settings
from tallyroll.simulate.fleet import Fleet

pytestmark = [pytest.mark.server, pytest.mark.slow]


async def stored(roll: Roll) -> bool:
    names = [roll.catalogue[base].name for base in TOPICS]
    ends = await roll.log.ends(names)
    return all([await roll.caught_up(Position(*one, end - 1), PATIENCE_S, follower=REDIS_FOLLOWER) for one, end in ends.items() if end])


async def test_states_and_messages_over_a_restart(kafka_settings: Settings, tmp_path: Path) -> None:
    await create_topics(kafka_settings)
    with RedisServer(tmp_path / "redis") as redis_server, NatsServer(tmp_path / "nats") as nats_server:
        await make_stream(nats_server)
        settings = replace(
            kafka_settings,
            redis_host="127.0.0.1",
            redis_port=redis_server.port,
            nats_servers=nats_server.url,
            nats_event_types="agent.heartbeat,agent.started",
        )
        sent = []
        for seed in (1, 2):
            published = [*Fleet(seed=seed, agents=5).run(events=500), *events(50, tag=str(seed))]
            sent += [one.event_id for one in published if one.event_type in ("agent.started", "agent.heartbeat")]
            async with Roll.open(settings) as roll:
                await roll.publish_batch(published)
                for name in (REDIS_FOLLOWER, NATS_FOLLOWER):
                    await roll.follow(name)
                assert await stored(roll)
                ends = await roll.log.ends([roll.catalogue["agent-events"].name])
                assert all(
                    [await roll.caught_up(Position(*one, end - 1), PATIENCE_S, follower=NATS_FOLLOWER) for one, end in ends.items() if end]
                )
                want = {
                    f"{view.name}:{owner}": state_hash(state) for view in VIEWS for owner, state in (await roll.replay(view)).states.items()
                }
        with Redis(port=redis_server.port) as redis:
            prefix = f"tallyroll:{settings.topic_prefix}"
            found = {owner: redis.get(f"{prefix}{owner}:state") for owner in want}
            assert {owner: sha256(body or b"").hexdigest() for owner, body in found.items()} == want
        assert sorted(ids(await kept(nats_server))) == sorted(sent)

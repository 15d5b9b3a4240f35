"""A random history on a real log, by every mode, in any number of processes: the states that a replay of it in memory comes to."""

from __future__ import annotations

from datetime import timedelta
from random import Random
from typing import Final

from tests.patience import PATIENCE_S
from tests.unit.replay_histories import CATALOGUE, T0, Log, ReadOnlyLog, random_log

from tallyroll.events.position import Position, TopicPartition
from tallyroll.ports import Delivered, Encoded
from tallyroll.replay.plan import ReplayMode, as_of_event_time, as_of_offsets
from tallyroll.replay.policy import Policy
from tallyroll.replay.replayer import Ask, Replayer
from tallyroll.replay.views import AGENT, TASK
from tallyroll.roll import ARCHIVE_FOLLOWER, Roll
from tallyroll.testing.clock import FakeClock

PROCESSES: Final = (1, 2, 4)
_LENIENT: Final = Policy().but(unknown_schema="warn", altered="warn", reordered="warn")


async def all_agree(roll: Roll, seed: int, count: int) -> None:
    """On the empty log of ``roll``: half of the history is archived, the rest comes after, and nothing but the states may be told apart."""
    rng = Random(seed)  # noqa: S311  # repeatable
    log = random_log(rng, count)
    first = {partition: values[: rng.randint(0, len(values))] for partition, values in log.items()}
    await _append(roll, first)
    await _archive(roll)
    await _append(roll, {partition: values[len(first[partition]) :] for partition, values in log.items()})
    engine = await roll.replay_engine()
    reference = Replayer(ReadOnlyLog(log), CATALOGUE, clock=FakeClock())  # type: ignore[arg-type]  # the half that reads
    moment = as_of_event_time(T0 + timedelta(seconds=rng.uniform(0, count * 2)))
    for view in (AGENT, TASK):
        full, then = [await reference.replay(Ask(view, target=target, policy=_LENIENT)) for target in (None, moment)]
        ends = {partition: rng.randint(0, end) for partition, end in full.as_of.items()}
        below = await reference.replay(Ask(view, target=as_of_offsets(ends), policy=_LENIENT))
        here = as_of_offsets({_in(roll, partition): end for partition, end in ends.items()})
        for wanted, target in ((full, None), (then, moment), (below, here)):
            asks = [Ask(view, target=target, policy=_LENIENT, workers=workers, columnar=workers == 2) for workers in PROCESSES]
            asks += [Ask(view, target=target, policy=_LENIENT, source="log", mode=ReplayMode.PARALLEL, workers=2)]
            asks += [Ask(view, None, ReplayMode.INCREMENTAL if target is None else ReplayMode.POINT_IN_TIME, target, policy=_LENIENT)]
            for ask in asks:
                found = await engine.replay(ask)
                assert found.set_hash == wanted.set_hash, (seed, count, ask)
                assert found.coverage == "complete", (seed, count, ask)


def _in(roll: Roll, partition: TopicPartition) -> TopicPartition:
    return TopicPartition(roll.catalogue[partition.topic].name, partition.partition)


async def _append(roll: Roll, log: Log) -> None:
    now_ms = roll.clock.now_us() // 1_000  # what is older than a topic's retention is soon gone
    records = [
        Encoded(f"{partition}-{number}", *_in(roll, partition), b"key", value, [], now_ms) for partition, values in log.items()
        for number, value in enumerate(values)
    ]  # fmt: skip
    assert all(isinstance(outcome, Delivered) for outcome in await roll.log.append(records).settled())


async def _archive(roll: Roll) -> None:
    """All that is in the log is archived, and sealed."""
    partitions = await roll.archive_partitions()
    loop = await roll.follow(ARCHIVE_FOLLOWER)
    for partition, end in (await roll.log.ends(sorted({one.topic for one in partitions}))).items():
        assert not end or await loop.caught_up(Position(*partition, end - 1), PATIENCE_S)
    await loop.stop()
    roll.archive().keeper.seal_all(partitions)

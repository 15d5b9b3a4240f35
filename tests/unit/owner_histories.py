"""Random histories as rows, the owners in them, and a projector whose states depend on the order of events."""

from __future__ import annotations

from random import Random
from typing import Any

from tests.unit.replay_histories import TOPICS, Log, batch_of, random_log

from tallyroll.events.position import TopicPartition
from tallyroll.events.rows import Rows
from tallyroll.replay.fold import View
from tallyroll.replay.gather import owners_by
from tallyroll.replay.judge import Judge
from tallyroll.replay.kinds import StateType
from tallyroll.replay.projector import StateProjector
from tallyroll.replay.selection import take_rows

Rowed = dict[TopicPartition, Rows]
PROJECTED = ("task.started", "task.completed", "tool.invoked", "agent.started")


def dice(seed: int) -> Random:
    return Random(seed)  # noqa: S311  # repeatable


def rows_by_partition(log: Log) -> Rowed:
    found = {partition: Judge().rows(batch_of(partition, values)) for partition, values in log.items() if values}
    return {partition: rows for partition, rows in found.items() if rows is not None}


def random_rows(seed: int, count: int = 120) -> Rowed:
    return rows_by_partition(random_log(dice(seed), count))


def owners(rows: Rowed, kind: str) -> list[str]:
    return sorted({owner for some in rows.values() for owner in owners_by(kind)(some) if owner is not None})


def owned(rows: Rowed, kind: str, owner: str) -> Rowed:
    mine = {partition: [index for index, one in enumerate(owners_by(kind)(some)) if one == owner] for partition, some in rows.items()}
    return {partition: take_rows(rows[partition], indexes) for partition, indexes in mine.items() if indexes}


def in_topics(rows: Rowed, view: View) -> Rowed:
    assert set(view.topics) <= set(TOPICS)
    return {partition: some for partition, some in rows.items() if partition.topic in view.topics}


def trail(state: dict[str, Any], event: Any) -> dict[str, Any]:
    """Depends on the order: a trail of types, and the last tool."""
    return {**state, "trail": [*state["trail"], str(event.event_type)], "last": event.payload.get("tool_name")}


def counted(state: dict[str, Any], event: Any) -> dict[str, Any]:
    after = trail(state, event)
    after["tokens"] = state.get("tokens", 0) + event.payload.get("tokens", 0)
    return after


def empty(owner: str) -> dict[str, Any]:
    return {"owner": owner, "trail": []}


def projector(**options: Any) -> StateProjector:
    made = StateProjector(**options)
    for name in PROJECTED:
        made.register_projection(StateType.AGENT_STATE, name, counted if name == "task.completed" else trail)
    made.register_initializer(StateType.AGENT_STATE, empty)
    return made

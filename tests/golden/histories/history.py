"""Recorded histories: the first line says what each view of the fold must come to, every other line is one raw record.

After a deliberate change of a view (with its version raised): ``python -m tests.golden.histories.history FILE...`` writes
the first line anew. The records of a released history never change.
"""

from __future__ import annotations

import asyncio
import base64
import sys
from pathlib import Path
from typing import Any

import msgspec
from tests.unit.replay_histories import CATALOGUE, Log, ReadOnlyLog, empty_log, replay

from tallyroll.events.position import TopicPartition
from tallyroll.replay.fold import states_hash
from tallyroll.replay.views import VIEWS

FOLDER = Path(__file__).parent


def load(path: Path) -> tuple[dict[str, Any], Log]:
    """What is expected, and the log."""
    expected, *records = map(msgspec.json.decode, path.read_bytes().splitlines())
    log = empty_log()
    for record in records:
        value = record["value"].encode() if "value" in record else base64.b64decode(record["base64"])
        log[TopicPartition(record["topic"], record["partition"])].append(value)
    return expected, log


async def outcome(log: Log) -> dict[str, Any]:
    """Per view its version, the number of owners and the hash of their states."""
    result = {}
    for view in VIEWS:
        states = (await replay(ReadOnlyLog(log), CATALOGUE, view)).states
        result[view.name] = {"version": view.version, "owners": len(states), "hash": states_hash(states)}
    return result


def store(path: Path, log: Log, expected: dict[str, Any]) -> None:
    lines = [msgspec.json.encode(expected)]
    for (topic, partition), values in log.items():
        for value in values:
            try:
                content = {"value": value.decode()}
            except UnicodeDecodeError:
                content = {"base64": base64.b64encode(value).decode()}
            lines.append(msgspec.json.encode({"topic": topic, "partition": partition, **content}))
    path.write_bytes(b"\n".join(lines) + b"\n")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        _, recorded = load(Path(name))
        store(Path(name), recorded, asyncio.run(outcome(recorded)))

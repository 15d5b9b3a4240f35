"""The contenders of the replay benchmark, each a small function that runs alone in a process of its own.

Each gives its figures with the events it dealt with and a hash of what it made of them. Hashes under one name must be equal
in all contenders and rounds: one that lost an event stops the benchmark.
"""

from __future__ import annotations

from typing import Final

from bench.replay_archived import archived, at_one_moment, by_projector, cold_lookup, lookups, seal, sizes, whole_history
from bench.replay_beside import bare, by_hand, decode_alone, decode_and_fold, eventsourcing, from_kafka, in_memory, one_aggregate
from bench.replay_site import Step
from tallyroll.replay.plan import ReplayMode

STEPS: Final[dict[str, tuple[str, Step]]] = {
    "rows-1": ("archive", archived()),
    "rows-2": ("archive", archived(mode=ReplayMode.PARALLEL, workers=2)),
    "columns-1": ("archive", archived(columnar=True)),
    "columns-2": ("archive", archived(columnar=True, mode=ReplayMode.PARALLEL, workers=2)),
    "incremental": ("archive", archived(mode=ReplayMode.INCREMENTAL)),
    "projector-1": ("archive", by_projector(1)),
    "projector-2": ("archive", by_projector(2)),
    "moment": ("archive", at_one_moment),
    "lookups": ("archive", lookups()),
    "lookups-half": ("archive", lookups(half=True)),
    "lookup-cold": ("archive", cold_lookup),
    "one-agent": ("archive", whole_history),
    "one-aggregate": ("embedded log", one_aggregate),
    "sizes": ("archive", sizes),
    "seal": ("archive", seal),
    "decode": ("memory", decode_alone),
    "decode-fold": ("memory", decode_and_fold),
    "validate-off": ("memory", in_memory("off")),
    "validate-sequence": ("memory", in_memory("sequence")),
    "kafka-bare": ("kafka", bare),
    "kafka-rows-1": ("kafka", from_kafka(1)),
    "kafka-rows-2": ("kafka", from_kafka(2)),
    "kafka-by-hand": ("kafka", by_hand),
    "eventsourcing": ("archive", eventsourcing),
}
"""What is run, by name: where the events come from, and the contender. Kept in the order in which they are run."""

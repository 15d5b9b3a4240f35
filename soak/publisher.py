"""A program that publishes in one of four ways until it is told to stop, and writes down what it tried and what it was told.

``python -m soak.publisher ROLE NAME SEED DIARY``; the settings come from the environment. SIGTERM is left to the roll: it drains.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from hashlib import sha256
from itertools import count, islice
from pathlib import Path
from random import Random
from typing import Any, Final

from soak.told import Diary, Race, Recorded
from tallyroll import PrivacyCompliantEvent
from tallyroll.adapters.system import SystemClock
from tallyroll.audit.recording.new_entry import NewEntry
from tallyroll.errors import Backpressure, LogError, LogUnavailable, PublishRejected, PublishUncertain, SpanGone, VersionConflict
from tallyroll.events.event import AgentEvent, EventMetadata
from tallyroll.events.ids import utc_now
from tallyroll.roll import Roll
from tallyroll.simulate import Fleet
from tallyroll.testing.history import Fail, Info, Invoke, Ok, outcome_entry

CANARY: Final = "canary7f3a"
"""In every text and address that has to be sealed; nowhere may it be found in clear."""

PERSONS: Final = tuple(f"person-{number}" for number in range(6))
ODD: Final = (
    "plain-1", "with blank", "a/b", "x.y.z", "star*", "more>", "per%cent", 'quo"te', "ba\\ck", "ümläut", "日本語", "🦉", "a:b:c", "{brace}",
    "*", ".", "-", "__other__", "e\u0301", "x" * 200,
)  # fmt: skip
RACES: Final = tuple(f"race-{number}" for number in range(3))
_CLOCK: Final = SystemClock()


class Program:
    """One life of one publisher."""

    def __init__(self, roll: Roll, name: str, seed: int, diary: Diary) -> None:
        self._roll = roll
        self._name = name
        self._seed = seed
        self._rng = Random(seed)  # noqa: S311  # repeatable, no secret
        self._diary = diary

    async def batches(self) -> None:
        """What a fleet does, in batches of some tens; its agents are those of every other fleet too."""
        fleet = Fleet(seed=self._seed, agents=12, start=utc_now() - timedelta(hours=2), tasks_per_agent_hour=120).run()
        while True:
            await self._batch(list(islice(fleet, self._rng.choice((1, 10, 40, 120)))))
            await _CLOCK.sleep(self._rng.uniform(0.1, 1.5))

    async def single(self) -> None:
        """Events one by one, some together, of agents whose ids have every kind of character, some with personal fields."""
        while True:
            await asyncio.gather(*(self._single() for _ in range(self._rng.choice((1, 1, 1, 5)))))
            await _CLOCK.sleep(self._rng.uniform(0.0, 0.3))

    async def races(self) -> None:
        """Events that expect a version, of aggregates that others want as well."""
        while True:
            await self._race(self._rng.choice(RACES))
            await _CLOCK.sleep(self._rng.uniform(0.0, 0.4))

    async def entries(self) -> None:
        """Audit entries about persons, some alone and some together."""
        for number in count():
            await self._record(number, self._rng.choice((1, 1, 4)))
            await _CLOCK.sleep(self._rng.uniform(0.0, 0.5))

    async def _batch(self, events: Sequence[AgentEvent]) -> None:
        self._diary.happened(*(Invoke(self._name, event.event_id, event.key) for event in events))
        outcomes = await self._roll.publish_batch(events)
        self._diary.happened(*(outcome_entry(event.event_id, outcome) for event, outcome in zip(events, outcomes, strict=True)))

    async def _single(self) -> None:
        event = self._odd_event()
        self._diary.happened(Invoke(self._name, event.event_id, event.key))
        try:
            receipt = await self._roll.publish(event)
        except (PublishRejected, Backpressure):
            self._diary.happened(Fail(event.event_id))
        except PublishUncertain:
            self._diary.happened(Info(event.event_id))
        else:
            assert receipt.position is not None  # it waits for the log
            self._diary.happened(Ok(event.event_id, str(receipt.position.topic_partition), receipt.position.offset))

    def _odd_event(self) -> AgentEvent:
        agent = f"{self._rng.choice(ODD)}"
        kind = self._rng.randrange(4)
        if kind == 0:
            return AgentEvent("agent.started", agent, "agent", {"agent_type": "odd", "version": "1"})
        payload: dict[str, Any] = {"agent_id": agent, "duration_ms": self._rng.randrange(10, 5_000), "tokens": self._rng.randrange(500)}
        if kind == 1:
            number = self._rng.randrange(10**6)
            personal = {**payload, "customer_id": self._rng.choice(PERSONS), "email": f"{CANARY}.{number}@mail.example"}
            fields = {"event_type": "task.completed", "aggregate_id": f"odd-{number}", "aggregate_type": "task", "payload": personal}
            return PrivacyCompliantEvent(fields).event
        return AgentEvent(
            "task.completed", f"odd {self._rng.choice(ODD)}", "task", payload, EventMetadata(session_id=self._rng.choice(ODD))
        )

    async def _race(self, name: str) -> None:
        event = AgentEvent("workflow.step.completed", name, "workflow", {"agent_id": "racer", "step": self._name})
        try:
            expected = await self._roll.version("workflow", name)
        except (LogUnavailable, SpanGone):
            return
        self._diary.happened(Invoke(self._name, event.event_id, event.key))
        outcome = "open"
        try:
            receipt = await self._roll.publish(event, expected_version=expected)
        except VersionConflict:
            outcome = "lost"
        except PublishRejected:
            outcome = "lost"
            self._diary.happened(Fail(event.event_id))
        except LogError:
            pass
        else:
            outcome = "won"
            assert receipt.position is not None  # it waits for the log
            self._diary.happened(Ok(event.event_id, str(receipt.position.topic_partition), receipt.position.offset))
        self._diary.fact(Race(event.event_id, event.key, expected, outcome))  # type: ignore[arg-type]  # one of the three

    async def _record(self, number: int, together: int) -> None:
        texts = [f"{CANARY} {self._name} {number} {place} {self._rng.randrange(10**9)}" for place in range(together)]
        persons = [self._rng.choice(PERSONS) for _ in texts]
        entries = [
            NewEntry.of(
                "customer.changed", "data_modification", "update", "changed an address", agent_id="crm-1", subjects=[person],
                purpose="support", compliance_frameworks={"gdpr"}, payload={"customer_id": person, "note": text},
            )
            for person, text in zip(persons, texts, strict=True)
        ]  # fmt: skip
        try:
            made = await self._roll.audit.create_audit_entries(entries)
        except LogError:  # uncertain, or refused: either way it may turn up later, or never
            return
        now = _CLOCK.now_us()
        for entry, person, text in zip(made, persons, texts, strict=True):
            self._diary.fact(Recorded(entry.audit_id, person, sha256(text.encode()).hexdigest(), now))


async def publish(role: str, name: str, seed: int, diary: Diary) -> None:
    """Publishes until the process is ended."""
    async with Roll.open() as roll:
        program = Program(roll, name, seed, diary)
        ways = {"batches": program.batches, "single": program.single, "races": program.races, "entries": program.entries}
        await ways[role]()


def main(role: str, name: str, seed: str, folder: str) -> None:
    """One life."""
    with suppress(KeyboardInterrupt):
        asyncio.run(publish(role, name, int(seed), Diary(Path(folder), name)))


if __name__ == "__main__":
    main(*sys.argv[1:])

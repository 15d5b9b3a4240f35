"""The judgement: waits until all is quiet, reads everything that was made, and asks the checks."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from random import Random
from typing import Any, Final

import nats
from confluent_kafka import Consumer, KafkaException, TopicPartition
from redis import Redis
from tests.unit.analytics_histories import differences, stored
from tests.unit.analytics_reference import Reference

from soak import checks
from soak.checks import Finding, Log, Record
from soak.programs import ROOT, tallyroll
from soak.publisher import CANARY, PERSONS
from soak.site import STREAM, Site
from soak.told import Recorded, entries_in, history_in, races_in
from tallyroll.adapters.sqlite.window_store import SqliteWindowStore
from tallyroll.adapters.system import SystemClock
from tallyroll.analytics.spec import BUILT_IN
from tallyroll.events.topics import AUDIT_TOPIC, DEAD_LETTER_TOPIC
from tallyroll.replay.fold import state_hash
from tallyroll.replay.views import AGENT, TASK, WORKFLOW
from tallyroll.roll import FOLLOWERS, Roll
from tallyroll.settings import Settings

Say = Callable[[str], None]
"""Told of each step."""

_QUIET_S: Final = 300.0  # until everything has caught up
_HEARD_S: Final = 45.0  # until a sealer has noticed that a writer was killed: six heartbeats, if what came last had waited in a spool
_SAMPLE: Final = 400  # entries that are opened
_NOTED: Final = frozenset({"gap", "late", "head_pending"})  # what an intact ledger may say of processes that were killed


async def settle(site: Site, say: Say) -> list[Finding]:
    """Everything that was accepted is in the log, and every follower has stored all of it; what did not come about."""
    say("publishers leave")
    site.mend()
    site.finish_commands()
    site.resume_erasures()
    found: list[Finding] = []
    say("spools are emptied")
    async with Roll.open() as roll:
        await roll.publisher.connect()
        left = await roll.publisher.flush(_QUIET_S)
        if left or roll.publisher.refused_in_spool:
            found.append(Finding("spool", f"{left} events are left, {roll.publisher.refused_in_spool} were refused"))
        say("followers catch up")
        behind = await _behind(roll)
        began = time.monotonic()
        while time.monotonic() < began + (_QUIET_S if behind else _HEARD_S):
            await asyncio.sleep(1)  # noqa: TID251  # looks on from outside
            site.look()
            behind = await _behind(roll)
        found += [
            Finding("lag", f"{name} is {count} records behind after {_QUIET_S:.0f} s without faults") for name, count in behind.items()
        ]
    site.stop_followers()
    for _ in range(3):  # what alerts and findings add while followers leave is followed too
        done = tallyroll("run", "all", "--once", "--json")
        if done.code:
            found.append(Finding("lag", f"'run all --once' ended with {done.code}: {done.err[-500:]}"))
    return found


async def _behind(roll: Roll) -> dict[str, int]:
    counts = {name: sum(lag.records for lag in await roll.lag(name)) for name in FOLLOWERS}
    return {name: count for name, count in counts.items() if count}


async def judge(site: Site, seed: int, say: Say) -> tuple[list[Finding], dict[str, Any]]:
    """Everything that does not hold, and how much was looked at. Nothing else may run."""
    settings = Settings.from_env()
    erased = await asyncio.to_thread(_erase, PERSONS[0])
    say("the log is read")
    entries, races, recorded = history_in(site.diary), races_in(site.diary), entries_in(site.diary)
    async with Roll.open(settings) as roll:
        topics = [topic.name for topic in roll.catalogue.topics if topic.user]
        log = Log(await asyncio.to_thread(lambda: list(_records(settings, topics))))
        found = [*checks.history(entries, log), *checks.invented(entries, log), *checks.chains(log), *checks.races(races, log)]
        say("states and archive are compared")
        found += await _states(roll, site, log)
        archived, kept = await _archived(roll)
        found += checks.archived(archived, log, kept=kept, pruned_us=site.pruned_us)
        found += checks.letters([(one.info.follower, str(one.position)) async for one in roll.dead_letters()], log)
        say("the trail is read")
        opened = await _opened(roll, recorded, seed)
    found += await _panes(settings, log)
    found += checks.messages(await _messages(site), settings.nats_event_types.split(","), log)
    trail = _trail(site)
    found += checks.trail(trail, recorded, log)
    found += checks.persons(opened, recorded, _erasures(site, erased))
    say("verifiers are asked")
    found += [*_verifiers(site), *_commands(site)]
    say("files are searched")
    others = list(_records(settings, [AUDIT_TOPIC, DEAD_LETTER_TOPIC]))
    texts = [*((record.place, record.value) for record in (*log.records, *others)), *_files(site)]
    found += checks.in_clear(texts, {"a text that is to be sealed": CANARY.encode(), "the secret": site.secret.encode()})
    found += [Finding("program", line) for line in site.all_unexpected()]
    figures = {
        "records": len(log.records), "repeats": len(log.records) - len(log.garbage) - len(log.firsts), "garbage": len(log.garbage),
        "outrun": len(log.outrun), "acknowledged": sum(type(entry).__name__ == "Ok" for entry in entries),
        "invoked": sum(type(entry).__name__ == "Invoke" for entry in entries), "recorded": len(recorded), "trail": len(trail),
        "opened": len(opened), "pruned": sum(kept.values()),
    }  # fmt: skip
    return found, figures


def _records(settings: Settings, topics: list[str]) -> Iterator[Record]:
    """Read by a plain consumer, from the first to the last."""
    consumer = Consumer({"bootstrap.servers": settings.bootstrap_servers, "group.id": "judge", "enable.auto.commit": False})
    try:
        known = consumer.list_topics(timeout=30).topics
        places = [TopicPartition(topic, number, 0) for topic in topics for number in known[topic].partitions]
        ends = {(one.topic, one.partition): consumer.get_watermark_offsets(one, timeout=30)[1] for one in places}
        left = {place for place, end in ends.items() if end}
        consumer.assign(places)
        while left:
            for message in consumer.consume(500, 0.2):
                if message.error():
                    raise KafkaException(message.error())
                place, offset, value = (message.topic(), message.partition()), message.offset() or 0, message.value() or b""
                if place in left:
                    yield Record(f"{place[0]}/{place[1]}", offset, message.key() or b"", value, _event(value), message.timestamp()[1])
                    if offset + 1 == ends[place]:
                        left.discard(place)
    finally:
        consumer.close()


def _event(value: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(value)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) and "id" in event and "type" in event else None


async def _states(roll: Roll, site: Site, log: Log) -> list[Finding]:
    wanted: dict[str, str] = {}
    found: list[Finding] = []
    with Redis(port=site.redis.port) as client:
        names = [f"{view.name}:" for view in (AGENT, TASK, WORKFLOW)]
        keys = [key.decode() for key in client.scan_iter("tallyroll:*:state", count=1_000)]
        own = [key for key in keys if key.removeprefix("tallyroll:").startswith(tuple(names))]
        bodies = {key.removeprefix("tallyroll:").removesuffix(":state"): client.get(key) or b"" for key in own}
    for view in (AGENT, TASK, WORKFLOW):
        states = (await roll.replay(view)).states
        wanted |= {f"{view.name}:{owner}": state_hash(state) for owner, state in states.items()}
    found += checks.views(bodies, wanted)
    agents = {name.removeprefix("agent:"): json.loads(body) for name, body in bodies.items() if name.startswith("agent:")}
    found += checks.tasks_completed(agents, log, where="redis")
    live = {agent: await roll.state(AGENT, agent, follow=False) or {} for agent in agents}
    found += checks.tasks_completed(live, log, where="state store")
    return found


async def _archived(roll: Roll) -> tuple[dict[str, list[tuple[int, bytes, bytes]]], dict[str, int]]:
    """What the archive holds by partition, and the first offset that pruning has left."""
    reader, found = roll.archive().reader, {}
    marks = reader.marks(await roll.archive_partitions())
    for where, mark in marks.items():
        records = [
            (offset, key or b"", value or b"")
            for batch in reader.records(where, mark.kept, mark.next)
            for offset, key, value in zip(batch.offsets, batch.keys, batch.values, strict=True)
        ]
        found[str(where)] = records
    return found, {str(where): mark.kept for where, mark in marks.items() if mark.kept}


async def _panes(settings: Settings, log: Log) -> list[Finding]:
    store = await SqliteWindowStore.open(settings.data_dir / "analytics.db")
    try:
        panes, found = await stored(store, BUILT_IN), []
    finally:
        await store.close()
    by_place: dict[str, list[Record]] = {}
    for record in log.records:
        if not record.partition.startswith("system-events") and record.id not in log.outrun:  # what analytics says itself is not counted
            by_place.setdefault(record.partition, []).append(record)
    kept = {str(place): cells for place, cells in panes.items()}
    for place in sorted(by_place.keys() | kept.keys()):
        reference = Reference(BUILT_IN, SystemClock().now_us())
        reference.feed((record.value, record.timestamp_ms) for record in by_place.get(place, []))  # a fleet may run ahead of the clock
        odd = differences(kept.get(place, {}), reference)
        if odd:
            found.append(Finding("panes", f"{len(odd)} panes of {place} are not what its records come to, first {odd[0]}"))
    return found


async def _messages(site: Site) -> list[str]:
    client = await nats.connect(site.nats.url)
    try:
        stream = client.jetstream()
        left = (await stream.stream_info(STREAM)).state.messages
        subscription = await stream.pull_subscribe("", stream=STREAM, durable=f"judge-{time.time_ns()}")
        found: list[str] = []
        while len(found) < left:
            for message in await subscription.fetch(500, timeout=10):
                found.append((message.headers or {})["Nats-Msg-Id"])
                await message.ack()
        return found
    finally:
        await client.close()


async def _opened(roll: Roll, recorded: list[Recorded], seed: int) -> dict[str, str | None]:
    """The digest of the text of some entries, None where it was erased."""
    rng, found = Random(seed), {}  # noqa: S311  # a sample that can be drawn again
    for one in rng.sample(recorded, min(_SAMPLE, len(recorded))):
        entry = await roll.audit.get_audit_entry(one.audit_id)
        if entry is not None:
            text = (entry.payload or {}).get("note")
            found[one.audit_id] = None if text is None else sha256(str(text).encode()).hexdigest()
    return found


def _erase(person: str) -> tuple[int, int]:
    clock = SystemClock()
    began = clock.now_us()
    done = tallyroll("audit", "erase", person, "--yes", "--json")
    assert done.code == 0, done.err
    return began, clock.now_us()


def _erasures(site: Site, last: tuple[int, int]) -> dict[str, tuple[int, int]]:
    return {**site.erased, PERSONS[0]: last}


def _trail(site: Site) -> list[dict[str, Any]]:
    file = site.folder / "trail.jsonl"
    done = tallyroll("audit", "export", str(file), "--format", "json")
    assert done.code == 0, done.err
    return [json.loads(line) for line in file.read_text().splitlines()]


def _verifiers(site: Site) -> Iterator[Finding]:
    ledger = site.folder / "ledger.zip"
    done = tallyroll("audit", "export", str(ledger), "--format", "ledger")
    key = json.loads(tallyroll("audit", "keys", "status", "--json").out)["public_key"]
    verifier = [sys.executable, "-m", "tallyroll.audit.verify", str(ledger), "--key", key, "--json"]
    offline = subprocess.run(verifier, capture_output=True, text=True, cwd=ROOT, check=False)
    if done.code or offline.returncode not in (0, 3):
        yield Finding("verifier", f"exit code {offline.returncode}: {(offline.stdout + offline.stderr)[-3_000:]}")
    elif strange := set(json.loads(offline.stdout)["counts"]) - _NOTED:
        yield Finding("verifier", f"it says {', '.join(sorted(strange))}")


def _commands(site: Site) -> Iterator[Finding]:
    """What tallyroll says of itself."""
    before = site.folder / "before.json"
    sound = tallyroll("replay", "verify", "--json")
    before.write_text(sound.out)
    place = site.folder / "restored"
    place.mkdir()
    asked = {
        "verify chain": tallyroll("verify", "chain"),
        "replay verify": sound,
        "archive status": tallyroll("archive", "status"),
        "audit verify": tallyroll("audit", "verify"),
        "doctor": tallyroll("doctor"),
        "replay restore": tallyroll("replay", "restore", "--expect", str(before), environ=site.elsewhere(place)),
    }
    for name, said in asked.items():
        (site.logs / f"{name.replace(' ', '-')}.txt").write_text(said.out + said.err)
        lossy = name == "audit verify" and said.code == 1 and "lost" in said.out and "keys are lost" not in said.out + said.err
        if said.code and not lossy:
            yield Finding("command", f"'{name}' ended with {said.code}: {(said.out + said.err)[-1_500:]}")


def _files(site: Site) -> Iterator[tuple[str, bytes]]:
    """What lies on the disk, but for what we know ourselves."""
    for file in sorted(site.folder.rglob("*")):
        if file.is_file() and site.diary not in file.parents and file != site.folder / "secret":
            yield str(file.relative_to(site.folder)), file.read_bytes()

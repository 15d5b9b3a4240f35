"""The checks of ``tallyroll doctor`` on followers: how what each has stored stands beside the log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from tallyroll.adapters.extras import available
from tallyroll.adapters.sqlite.state_store import SqliteStateStore
from tallyroll.adapters.sqlite.window_store import SqliteWindowStore
from tallyroll.adapters.system.clock import SystemClock
from tallyroll.audit.reading.mac_keys import mac_keys
from tallyroll.bridges.forward import topics_of, types_named
from tallyroll.bridges.state_sync import TOPICS as REDIS_TOPICS
from tallyroll.cli.doctor.checks import Check
from tallyroll.cli.moments import short_span
from tallyroll.cli.printing import counted
from tallyroll.errors import KeyRingUnavailable, TallyrollError
from tallyroll.events.position import TopicPartition
from tallyroll.events.topics import AUDIT_TOPIC, Catalogue
from tallyroll.events.types import SYSTEM_TOPIC
from tallyroll.opening import archive_folder, audit_folder, open_archive, open_audit_keys, open_ledger_store, open_state_target
from tallyroll.ports import EventLog
from tallyroll.replay.state import StateFollower, stored_positions
from tallyroll.roll import ANALYTICS_FOLLOWER, AUDIT_FOLLOWER, NATS_FOLLOWER, REDIS_FOLLOWER, STATE_FOLLOWER
from tallyroll.settings import Settings

if TYPE_CHECKING:
    from tallyroll.archive.report import ArchiveReport

_AHEAD: Final = "ahead of the log: it belongs to another log, or this is an older copy"


class Stored(NamedTuple):
    """What a follower has stored: in which place (for people), of which topics, how far."""

    follower: str
    place: str
    topics: Sequence[str]
    positions: Mapping[TopicPartition, int]


async def follower_checks(settings: Settings, catalogue: Catalogue, log: EventLog) -> AsyncIterator[Check]:
    """A line per follower that has something here; joins no group. Raises as the log does."""
    looks = (_state, _panes, _redis, _nats, _audit, _ring)
    for look in looks:
        stored = await look(settings, catalogue, log)
        if isinstance(stored, Stored):
            yield await _beside(stored, log)
        elif stored is not None:
            yield stored
    if not settings.in_memory and archive_folder(settings).is_dir():
        yield await _archive(settings, catalogue, log)


async def _state(settings: Settings, catalogue: Catalogue, _: EventLog) -> Stored | Check:
    path = settings.data_dir / "state.db"
    if settings.in_memory or not path.exists():
        return Check(STATE_FOLLOWER, "ok", "no state is stored yet; 'tallyroll run' makes it")
    store = await SqliteStateStore.open(path)
    try:
        positions = await stored_positions(store)
    finally:
        await store.close()
    return Stored(STATE_FOLLOWER, str(path), [catalogue[base].name for base in StateFollower.TOPICS], positions)


async def _panes(settings: Settings, catalogue: Catalogue, _: EventLog) -> Stored | None:
    path = settings.data_dir / "analytics.db"
    if settings.in_memory or not path.exists():
        return None
    windows = await SqliteWindowStore.open(path)
    try:
        positions = {partition: one.next for partition, one in (await windows.load_progress()).items()}
    finally:
        await windows.close()
    topics = [topic.name for topic in catalogue.topics if topic.user and topic.base != SYSTEM_TOPIC]
    return Stored(ANALYTICS_FOLLOWER, str(path), topics, positions)


async def _redis(settings: Settings, catalogue: Catalogue, _: EventLog) -> Stored | None:
    if not settings.redis_host or not available("redis"):
        return None
    target = open_state_target(settings)
    try:
        progress = await target.progress(catalogue.partitions(REDIS_TOPICS))
    except TallyrollError:  # said already, by the checks of Redis itself
        return None
    finally:
        await target.close()
    topics = [catalogue[base].name for base in REDIS_TOPICS]
    return Stored(REDIS_FOLLOWER, "Redis", topics, {partition: one.next for partition, one in progress.items()})


async def _nats(settings: Settings, catalogue: Catalogue, log: EventLog) -> Stored | None:
    if not settings.nats_servers:
        return None
    topics = [catalogue[base].name for base in topics_of(types_named(settings.nats_event_types), catalogue)]
    return Stored(NATS_FOLLOWER, "the group", topics, await log.committed(settings.group(NATS_FOLLOWER), topics))


async def _audit(settings: Settings, catalogue: Catalogue, _: EventLog) -> Stored | Check | None:
    """None where nobody has recorded anything. The keys are opened first: without them a ledger is worth little."""
    folder = audit_folder(settings)
    if settings.in_memory or not folder.is_dir():
        return None
    if not available("audit"):
        return Check(AUDIT_FOLLOWER, "warn", f"there is a ledger in {folder}, and it cannot be read here", "pip install 'tallyroll[audit]'")
    try:
        keys = await asyncio.to_thread(open_audit_keys, settings)
    except TallyrollError as error:
        return Check(AUDIT_FOLLOWER, "fail", str(error), "see the page on the ledger's keys; never make a ring anew")
    await asyncio.to_thread(keys.close)
    if not (folder / "ledger.sqlite").exists():
        return Check(AUDIT_FOLLOWER, "warn", "the keys open; no ledger is kept here", "'tallyroll run audit' keeps it")
    store = await open_ledger_store(settings)
    try:
        positions = await store.progress()
    finally:
        await store.close()
    topics = [topic.name for topic in catalogue.topics if topic.user or topic.base == AUDIT_TOPIC]
    return Stored(AUDIT_FOLLOWER, str(folder), topics, positions)


async def _ring(settings: Settings, _: Catalogue, __: EventLog) -> Check | None:
    """Whether the key ring has what the ledger's writers were given; None where there is no ledger, or its keys do not open."""
    if settings.in_memory or not (audit_folder(settings) / "ledger.sqlite").exists() or not available("audit"):
        return None
    try:
        keys = await asyncio.to_thread(open_audit_keys, settings)
    except TallyrollError:  # said already
        return None
    store = await open_ledger_store(settings)
    try:
        lost = (await mac_keys(store, keys.ring)).lost
    except KeyRingUnavailable as error:  # another host keeps it
        return Check("keys", "fail", str(error), "see the page on the ledger's keys; never make a ring anew")
    finally:
        await store.close()
        await asyncio.to_thread(keys.close)
    if not lost:
        return Check("keys", "ok", "the ring has the keys of every writer epoch")
    says = f"the ring lacks the keys of {counted(len(lost), 'writer epoch')}: an older copy of it is, or was, in its place"
    return Check("keys", "warn", says, "put its newest copy back; 'tallyroll audit verify' counts what nobody can read")


async def _beside(stored: Stored, log: EventLog) -> Check:
    name, place, topics, positions = stored
    ends, starts = await log.ends(topics), await log.starts(topics)
    behind = sum(max(0, end - max(positions.get(partition, 0), starts.get(partition, 0))) for partition, end in ends.items())
    if any(positions.get(partition, 0) > end for partition, end in ends.items()):
        move = {
            REDIS_FOLLOWER: "give each log a TALLYROLL_TOPIC_PREFIX",
            AUDIT_FOLLOWER: "put the newest copy of the log back; if that is lost, or this is another log, keep the ledger as evidence",
        }.get(name, "move it away; it is made anew from the log")
        return Check(name, "fail", f"{place} is {_AHEAD}", move)
    if behind:
        command = "tallyroll run" if name == STATE_FOLLOWER else f"tallyroll run {name}"
        return Check(name, "warn", f"{counted(behind, 'record')} behind the log", f"run '{command}' as a service, or '{command} --once'")
    return Check(name, "ok", "up to date with the log")


async def _archive(settings: Settings, catalogue: Catalogue, log: EventLog) -> Check:
    """Whether topics forget, or soon will, what is not archived."""
    if not available("archive"):
        return Check(
            "archive", "warn", f"there is one in {archive_folder(settings)}, and it cannot be read here", "pip install 'tallyroll[archive]'"
        )
    from tallyroll.archive.report import report  # noqa: PLC0415  # needs the extra

    archive = await asyncio.to_thread(open_archive, settings, catalogue, SystemClock())
    try:
        found = await report(archive.keeper, log, catalogue, SystemClock())
    finally:
        await asyncio.to_thread(archive.close)
    return _judged(found, archive_folder(settings))


def _judged(found: Sequence[ArchiveReport], folder: Path) -> Check:
    if damaged := [f"{one.partition}/{each.segment}: {each.reason}" for one in found for each in one.damaged]:
        says = f"{counted(len(damaged), 'file')} not as sealed, first {damaged[0]}"
        return Check("archive", "fail", says, "put it back from a copy; see 'tallyroll archive status'")
    if lost := [str(one.partition) for one in found if one.alarm == "lost"]:
        says = f"topics forgot records before they were archived, in {counted(len(lost), 'partition')}, first {lost[0]}"
        return Check("archive", "fail", says, "run 'tallyroll run archive' as a service; see 'tallyroll archive status'")
    if ahead := [str(one.partition) for one in found if one.alarm == "ahead"]:
        says = f"{folder} is {_AHEAD}, in {counted(len(ahead), 'partition')}, first {ahead[0]}"
        return Check(
            "archive", "fail", says, "put the newest copy of the log back; if that is lost, keep this archive and name another folder"
        )
    waiting = sum(one.unarchived for one in found)
    if soon := [one for one in found if one.alarm == "warning"]:
        left = min(one.headroom_ms or 0 for one in soon)
        says = f"{counted(waiting, 'record')} behind the log, and topics forget the first of them in {short_span(max(0, left) / 1_000)}"
        return Check("archive", "fail", says, "run 'tallyroll run archive' now")
    if waiting:
        return Check("archive", "warn", f"{counted(waiting, 'record')} behind the log", "run 'tallyroll run archive' as a service")
    return Check("archive", "ok", "up to date with the log")

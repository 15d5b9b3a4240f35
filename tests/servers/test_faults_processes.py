"""Publishers and consumers that die, on a broker that works: what they acknowledged is there, effects happen once."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tests.flows.leaving import find, leave
from tests.flows.test_exit import WAYS
from tests.patience import LEAST_SESSION_MS, PATIENCE_S
from tests.servers.faulting import CLOCK, create_topics, publishing, until

from tallyroll.adapters.kafka.log import KafkaLog
from tallyroll.events.topics import Catalogue
from tallyroll.ports import Delivered, Outcome
from tallyroll.settings import Settings
from tallyroll.telemetry import Counters
from tallyroll.testing.builders import records
from tallyroll.testing.checker import check
from tallyroll.testing.history import Assign, Entry, Invoke, Ok, Poll, Read

pytestmark = [pytest.mark.server, pytest.mark.fault]
PROGRAM = Path(__file__).with_name("consuming.py")
ROOT = Path(__file__).parents[2]
PATIENT = ("TALLYROLL_EXIT_GRACE_MS=30000", "TALLYROLL_STALL_MS=30000", "TALLYROLL_PUBLISH_DEADLINE_MS=60000")
"""However slow the machine is, a broker that works takes everything before the process ends."""


@pytest.fixture
def catalogue(kafka_settings: Settings) -> Catalogue:
    return asyncio.run(create_topics(kafka_settings))


# Publishers


@pytest.mark.usefixtures("catalogue")
@pytest.mark.parametrize(("way", "send", "code"), WAYS)
def test_no_way_out_loses_what_was_accepted(kafka_settings, way, send, code):
    prefix = f"TALLYROLL_TOPIC_PREFIX={kafka_settings.topic_prefix}"
    left = leave(way, kafka_settings.url, kafka_settings.data_dir, 200, prefix, *PATIENT, send=send)
    assert left.code == code, left.errors
    found = find(kafka_settings)
    assert found.ids == set(left.ids)
    assert found.findings == []
    # A signal that strikes while the Kafka client is being made leaves nobody to send with: then the spool has all of it.
    assert found.taken_over in ((0, 200) if way == "wait_for_signal" else (0,)), "all of it was delivered within the grace"


@pytest.mark.usefixtures("catalogue")
def test_parent_and_forked_child_both_publish(kafka_settings):
    left = leave("fork", kafka_settings.url, kafka_settings.data_dir, 50, f"TALLYROLL_TOPIC_PREFIX={kafka_settings.topic_prefix}")
    assert left.code == 0, left.errors
    found = find(kafka_settings)
    assert found.ids == set(left.ids)
    for key in ("task-parent", "task-child", "task-parent-2"):
        assert found.numbers(key) == list(range(50))
    assert found.findings == []


@pytest.mark.usefixtures("catalogue")
@pytest.mark.parametrize("after", [1, 37, 150])
def test_what_was_acknowledged_survives_kill_9_of_the_publisher(kafka_settings, after):
    prefix = f"TALLYROLL_TOPIC_PREFIX={kafka_settings.topic_prefix}"
    left = leave("acknowledged", kafka_settings.url, kafka_settings.data_dir, 2_000, prefix, send=signal.SIGKILL, after=after)
    assert left.code == -signal.SIGKILL
    found = find(kafka_settings)
    assert set(left.ids) <= found.ids
    assert found.numbers() == list(range(len(found.numbers())))


# Consumers


class Effects:
    """What consumers have written down."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "effects.db"

    def rows(self) -> list[tuple[str, int, int, str]]:
        """Topic, partition, offset and id of each, in the order they were written."""
        if not self._path.exists():
            return []
        connection = sqlite3.connect(self._path, timeout=PATIENCE_S)
        try:
            return connection.execute("SELECT topic, partition, place, id FROM effect ORDER BY rowid").fetchall()
        except sqlite3.OperationalError:  # not made yet
            return []
        finally:
            connection.close()

    def ids(self) -> Counter[str]:
        """How often each event had its effect."""
        return Counter(row[3] for row in self.rows())


@contextmanager
def consumer(settings: Settings, how: str = "follow", instance: str = "") -> Iterator[subprocess.Popen[str]]:
    """A consumer process, killed at the end if it is still there. An ``instance`` that comes again has its partitions at once."""
    about = [settings.bootstrap_servers, settings.topic_prefix, str(settings.data_dir), str(settings.session_timeout_ms), instance]
    arguments = [sys.executable, str(PROGRAM), how, *about]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}) as process:
        try:
            yield process
        finally:
            process.kill()


async def publish(settings: Settings, catalogue: Catalogue, count: int, seed: int = 0) -> dict[str, Delivered]:
    """That many events of ``task-events`` and where they are, appended as they are."""
    sent = [record for record in records(catalogue, count * 2, seed=seed) if record.topic == catalogue["task-events"].name][:count]
    log = await KafkaLog.open(settings, catalogue, clock=CLOCK, telemetry=Counters())
    outcomes: list[Outcome] = list(await log.append(sent).settled())
    await log.close()
    return {record.event_id: outcome for record, outcome in zip(sent, outcomes, strict=True) if isinstance(outcome, Delivered)}


async def test_effects_happen_once_whenever_the_consumer_is_killed(kafka_settings, catalogue):
    sent = await publish(kafka_settings, catalogue, 4_000)
    assert len(sent) == 4_000
    effects = Effects(kafka_settings.data_dir)
    for share in (0, 300, 1_500):
        with consumer(kafka_settings, instance="one"):
            await until(lambda share=share: sum(effects.ids().values()) > share, "effects before the kill")
    with consumer(kafka_settings, instance="one"):
        await until(lambda: len(effects.ids()) == 4_000, "the rest")
    assert set(effects.ids().values()) == {1}
    assert set(effects.ids()) == set(sent)


def test_control_with_auto_commit_the_check_finds_what_is_lost(kafka_settings, catalogue):
    sent = asyncio.run(publish(kafka_settings, catalogue, 1_000))
    effects = Effects(kafka_settings.data_dir)
    with consumer(kafka_settings, "die", "one") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "committed\n"
    first = len(effects.rows())
    later = asyncio.run(publish(kafka_settings, catalogue, 200, seed=1))  # shows when the successor has read to the end
    with consumer(kafka_settings, "go-on", "one"):
        asyncio.run(until(lambda: set(later) <= set(effects.ids()), "what came after the kill"))
    rows = effects.rows()
    history: list[Entry] = [Invoke("p", event, event) for event in sent]
    history += [Ok(event, str(item.position.topic_partition), item.position.offset) for event, item in sent.items()]
    for process_rows in (rows[:first], rows[first:]):
        history.append(Assign("c", [str(where) for where in catalogue.partitions(["task-events"])]))
        history.append(Poll("c", [Read(f"{topic}/{partition}", offset, event) for topic, partition, offset, event in process_rows]))
    report = check(history)
    assert report.of("lost")


async def test_members_that_come_and_go_under_load_lose_and_double_nothing(kafka_settings, catalogue):
    effects = Effects(kafka_settings.data_dir)
    async with publishing(kafka_settings, catalogue) as desk, desk.load(senders=12) as answered:
        with consumer(kafka_settings) as first, consumer(kafka_settings) as second:
            assert first.stdout is not None
            assert await asyncio.to_thread(first.stdout.readline) == "ready\n"
            await until(lambda: len(effects.ids()) > 200, "two members at work")
            with consumer(replace(kafka_settings, session_timeout_ms=LEAST_SESSION_MS)):
                before = len(effects.ids())
                await until(lambda: len(effects.ids()) > before + 500, "a third one joins")
                first.send_signal(signal.SIGTERM)
                await until(lambda: first.poll() is not None, "one leaves in order")
                assert first.returncode == 0
                before = answered()
                await until(lambda: answered() > before + 100, "load goes on")
            # The third one was killed: its partitions are free when its session has run out.
            assert second.poll() is None
            await desk.publisher.flush(PATIENCE_S)
            sent = {entry.id for entry in desk.history if isinstance(entry, Ok)}
            await until(lambda: sent <= set(effects.ids()), "all that was published so far has its effect")
    assert set(effects.ids().values()) == {1}

"""``tallyroll run audit`` as a service: it is killed, it shares partitions, and what it has sealed verifies for an outsider."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.environment import environment
from tests.flows.publishing import breathe
from tests.patience import LEAST_SESSION_MS, PATIENCE_S, SESSION_MS
from tests.servers.test_run_service import running, tallyroll

from tallyroll.adapters.sqlite.ledger_store import SqliteLedgerStore
from tallyroll.audit.ledger.contents import AuditEntry, in_clear
from tallyroll.audit.ledger.layout import take_out
from tallyroll.ports import LedgerWanted

pytestmark = [pytest.mark.server, pytest.mark.slow]

KEY = "5f" * 32


UNHEARD_S = "3600"
"""Between heartbeats: who was killed is called silent three of them later, unless a sealer has noticed. Tests do not last for so long."""


def on_kafka(kafka: str, prefix: str, folder: Path) -> dict[str, str]:
    """An environment for sealers, in which nobody who is alive loses partitions."""
    return environment(
        TALLYROLL_URL=f"kafka://{kafka}", TALLYROLL_TOPIC_PREFIX=prefix, TALLYROLL_DATA_DIR=str(folder), AUDIT_SECRET_KEY=KEY,
        AUDIT_HEARTBEAT_SECONDS=UNHEARD_S, TALLYROLL_SESSION_TIMEOUT_MS=str(SESSION_MS),
    )  # fmt: skip


def sealed(service) -> float:
    return service.metrics().get("audit_records_sealed_total", 0.0)


async def entries(data: Path) -> list[str]:
    """The positions of the events that have an entry, one for each entry."""
    store = await SqliteLedgerStore.open(data / "audit" / "ledger.sqlite", take_out)
    _, rows = await store.find(LedgerWanted(), limit=100_000)
    await store.close()
    return [str(row.source) for row in rows]


async def trail(data: Path) -> list[AuditEntry]:
    """What the entries say in clear."""
    store = await SqliteLedgerStore.open(data / "audit" / "ledger.sqlite", take_out)
    _, rows = await store.find(LedgerWanted(), limit=100_000)
    await store.close()
    return [in_clear(row) for row in rows]


def derived(entries: Sequence[AuditEntry]) -> int:
    """How many are of events that nobody recorded."""
    return sum(one.origin == "derived" for one in entries)


async def has(data: Path, recorded: set[str], of_others: int) -> bool:
    """Whether all of these are sealed, and so many of events that nobody recorded."""
    found = await trail(data)
    return recorded <= {one.audit_id for one in found} and derived(found) >= of_others


def verified(environ: Mapping[str, str], folder: Path) -> dict[str, object]:
    """What the auditor's program says of an export."""
    archive = folder / "export.zip"
    tallyroll(environ, "audit", "export", "--format", "ledger", str(archive))
    key = json.loads(tallyroll(environ, "audit", "keys", "status", "--json").splitlines()[0])["public_key"]
    command = [sys.executable, "-m", "tallyroll.audit.verify", str(archive), "--key", key, "--json"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stdout + done.stderr
    report: dict[str, object] = json.loads(done.stdout)
    return report


async def test_what_a_killed_sealer_had_begun_is_sealed_once_by_the_next(tmp_path: Path) -> None:
    environ = environment(TALLYROLL_URL=f"sqlite:///{tmp_path / 'log'}", AUDIT_SECRET_KEY=KEY, AUDIT_HEARTBEAT_SECONDS=UNHEARD_S)
    environ["TALLYROLL_SESSION_TIMEOUT_MS"] = "3000"  # of the killed one, to run out; and by its own the next one looks whether it has
    tallyroll(environ, "simulate", "--events", "2000", "--seed", "1")
    with running(environ, "audit", "--http", "127.0.0.1:0") as service:
        service.until(lambda: sealed(service) > 0)
        service.end(signal.SIGKILL)
    tallyroll(environ, "run", "audit", "--once")
    positions = await entries(tmp_path / "log")
    assert len(positions) == len(set(positions)) == 2_000
    verified(environ, tmp_path)


async def test_two_sealers_share_the_partitions_of_a_broker(kafka: str, prefix: str, tmp_path: Path) -> None:
    environ = on_kafka(kafka, prefix, tmp_path)
    tallyroll(environ, "topics", "apply", "--yes")
    tallyroll(environ, "simulate", "--events", "500", "--seed", "1")
    with running(environ, "audit", "--http", "127.0.0.1:0") as one:
        one.until(lambda: sealed(one) > 0)
        with running(environ, "audit", "--http", "127.0.0.1:0") as two:
            two.until(lambda: [one for one in two.json("/readyz")[1]["followers"] if one["partitions"]])
            tallyroll(environ, "simulate", "--events", "500", "--seed", "2")
            two.until(lambda: sealed(two) > 0)
            assert two.end(signal.SIGTERM) == 0
        tallyroll(environ, "simulate", "--events", "200", "--seed", "3")
        async with asyncio.timeout(PATIENCE_S):  # what is said of the lag may be some seconds old
            while len(await entries(tmp_path)) < 1_200:
                await breathe()
        assert one.end(signal.SIGTERM) == 0
    positions = await entries(tmp_path)
    assert len(positions) == len(set(positions)) == 1_200
    verified(environ, tmp_path)


WRITER = """
import asyncio, sys
from tallyroll import Roll
from tallyroll.audit.recording.new_entry import NewEntry

async def main(name, batches):
    async with Roll.open() as roll:
        for _ in range(batches):
            agents = [f"{name}-{number % 5}" for number in range(20)]
            new = [NewEntry.of("file.read", "data_access", "read", "a file", agent_id=agent, user_id="anna") for agent in agents]
            for entry in await roll.audit.create_audit_entries(new):
                assert entry.position is not None
                print(entry.audit_id, flush=True)

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


class Writing:
    """A process that records; ``said`` are the ids that were acknowledged, as they come."""

    def __init__(self, environ: Mapping[str, str], name: str, batches: int) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", WRITER, name, str(batches)], env=environ, stdout=subprocess.PIPE, text=True)
        self.said: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            self.said.extend(line.strip() for line in lines if line.endswith("\n"))

    def ended(self) -> int:
        code = self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        return code

    def kill(self) -> None:
        self.process.kill()
        self.ended()


@contextmanager
def writing(environ: Mapping[str, str], name: str, batches: int) -> Iterator[Writing]:
    writer = Writing(environ, name, batches)
    try:
        yield writer
    finally:
        writer.kill()


async def test_writers_and_sealers_are_killed_and_partitions_move_and_nothing_acknowledged_is_lost(
    kafka: str, prefix: str, tmp_path: Path
) -> None:
    environ = on_kafka(kafka, prefix, tmp_path)
    doomed = {**environ, "TALLYROLL_SESSION_TIMEOUT_MS": str(LEAST_SESSION_MS)}
    tallyroll(environ, "topics", "apply", "--yes")
    with (
        running(environ, "audit", "--http", "127.0.0.1:0") as one,
        running(doomed, "audit", "--http", "127.0.0.1:0") as two,
        writing(environ, "long", 40) as long,
        writing(environ, "cut", 10_000) as cut,
    ):
        for sealer in (one, two):
            sealer.until(lambda sealer=sealer: sealed(sealer) > 0)
        two.until(lambda: cut.said)
        cut.kill()
        two.end(signal.SIGKILL)
        with running(environ, "audit", "--http", "127.0.0.1:0") as three, writing(environ, "next", 10) as following:
            tallyroll(environ, "simulate", "--events", "300", "--seed", "3")
            assert (long.ended(), following.ended()) == (0, 0)
            three.until(lambda: sealed(three) > 0)
            assert one.end(signal.SIGTERM) == 0
            acknowledged = {*cut.said, *long.said, *following.said}
            async with asyncio.timeout(PATIENCE_S):
                while not await has(tmp_path, acknowledged, 300):
                    await breathe()
            assert three.end(signal.SIGTERM) == 0
    found = await trail(tmp_path)
    assert len(acknowledged) > 40 * 20 + 10 * 20
    assert len({one.audit_id for one in found}) == len(found)
    assert derived(found) == 300
    positions = await entries(tmp_path)
    assert len(positions) == len(set(positions)) == len(found)
    verified(environ, tmp_path)


async def test_a_broker_knows_of_a_ledger_that_is_lost(kafka: str, prefix: str, tmp_path: Path) -> None:
    environ = on_kafka(kafka, prefix, tmp_path)
    tallyroll(environ, "topics", "apply", "--yes")
    tallyroll(environ, "simulate", "--events", "100", "--seed", "1")
    tallyroll(environ, "run", "audit", "--once")
    before = await entries(tmp_path)
    for path in (tmp_path / "audit").glob("ledger.sqlite*"):
        path.unlink()
    assert "and here up to nothing" in tallyroll(environ, "audit", "verify", code=1)
    assert "tallyroll audit begin-anew" in tallyroll(environ, "run", "audit", "--once", code=1)
    assert await entries(tmp_path) == []
    tallyroll(environ, "audit", "begin-anew", "--who", "operations", "--why", "ticket-4711", "--yes")
    tallyroll(environ, "run", "audit", "--once")
    assert len(before) == 100
    assert set(before) < set(await entries(tmp_path))

"""``tallyroll run audit`` as a service: it is killed, it shares partitions, and what it has sealed verifies for an outsider."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.flows.publishing import breathe
from tests.patience import PATIENCE_S
from tests.servers.test_run_service import environment, running, tallyroll

from tallyroll.adapters.sqlite.ledger_store import SqliteLedgerStore
from tallyroll.audit.ledger.layout import take_out
from tallyroll.ports import LedgerWanted

pytestmark = [pytest.mark.server, pytest.mark.slow]

KEY = "5f" * 32


def sealed(service) -> float:
    return service.metrics().get("audit_records_sealed_total", 0.0)


async def entries(data: Path) -> list[str]:
    """The positions of the events that have an entry, one for each entry."""
    store = await SqliteLedgerStore.open(data / "audit" / "ledger.sqlite", take_out)
    _, rows = await store.find(LedgerWanted(), limit=10_000)
    await store.close()
    return [str(row.source) for row in rows]


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
    environ = environment(TALLYROLL_URL=f"sqlite:///{tmp_path / 'log'}", AUDIT_SECRET_KEY=KEY, TALLYROLL_SESSION_TIMEOUT_MS="3000")
    tallyroll(environ, "simulate", "--events", "2000", "--seed", "1")
    with running(environ, "audit", "--http", "127.0.0.1:0") as service:
        service.until(lambda: sealed(service) > 0)
        service.end(signal.SIGKILL)
    tallyroll(environ, "run", "audit", "--once")
    positions = await entries(tmp_path / "log")
    assert len(positions) == len(set(positions)) == 2_000
    verified(environ, tmp_path)


async def test_two_sealers_share_the_partitions_of_a_broker(kafka: str, prefix: str, tmp_path: Path) -> None:
    environ = environment(
        TALLYROLL_URL=f"kafka://{kafka}", TALLYROLL_TOPIC_PREFIX=prefix, TALLYROLL_DATA_DIR=str(tmp_path), AUDIT_SECRET_KEY=KEY
    )
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


async def test_a_broker_knows_of_a_ledger_that_is_lost(kafka: str, prefix: str, tmp_path: Path) -> None:
    environ = environment(
        TALLYROLL_URL=f"kafka://{kafka}", TALLYROLL_TOPIC_PREFIX=prefix, TALLYROLL_DATA_DIR=str(tmp_path), AUDIT_SECRET_KEY=KEY
    )
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

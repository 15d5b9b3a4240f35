"""An older copy of the key ring is put back over the newest: what people are told, and that nothing else is held against the ledger."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import shutil
from pathlib import Path

import pytest
from tests.flows.test_cli import runner_for
from tests.flows.test_forgetting import entry, fill

from tallyroll import KeyLost, Roll

pytestmark = pytest.mark.slow


def ring_of(folder: Path) -> list[Path]:
    """What backups of a ring are made of; the guard is kept apart from them."""
    return [folder / "log" / "audit" / name for name in ("keys", "keys.recent")]


def kept(folder: Path, name: str) -> list[Path]:
    (folder / name).mkdir()
    return [Path(shutil.copy(file, folder / name)) for file in ring_of(folder)]


def put_back(folder: Path, copies: list[Path]) -> None:
    for copy, file in zip(copies, ring_of(folder), strict=True):
        shutil.copy(copy, file)


def test_an_older_ring_is_told_from_an_erasure_by_every_command(tmp_path: Path) -> None:
    url, run = f"sqlite:///{tmp_path / 'log'}", runner_for(tmp_path / "log")
    asyncio.run(fill(url, entry("cust-1"), entry("cust-2")))
    old = kept(tmp_path, "old")
    asyncio.run(fill(url, entry("cust-3"), entry("cust-4")))
    run("audit", "erase", "cust-2", "--yes")
    assert run("audit", "verify").stdout.startswith("intact ")
    new = kept(tmp_path, "new")
    put_back(tmp_path, old)

    found = json.loads(run("audit", "verify", "--json", code=1).stdout)
    every = json.loads(run("audit", "query", "--personal", "--json").stdout)["entries"]
    assert found["counts"]["key_lost"] == sum(bool(one["key_lost"]) for one in every) >= 2
    assert found["counts"].keys() == {"key_lost", "mac_key_lost"}
    assert (found["valid"], found["broken_links"], found["integrity_failures"]) == (False, 0, 0)
    said = run("audit", "verify", code=1)
    assert said.stdout.startswith("intact, and keys are lost")
    assert "put the newest key ring back" in said.stderr
    looked = {one["name"]: one for one in json.loads(run("doctor", "--json").stdout)["checks"]}["keys"]
    assert looked["verdict"] == "warn"
    assert "put its newest copy back" in looked["next"]

    asked = ["--type", "customer.read", "--personal"]
    entries = json.loads(run("audit", "query", *asked, "--json").stdout)["entries"]
    payloads = [one["payload"] for one in entries]
    assert payloads == [{"key_lost": True}, {"key_lost": True}, {"erased": True}, {"customer_id": "cust-1", "note": "asked for a refund"}]
    assert [bool(one["erased"]) for one in entries] == [False, False, True, False]
    lost, erased = entries[0]["audit_id"], entries[2]["audit_id"]
    assert "(key lost)" in run("audit", "query", *asked).stdout
    assert "no erasure says why" in run("audit", "show", lost, "--personal").stderr
    assert "key ring" not in run("audit", "show", erased, "--personal").stderr
    rows = list(csv.DictReader(io.StringIO(run("audit", "export", *asked, "--format", "csv").stdout)))
    assert [(bool(one["erased"]), bool(one["key_lost"])) for one in rows] == [(False, True)] * 2 + [(True, False), (False, False)]
    assert "verifies, and lacks keys" in run("audit", "report", "custom", code=1).stdout

    async def clear_text() -> None:
        async with Roll.open(url) as roll:
            await roll.audit.get_clear_text(lost)

    with pytest.raises(KeyLost):
        asyncio.run(clear_text())

    put_back(tmp_path, new)
    assert json.loads(run("audit", "show", lost, "--personal", "--json").stdout)["payload"]["customer_id"] == "cust-4"
    assert json.loads(run("audit", "show", erased, "--personal", "--json").stdout)["payload"] == {"erased": True}

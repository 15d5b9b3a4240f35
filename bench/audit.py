"""The audit trail: recording with encryption, the time until an entry is durable, keeping the ledger, verifying, finding, erasing."""

from __future__ import annotations

import argparse
import asyncio
import gc
import hmac
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from hashlib import sha256
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bench.report import ROOT, save, table
from bench.verify import figures_of
from bench.workload import Meter, events, percentile
from tallyroll.audit.compliance.pii import PiiScanner
from tallyroll.audit.recording.new_entry import NewEntry
from tallyroll.events.position import Position
from tallyroll.opening import open_pii_finder
from tallyroll.roll import AUDIT_FOLLOWER, Roll
from tallyroll.settings import Secret, Settings

_BATCH: Final = 500
_ERASED: Final = 9
_CUSTOMERS: Final = 1_000
_TEXT: Final = (
    "Looked up the order of last week for the customer, found that it was sent to an older address, offered a refund of 40 euros, "
    "and asked the warehouse whether the parcel can be stopped on its way there."
)


def _fields(number: int, *, purpose: str | None = "support") -> dict[str, Any]:
    return {
        "agent_id": f"crm-{number % 50:03}", "task_id": f"task-{number:06}", "purpose": purpose, "compliance_frameworks": {"gdpr"},
        "payload": {"customer_id": f"cust-{number % _CUSTOMERS}", "note": _TEXT},
    }  # fmt: skip


def _entries(count: int, *, purpose: str | None = "support") -> Iterator[NewEntry]:
    """Changes of customers' data; without a purpose each of them breaks a rule, which is told and published."""
    for number in range(count):
        yield NewEntry.of("customer.changed", "data_modification", "update", "changed an address", **_fields(number, purpose=purpose))


def _settings(folder: Path) -> Settings:
    return Settings(url=f"sqlite:///{folder}", audit_secret_key=Secret("5f" * 32))


async def record(folder: Path, count: int, *, purpose: str | None = "support") -> dict[str, Any]:
    """Batches of five hundred, each awaited: judged, sealed, and on disk in the embedded log when it returns."""
    async with Roll.open(_settings(folder)) as roll:
        await roll.audit.create_audit_entries(list(_entries(_CUSTOMERS)))  # every customer has a key, rules are read
        source = _entries(count, purpose=purpose)
        with Meter() as meter:
            while batch := list(islice(source, _BATCH)):
                made = await roll.audit.create_audit_entries(batch)
        assert all(entry.encrypted and entry.position is not None for entry in made)
        return dict(meter.per(count))


async def durable(folder: Path, rate: int, seconds: int) -> dict[str, Any]:
    """Single calls at a rate, none waiting for another: from the moment a call was due to its entry on disk, in ms.

    Open loop: where calls come too slowly for the rate, it shows in their times and in the rate that was reached.
    """
    took: list[float] = []
    async with Roll.open(_settings(folder)) as roll:
        await roll.audit.create_audit_entries(list(_entries(_CUSTOMERS)))  # every customer has a key: the ring's file is not what is timed
        gc.collect()
        gc.freeze()

        async def one(number: int, due: float) -> None:
            await roll.audit.create_audit_entry(
                "customer.changed", "data_modification", "update", "changed an address", **_fields(number)
            )  # fmt: skip
            took.append((time.perf_counter() - due) * 1e3)

        tasks = set[asyncio.Task[None]]()
        called, calls = 0, rate * seconds
        began, cpu = time.perf_counter(), time.process_time()
        while called < calls:
            while called < calls and (due := began + called / rate) <= time.perf_counter():
                task = asyncio.create_task(one(called, due))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                called += 1
            await asyncio.sleep(max(0.0, began + called / rate - time.perf_counter()))  # noqa: TID251  # a rate is what is wanted
        await asyncio.gather(*tasks)
        reached, cpu = len(took) / (time.perf_counter() - began), time.process_time() - cpu
    took.sort()
    return {
        "rate_asked": rate, "rate_reached": reached, "cpu_us_per_call": cpu / calls * 1e6,
        "p50_ms": percentile(took, 50), "p99_ms": percentile(took, 99), "worst_ms": took[-1]
    }  # fmt: skip


async def told(folder: Path, count: int = 1_000) -> dict[str, Any]:
    """Entries that break a rule, one after the other: ms from the call until a handler is told, of what is sealed and not yet stored."""
    took: list[float] = []
    async with Roll.open(_settings(folder)) as roll:
        await roll.audit.create_audit_entries(list(_entries(_CUSTOMERS)))
        heard: asyncio.Queue[float] = asyncio.Queue()
        roll.audit.add_violation_handler(lambda _entry, _violations: heard.put_nowait(time.perf_counter()))
        for number in range(count):
            began = time.perf_counter()
            await roll.audit.create_audit_entry(
                "customer.changed", "data_modification", "update", "changed an address", **_fields(number, purpose=None)
            )  # fmt: skip
            took.append((await asyncio.wait_for(heard.get(), 60) - began) * 1e3)
    took.sort()
    return {"told": len(took), "p50_ms": percentile(took, 50), "p99_ms": percentile(took, 99), "worst_ms": took[-1]}


def naive(folder: Path, count: int) -> dict[str, Any]:
    """What one writes first: json.dumps, a new AESGCM, hmac.new over the previous hash, a file that is synced each five hundred."""
    folder.mkdir(parents=True)
    key, mac_key, before = sha256(b"key").digest(), sha256(b"mac").digest(), ""
    source = _entries(count)
    with Meter() as meter, (folder / "audit.jsonl").open("w") as file:
        while batch := list(islice(source, _BATCH)):
            for entry in batch:
                nonce = os.urandom(12)
                sealed = AESGCM(key).encrypt(nonce, json.dumps(entry.payload).encode(), None)
                document = {
                    "event_type": entry.event_type, "category": str(entry.category), "action": entry.action, "agent_id": entry.agent_id,
                    "task_id": entry.task_id, "description": entry.description, "payload": (nonce + sealed).hex(), "previous": before,
                }  # fmt: skip
                before = hmac.new(mac_key, json.dumps(document, sort_keys=True).encode(), sha256).hexdigest()
                file.write(json.dumps({**document, "mac": before}) + "\n")
            file.flush()
            os.fsync(file.fileno())
    return dict(meter.per(count))


async def keep(folder: Path, count: int) -> dict[str, Any]:
    """The follower into the ledger: entries that were recorded, and events that nobody recorded; all are in the log when it starts."""
    found: dict[str, Any] = {}
    async with Roll.open(_settings(folder)) as roll:
        source = _entries(count)
        while batch := list(islice(source, _BATCH)):
            await roll.audit.create_audit_entries(batch)
        recorded = roll.publisher.last_positions()
    async with Roll.open(_settings(folder)) as roll:
        found["recorded"] = await _follow(roll, recorded, count)
    async with Roll.open(_settings(folder)) as roll:
        some = events(count)
        for start in range(0, len(some), _BATCH):
            await roll.publish_batch(some[start : start + _BATCH])
        published = roll.publisher.last_positions()
    async with Roll.open(_settings(folder)) as roll:
        found["derived"] = await _follow(roll, published, len(some))
        integrity = await roll.audit.verify_audit_integrity()
        assert integrity["valid"], integrity["counts"]
    return found


async def _follow(roll: Roll, ends: Sequence[Position], count: int) -> dict[str, Any]:
    with Meter() as meter:
        await roll.follow(AUDIT_FOLLOWER)
        for position in ends:
            assert await roll.caught_up(position, 600, follower=AUDIT_FOLLOWER)
    return dict(meter.per(count))


async def erase(folder: Path, count: int) -> dict[str, Any]:
    """Customers of a thousand, one after the other, in a ledger of so many entries, just made; then one with a look into every text."""
    took: list[float] = []
    async with Roll.open(_settings(folder)) as roll:
        source = _entries(count)
        while batch := list(islice(source, _BATCH)):
            await roll.audit.create_audit_entries(batch)
        await _follow(roll, roll.publisher.last_positions(), count)
        for number in range(_ERASED):
            began = time.perf_counter()
            receipt = await roll.audit.anonymize_subject_data(f"cust-{number}", deep=False)
            took.append(time.perf_counter() - began)
            assert receipt.parts_removed == count // _CUSTOMERS, receipt
        deep = time.perf_counter()
        await roll.audit.anonymize_subject_data(f"cust-{_ERASED}")
        deep = time.perf_counter() - deep
    return {
        "entries": count, "parts_removed": receipt.parts_removed, "first_s": took[0], "median_s": median(took), "worst_s": max(took),
        "with_every_text_s": deep,
    }  # fmt: skip


def find(rounds: int = 20_000) -> dict[str, Any]:
    """Texts of some two hundred characters a second: none has personal data in it, as most have not."""
    scanner = PiiScanner(open_pii_finder())
    texts = [_TEXT.replace("40", str(number % 1_000)) for number in range(rounds)]
    with Meter() as meter:
        hits = sum(bool(scanner.in_text(text)) for text in texts)
    return {"texts_per_s": rounds / meter.wall_s, "mean_characters": sum(map(len, texts)) / rounds, "hits": hits}


def main(argv: list[str]) -> None:
    """Prints the tables and writes bench-results/audit.json."""
    parser = argparse.ArgumentParser(prog="scripts/bench audit", description=__doc__)
    parser.add_argument("--count", type=int, default=50_000, help="entries for the rates (default %(default)s)")
    parser.add_argument("--erase", type=int, default=1_000_000, help="entries of the ledger that a customer is erased from")
    parser.add_argument("--rate", type=int, default=5_000, help="calls a second while durability is timed (default %(default)s)")
    parser.add_argument("--seconds", type=int, default=15, help="how long (default %(default)s)")
    options = parser.parse_args(argv)
    work = Path(tempfile.mkdtemp(dir=ROOT, prefix=".bench-audit-"))  # on the disk that the project is on, not in memory
    try:
        figures: dict[str, Any] = {
            "record": asyncio.run(record(work / "record", options.count)),
            "record, each with a breach": asyncio.run(record(work / "breach", options.count // 5, purpose=None)),
            "naive json and hmac": naive(work / "naive", options.count),
            **asyncio.run(keep(work / "keep", options.count)),
            "durable": asyncio.run(durable(work / "durable", options.rate, options.seconds)),
            "told": asyncio.run(told(work / "told")),
            "find": find(),
            "verify": figures_of(60_000, 400, 3),
            "erase": asyncio.run(erase(work / "erase", options.erase)),
        }
    finally:
        shutil.rmtree(work)
    figures["record_to_naive"] = figures["record"]["events_per_s"] / figures["naive json and hmac"]["events_per_s"]
    _show(figures)
    print(save("audit", figures))


def _show(figures: dict[str, Any]) -> None:
    names = ("record", "record, each with a breach", "naive json and hmac", "recorded", "derived")
    rows = [[name, figures[name]["events_per_s"], figures[name]["cpu_us_per_event"]] for name in names]
    print(table("Entries, sealed and on disk; recorded and derived are into the ledger", ["step", "a second", "µs of CPU each"], rows))
    one = figures["durable"]
    print(f"\nfrom call to disk at {one['rate_reached']:,.0f} a second: p50 {one['p50_ms']:.2f} ms, p99 {one['p99_ms']:.2f} ms")
    breach = figures["told"]
    print(f"from call to a handler of breaches: p50 {breach['p50_ms']:.2f} ms, p99 {breach['p99_ms']:.2f} ms")
    verified = figures["verify"]["with MACs"]
    print(f"verified, with MACs: {1e6 / verified['us_per_entry']:,.0f} a second of CPU")
    print(f"texts searched for personal data: {figures['find']['texts_per_s']:,.0f} a second")
    gone = figures["erase"]
    print(f"one customer of {_CUSTOMERS:,} out of {gone['entries']:,} entries: {gone['first_s']:.2f} s the first, "
          f"{gone['median_s']:.2f} s the median of {_ERASED}, {gone['worst_s']:.2f} s the worst; "
          f"with a look into every text {gone['with_every_text_s']:.1f} s")  # fmt: skip

"""Verifying a ledger: what an auditor's machine checks a second, with and without MAC keys. No server, one core."""

from __future__ import annotations

import argparse
import gc
import time
from hashlib import sha256
from typing import Any, Final

from bench.report import ROOT, save, table
from tallyroll.adapters.crypto import AesGcm, Ed25519Signer
from tallyroll.audit.ledger.chain import Part
from tallyroll.audit.ledger.contents import env_of, part_text
from tallyroll.audit.ledger.layout import PartType
from tallyroll.audit.verify import Trust, verify_files
from tallyroll.testing.ledger import DAY_US, MemoryLedger

LOG_ID: Final = bytes(range(16))
NOTED: Final = 1_000  # entries between two checkpoints: a second of a busy ledger


def ledger_of(count: int, payload_bytes: int) -> MemoryLedger:
    """A ledger of two writers in two partitions, each entry with one sealed part."""
    ledger = MemoryLedger(AesGcm(), Ed25519Signer(f"example.com/audit/{LOG_ID.hex()}", sha256(b"bench").digest()), log_id=LOG_ID)
    writers = [ledger.enrol(b"writer-%d" % number) for number in range(2)]
    env = env_of({
        "audit_id": "01934f5e-7a2b-7c3d-8e4f-5a6b7c8d9e0f", "event_type": "customer.changed", "category": "data_modification",
        "severity": "info", "action": "update", "outcome": "success", "agent_id": "crm-017", "task_id": "task-000123",
        "compliance_frameworks": ["gdpr"], "rule_ids": ["GDPR-001"], "rule_set": "2026.1",
    })  # fmt: skip
    text = part_text({"user_id": "anna", "payload": {"customer_id": "cust-123", "note": "x" * payload_bytes}})
    part = Part(PartType.SUBJECT, bytes(range(16)), sha256(b"key").digest(), text)
    for number in range(count):
        ledger.write(writers[number % 2], number % 2, env, part)
        if number % NOTED == NOTED - 1:
            ledger.checkpoint()
            ledger.wait(1)
    ledger.close(*writers)
    ledger.checkpoint()
    del ledger.notes[:-1]  # as exports have them: a signature costs as much as hundreds of records
    return ledger


def figures_of(count: int, payload_bytes: int, rounds: int) -> dict[str, Any]:
    """CPU time of a verification, with and without MAC keys; the shortest of some rounds."""
    ledger = ledger_of(count, payload_bytes)
    files = ledger.export()
    gc.collect()
    gc.freeze()  # an auditor's process does not hold the writer's objects
    figures: dict[str, Any] = {"bytes": sum(map(len, files.values()))}
    for name, keys in (("with MACs", ledger.k0), ("without", {})):
        trust = Trust(today=ledger.now_us // DAY_US, keys=(str(ledger.key),), mac_keys=keys)
        spent = []
        for _ in range(rounds):
            started = time.process_time()
            report, _ = verify_files(files, trust)
            spent.append(time.process_time() - started)
            assert report.valid, report.counts
        entries = int(str(report.coverage["entries"]))
        figures[name] = {"entries": entries, "cpu_s": min(spent), "us_per_entry": min(spent) / entries * 1e6}
    return figures


def main(argv: list[str]) -> None:
    """Prints the table and writes bench-results/verify.json."""
    parser = argparse.ArgumentParser(prog="scripts/bench verify", description=__doc__)
    parser.add_argument("--count", type=int, default=60_000, help="entries (default %(default)s)")
    parser.add_argument("--payload", type=int, default=400, help="bytes of text in each (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds; the shortest counts (default %(default)s)")
    options = parser.parse_args(argv)
    figures = figures_of(options.count, options.payload, options.rounds)
    lines = [
        [name, one["entries"], one["us_per_entry"], 1e6 / one["us_per_entry"]] for name, one in figures.items() if isinstance(one, dict)
    ]
    print(table(f"\n{figures['bytes'] / 1e6:.1f} MB of ledger, CPU time", ["MAC keys", "records", "µs/record", "records/s"], lines))
    where = save("verify", figures)
    print(f"\nwritten to {where.relative_to(ROOT)}")

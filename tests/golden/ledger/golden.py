"""Exported ledgers of every format that was ever released, what an auditor brings along to each, and what the report says.

``python -m tests.golden.ledger.golden NAME`` exports the story into a new folder, once, when a format is released. A folder
that exists is never written again: what was sealed under a format has to verify for ever.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tallyroll.adapters.crypto import AesGcm, Ed25519Signer, is_signed
from tallyroll.audit.verify import Checkpoint, Report, Trust, open_archive, read_state, verify_files, write_state
from tallyroll.testing.ledger import DAY_US
from tallyroll.testing.ledger_story import story

FOLDER = Path(__file__).parent


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def files_of(name: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((FOLDER / name).iterdir())}


def load(name: str) -> tuple[Trust, dict[str, object]]:
    """What an auditor brings along, and the report."""
    kept = json.loads((FOLDER / f"{name}.json").read_text())
    mac_keys = {}
    for chain, k0 in kept["mac_keys"].items():
        writer, epoch = chain.split("/")
        mac_keys[bytes.fromhex(writer), int(epoch)] = bytes.fromhex(k0)
    trust = Trust(
        today=kept["today"],
        keys=tuple(kept["keys"]),
        witnesses=tuple(kept["witnesses"]),
        quorum=1,
        mac_keys=mac_keys,
        remembered=read_state(json.dumps(kept["state"]).encode()) or (),
    )
    return trust, kept["report"]


def report_of(name: str) -> tuple[Report, list[Checkpoint]]:
    files, _ = open_archive(FOLDER / name)
    return verify_files(files, load(name)[0], check=is_signed)


def write(name: str) -> None:
    ledger = story(AesGcm(), Ed25519Signer, is_signed)
    (FOLDER / name).mkdir()
    for file, raw in ledger.export().items():
        (FOLDER / name / file).write_bytes(raw)
    kept: dict[str, object] = {
        "today": ledger.now_us // DAY_US,
        "keys": [str(ledger.key)],
        "witnesses": [str(witness.key) for witness in ledger.witnesses],
        "mac_keys": {f"{writer.hex()}/{epoch}": k0.hex() for (writer, epoch), k0 in ledger.k0.items()},
        "state": {},
        "report": {},
    }
    target = FOLDER / f"{name}.json"
    target.write_text(json.dumps(kept))
    _, seen = report_of(name)
    kept["state"] = json.loads(write_state(seen))
    target.write_text(json.dumps(kept))
    kept["report"] = report_of(name)[0].as_dict()
    target.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    write(sys.argv[1])

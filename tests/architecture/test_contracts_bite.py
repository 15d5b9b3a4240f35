"""A contract nobody has seen fail is a wish: each one is broken once, in a copy of the tree, and must be reported."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

BREAKS = {
    "errors imports upwards": ("errors.py", "import tallyroll.settings", "Imports point one way"),
    "a feature imports the roll": ("replay/engine.py", "import tallyroll.roll", "Imports point one way"),
    "adapters import the command line": ("adapters/sqlite/log.py", "import tallyroll.cli", "Imports point one way"),
    "a new top-level module": ("utils.py", "X = 1", "Imports point one way"),
    "an import hidden in a function": ("events/names.py", "def f() -> None:\n    import tallyroll.roll", "Imports point one way"),
    "a client outside adapters": ("publish/publisher.py", "import confluent_kafka", "Client libraries only under adapters"),
    "a database outside adapters": ("replay/engine.py", "import sqlite3", "Client libraries only under adapters"),
    "a client where adapters are opened": ("opening.py", "import redis", "Client libraries only under adapters"),
    "an adapter imports the clock's": ("adapters/kafka/log.py", "import tallyroll.adapters.system.clock", "Adapters are independent"),
    "a fold reads the clock": ("replay/fold.py", "import time", "Folds and chains are pure"),
    "a columnar twin reads the clock": ("replay/columnar.py", "import time", "Folds and chains are pure"),
    "the chain draws a random number": ("events/chain.py", "import random", "Folds and chains are pure"),
    "an adapter imports a feature": (
        "adapters/kafka/log.py",
        "import tallyroll.publish.publisher",
        "Adapters do not import each other, nor features",
    ),
    "one adapter imports another": ("adapters/kafka/log.py", "import tallyroll.adapters.sqlite.log", "Adapters are independent"),
    "a feature imports an adapter": ("follow/loop.py", "import tallyroll.adapters.kafka.log", "Features reach the outside through ports"),
    "the ledger's chain reads the clock": ("audit/ledger/chain.py", "import time", "Folds and chains are pure"),
    "the audit imports an adapter": (
        "audit/ledger/partition.py",
        "import tallyroll.adapters.crypto.primitives",
        "Features reach the outside through ports",
    ),
    "the verifier borrows the writer's tree": (
        "audit/verify/merkle.py",
        "import tallyroll.audit.ledger.tree",
        "The verifier shares no code",
    ),
    "the verifier borrows a library": ("audit/verify/reading.py", "import msgspec", "The verifier shares no code"),
    "the writer borrows the verifier's reader": (
        "audit/ledger/note.py",
        "import tallyroll.audit.verify.notes",
        "What writes the ledger shares no code",
    ),
    "replay imports the publisher": ("replay/engine.py", "import tallyroll.publish.publisher", "Replay cannot publish"),
}


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-logo", "--no-cache"],
        cwd=folder,
        env={"PYTHONPATH": str(folder / "src"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tree")
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


@pytest.mark.slow
def test_the_tree_keeps_all_contracts(copy: Path) -> None:
    done = lint(copy)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("what", BREAKS)
def test_a_broken_contract_is_reported(copy: Path, what: str) -> None:
    name, line, contract = BREAKS[what]
    path = copy / "src" / "tallyroll" / name
    before = path.read_text() if path.exists() else None
    path.write_text((before or "") + f"\n{line}\n")
    try:
        done = lint(copy)
    finally:
        path.unlink() if before is None else path.write_text(before)
    assert done.returncode != 0
    assert contract in done.stdout

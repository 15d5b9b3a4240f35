"""What every benchmark prints and writes: the machine, the command, the versions, the commit, then the figures."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
RESULTS: Final = ROOT / "bench-results"
_PACKAGES: Final = (
    "tallyroll",
    "confluent-kafka",
    "aiokafka",
    "kafka-python",
    "msgspec",
    "pyarrow",
    "numpy",
    "eventsourcing",
    "river",
    "scikit-learn",
)


def machine() -> dict[str, Any]:
    """Where this was measured."""
    model = next(
        (line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), ""
    )
    memory_kb = int(Path("/proc/meminfo").read_text().split()[1])
    return {
        "cpu": model, "cores": os.cpu_count(), "memory_gib": round(memory_kb / 1_048_576, 1), "system": platform.system(),
        "kernel": platform.release(), "python": platform.python_version(),
    }  # fmt: skip


def provenance() -> dict[str, Any]:
    """Machine, command, versions and commit."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "command": "scripts/bench " + " ".join(sys.argv[1:]),
        "versions": versions,
        "commit": commit or "unknown",
    }


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A plain table, numbers to the right."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(column), *(len(row[index]) for row in cells)) for index, column in enumerate(columns)]
    lines = [
        title,
        "  ".join(
            column.ljust(width) if index == 0 else column.rjust(width)
            for index, (column, width) in enumerate(zip(columns, widths, strict=True))
        ),
    ]
    lines += [
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width) for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]
    return "\n".join(lines)


def save(name: str, figures: Mapping[str, Any]) -> Path:
    """Writes the figures with their provenance; returns where."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"provenance": provenance(), **figures}, indent=2) + "\n")
    return path


def _cell(value: object) -> str:
    if value is None:
        return "not measured"
    if isinstance(value, float):
        return f"{value:,.2f}" if abs(value) < 1_000 else f"{value:,.0f}"  # noqa: PLR2004  # decimals only where they say something
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)

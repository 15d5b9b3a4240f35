"""``scripts/bench NAME [options]``: runs one benchmark."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Final

from bench.report import ROOT

BENCHES: Final = {
    "publish": "publishing beside raw clients",
    "follow": "the loop into the state store",
    "events": "where each microsecond goes",
    "columns": "folding columns beside rows",
    "analytics": "panes, alerts and queries beside other engines",
    "nab": "detectors on the series of the Numenta Anomaly Benchmark",
    "audit": "the audit trail: recording, keeping, verifying, finding, erasing, beside a naive chain",
    "verify": "the auditor's verifier over a ledger",
    "flow": "every follower beside the others: rates, and the time until an event is visible in each place",
    "replay": "replays from the archive and from topics",
    "versions": "events with an expected version beside plain ones",
}


def main() -> int:
    """Runs the named benchmark, or lists them."""
    if len(sys.argv) < 2 or sys.argv[1] not in BENCHES:  # noqa: PLR2004  # a name is expected
        print("usage: scripts/bench NAME [--help]\n", *(f"  {name:10} {what}" for name, what in BENCHES.items()), sep="\n", file=sys.stderr)
        return 2
    # Processes that a benchmark starts find their modules compiled, as they do where a package was installed.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ.setdefault("PYTHONPYCACHEPREFIX", str(ROOT / ".bench-data" / "bytecode"))
    importlib.import_module(f"bench.{sys.argv[1]}").main(sys.argv[2:])
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A program that may leave a core file when it begins: what the tests of core files run."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
from pathlib import Path

from tallyroll.cli import main


def serve(follower: str, folder: Path, hard: int) -> None:
    """Runs a follower until it has caught up, on a machine where cores are wanted; says what the limits are then."""
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    os.environ["TALLYROLL_URL"] = f"sqlite:///{folder}"
    sys.argv = ["tallyroll", "run", follower, "--once"]
    with contextlib.suppress(SystemExit):
        main()
    sys.stdout.write(f"{resource.getrlimit(resource.RLIMIT_CORE)}\n")

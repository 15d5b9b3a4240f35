"""How long a test waits for what has to come."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

PATIENCE_S: Final = 300.0
"""A bound, reached only by what never comes: a machine ten times slower, or a process that stands still for seconds, is no failure."""

SESSION_MS: Final = round(2 * PATIENCE_S * 1_000)
"""For sessions in a group: they run out for nobody who is alive, however slow, and for nobody who is waited for instead of leaving."""

LEAST_SESSION_MS: Final = 6_000
"""The least that a broker takes: for a member that is killed, where the others wait until its session has run out."""

READ_WAIT_MS: Final = round(PATIENCE_S * 1_000)
"""For ``TALLYROLL_READ_WAIT_MS``: who reads waits two seconds for what was published, and then gets what there is. The machine decides."""


def until(condition: Callable[[], object], what: str) -> None:
    """Waits for what other threads or processes bring about; ``what`` says what did not come."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what
        threading.Event().wait(0.005)  # real time for a real thread

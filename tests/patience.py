"""How long a test waits for what has to come."""

from __future__ import annotations

from typing import Final

PATIENCE_S: Final = 300.0
"""A bound, reached only by what never comes: a machine ten times slower, or a process that stands still for seconds, is no failure."""

READ_WAIT_MS: Final = round(PATIENCE_S * 1_000)
"""For ``TALLYROLL_READ_WAIT_MS``: who reads waits two seconds for what was published, and then gets what there is. The machine decides."""

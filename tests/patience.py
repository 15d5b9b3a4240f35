"""How long a test waits for what has to come."""

from __future__ import annotations

from typing import Final

PATIENCE_S: Final = 120.0
"""A bound, reached only by what never comes: a machine ten times slower, or a process that stands still for seconds, is no failure."""

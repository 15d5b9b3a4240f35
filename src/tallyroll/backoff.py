"""How long to wait before trying again: exponential, bounded, spread."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(slots=True)
class Backoff:
    """Pauses in seconds, doubling from ``first_s`` to ``longest_s``, each somewhere between half and whole."""

    first_s: float = 0.1
    longest_s: float = 5.0
    attempts: int = 0

    def next_s(self) -> float:
        """The next pause; counts the attempt."""
        pause = min(self.longest_s, self.first_s * float(2 ** min(self.attempts, 20)))
        self.attempts += 1
        return pause * random.uniform(0.5, 1.0)  # noqa: S311  # spreads retries, guards nothing

    def reset(self) -> None:
        """After a success."""
        self.attempts = 0

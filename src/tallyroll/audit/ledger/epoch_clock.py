"""The time of one writer epoch: the seconds of its MAC keys, and the moments of its records, which are never far behind them."""

from __future__ import annotations

from typing import Final

from tallyroll.audit.ledger.layout import CLOCK_BOUND_S, MAX_MAC_EPOCH
from tallyroll.ports import Clock

EPOCH_S: Final = 86_400  # bounds how far a ratchet has to be turned to check a MAC
_SECOND_US: Final = 1_000_000
_BEHIND_US: Final = CLOCK_BOUND_S * _SECOND_US // 2  # the other half is for seconds that are rounded, and for who rounds otherwise


class EpochClock:
    """Begins with the epoch.

    Seconds are counted by the clock that only goes forward, moments are the wall clock's. Where that is set back, records of the
    epoch would look as if they had been sealed afterwards, with a later key than their time allows. So the epoch is over then,
    and the next one begins with the wall clock as it is; what the old one still says has a moment that its seconds allow.
    Not promised: that ``now_us`` never goes back; it does by half a minute at the most.
    """

    def __init__(self, clock: Clock, lasts_s: float = EPOCH_S) -> None:
        self._clock = clock
        self._lasts_s = lasts_s
        self._began_s = clock.monotonic()
        self.opened_us = clock.now_us()
        self._start_us = self.opened_us  # where the wall clock puts the beginning, at the latest it ever did

    @property
    def second(self) -> int:
        """The second of the epoch."""
        return min(MAX_MAC_EPOCH, int(self._elapsed_s))

    @property
    def is_over(self) -> bool:
        """Whether the epoch has lasted long enough, or the wall clock has been set back in it."""
        return self._elapsed_s >= self._lasts_s or self._clock.now_us() < self._least_us()

    def now_us(self) -> int:
        """The moment for what is sealed now: the wall clock, but none that the seconds of the epoch forbid."""
        wall_us = self._clock.now_us()
        self._start_us = max(self._start_us, wall_us - self._elapsed_us)
        return max(wall_us, self._least_us())

    def _least_us(self) -> int:
        return self._start_us + self._elapsed_us - _BEHIND_US

    @property
    def _elapsed_s(self) -> float:
        return self._clock.monotonic() - self._began_s

    @property
    def _elapsed_us(self) -> int:
        return int(self._elapsed_s * _SECOND_US)

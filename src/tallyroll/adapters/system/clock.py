"""The machine's clock."""

from __future__ import annotations

import asyncio
import time


class SystemClock:
    """Implements ``ports.Clock`` on the machine's own clocks.

    Not promised: that ``now_us`` never goes back (the machine's clock can be set); that ``sleep`` is exact.
    """

    def now_us(self) -> int:
        return time.time_ns() // 1_000

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)  # noqa: TID251  # this is the clock that everybody else takes

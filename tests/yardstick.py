"""CPU time by the measure of this machine: a bound in seconds would say how fast the machine is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np

_REFERENCE_S: Final = 0.1  # what ``work`` takes on a core of 2 to 3 GHz of the years around 2020 that nobody else uses


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Fails when the block takes more CPU time, of all threads of this process, than so much on the machine of reference.

    How much slower this machine is, at present, is measured right before and right after the block; the slower of the two
    counts. A machine that is faster is allowed as much as the reference.
    """
    before = work()
    began = time.process_time()
    yield
    took = time.process_time() - began
    slowness = max(before, work(), _REFERENCE_S) / _REFERENCE_S
    assert took < seconds * slowness, (
        f"{took:.2f} s of CPU time; {seconds} s are allowed on the machine of reference, and this one is {slowness:.1f} times slower"
    )


def work() -> float:
    """CPU seconds of some plain Python and some numpy."""
    began = time.process_time()
    found: dict[int, int] = {}
    for number in range(400_000):
        found[number & 1_023] = found.get(number & 1_023, 0) + number
    values = np.arange(400_000, dtype=np.float64) * 7_919 % 1_000_003
    for _ in range(2):
        values = np.sort(values * 7_919 % 1_000_003)
    return time.process_time() - began

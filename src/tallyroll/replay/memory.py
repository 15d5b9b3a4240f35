"""What a replay asks of the memory of its process: that freed memory stays, and that the collector comes seldom."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Final

# Once a block of this size was freed, glibc keeps freed memory instead of giving it back to the system (mallopt(3),
# M_MMAP_THRESHOLD; it learns up to 32 MB). Without, a read of the embedded log touched a fresh page per four events, 2 µs each on
# a virtual machine: 7.7 for 6.9 µs CPU an event; a fold of columns took a quarter longer.
_KEPT_BYTES: Final = 24 << 20

_YOUNG: Final = 50_000  # objects, as many as some batches of a log make before they are freed
_MIDDLE: Final = 50


@cache
def keep_freed_memory() -> None:
    """Has the process keep up to twice 24 MiB that was freed, from now on. Other allocators than that of glibc do not care."""
    bytes(_KEPT_BYTES)  # itself never touched


@contextmanager
def seldom_collecting() -> Iterator[None]:
    """For a log that may be read for minutes, so that the collector cannot be left off.

    As it comes, it looks through all the parts each time that they have grown by a quarter: an eighth of a replay.
    """
    usual = gc.get_threshold()
    if usual[0] < _YOUNG:  # else it is set so already, by the process or by a replay beside this one
        gc.set_threshold(_YOUNG, _MIDDLE, usual[2])
    try:
        yield
    finally:
        if usual[0] < _YOUNG:
            gc.set_threshold(*usual)

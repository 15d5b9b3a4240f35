"""What becomes of memory that a replay has freed: it comes back within milliseconds, for the next segment."""

from __future__ import annotations

from functools import cache
from typing import Final

# Once a block of this size was freed, glibc keeps freed memory instead of giving it back to the system (mallopt(3),
# M_MMAP_THRESHOLD; it learns up to 32 MB). Without, a read of the embedded log touched a fresh page per four events, 2 µs each on
# a virtual machine: 7.7 for 6.9 µs CPU an event; a fold of columns took a quarter longer.
_KEPT_BYTES: Final = 24 << 20


@cache
def keep_freed_memory() -> None:
    """Has the process keep up to twice 24 MiB that was freed, from now on. Other allocators than that of glibc do not care."""
    bytes(_KEPT_BYTES)  # itself never touched

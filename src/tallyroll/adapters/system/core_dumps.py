"""No core file of this process: it would hold the keys that are in its memory."""

from __future__ import annotations

import sys


def forbid_core_dumps() -> None:
    """From now on this process and those it starts write no core file, and cannot take that back.

    Nothing happens where the system has no such limit (Windows). Not promised: anything against a program to which the system
    pipes cores and that disregards the limit, a debugger, swap, or the snapshot of a whole machine.
    """
    if sys.platform != "win32":
        import resource  # noqa: PLC0415  # not on every system

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

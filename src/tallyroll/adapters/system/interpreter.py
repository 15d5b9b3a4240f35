"""Python in a process that serves for days: its collector comes seldom, and its threads take turns quickly."""

from __future__ import annotations

import gc
import sys
from typing import Final

_YOUNG: Final = 10_000
_MIDDLE: Final = 50
_OLD: Final = 100
_TURN_S: Final = 0.001


def serve_calmly() -> None:
    """For a process that follows, once everything is opened. For the whole process: not for a library to call in somebody else's.

    What is there now is never looked through again by the collector, the rest seldom: batches make many objects and hardly any
    cycle. As it comes, the collector took a fifth of the time of a process with all followers and stopped it for up to 0.4 s,
    which is longer than an alert may take. A cycle is now freed some ten thousand objects later.
    A thread that waits for the interpreter gets it after a millisecond, not five: a commit gives it up with each row, and got it
    back behind the event loop each time. The slowest of a hundred commits of 100 rows took half as long beside a busy loop, for
    the same CPU.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _MIDDLE, _OLD)
    sys.setswitchinterval(_TURN_S)

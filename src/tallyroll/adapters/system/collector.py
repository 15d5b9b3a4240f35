"""Python's garbage collector in a process that serves for days: seldom, and not over what stays for good."""

from __future__ import annotations

import gc
from typing import Final

_YOUNG: Final = 10_000
_MIDDLE: Final = 50
_OLD: Final = 100


def serve_calmly() -> None:
    """For a process that follows, once everything is opened: what is there now is never looked through again, the rest seldom.

    Batches make many objects and hardly any cycle. As it comes, the collector took a fifth of the time of a process with
    all followers and stopped it for up to 0.4 s, which is longer than an alert may take. A cycle is now freed some ten
    thousand objects later. For the whole process: not for a library to call in somebody else's.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _MIDDLE, _OLD)

"""Python's garbage collector in a process that follows for as long as it lives."""

from __future__ import annotations

import gc
from typing import Final

# By default each 700 objects more, and everything that lives each time a quarter has come to it: while followers held 500,000
# objects that was a quarter of their CPU, in stops of 200 ms. Nearly nothing they make is part of a cycle.
_THRESHOLDS: Final = (20_000, 20, 10)


def collect_seldom() -> None:
    """Call when everything is loaded: it stays for good and is not looked through again, and what comes is, but seldom.

    Of the whole process. Not promised: that a cycle is freed soon; some tens of MB of them may wait.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)

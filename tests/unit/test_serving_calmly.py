"""What a process that serves for days asks of its interpreter."""

from __future__ import annotations

import gc
import sys

from tallyroll.adapters.system.interpreter import serve_calmly


def test_threads_of_a_process_that_serves_do_not_wait_long_for_each_other() -> None:
    usual, thresholds = sys.getswitchinterval(), gc.get_threshold()
    try:
        sys.setswitchinterval(0.005)  # as an interpreter starts: another test may have served already
        gc.set_threshold(700, 10, 10)
        serve_calmly()
        assert sys.getswitchinterval() <= 0.001
        assert gc.get_threshold() > (700, 10, 10)
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)
        sys.setswitchinterval(usual)

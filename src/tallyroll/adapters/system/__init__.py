"""What the operating system gives: time."""

from tallyroll.adapters.system.clock import SystemClock

__all__ = ["SystemClock"]

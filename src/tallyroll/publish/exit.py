"""Leaving a process without losing what was accepted: normal exit, SIGTERM, and children of multiprocessing.

Without this, a process that ends with records in librdkafka's buffers loses all of them, silently, exit code 0.
``atexit`` does not run on SIGTERM, and children of multiprocessing leave by ``os._exit``. A handler that the host
program installed for SIGTERM is never replaced: servers such as uvicorn close the roll themselves.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing.util
import os
import signal
import threading
import weakref
from types import FrameType
from typing import Final, Protocol

KEEP_S: Final = 10.0
"""For one write of the spool, past the grace, which is for the log: a disk that needs longer is broken."""


class Drainable(Protocol):
    """What must be emptied before the process may end."""

    def drain_now(self, grace_s: float) -> None:
        """Blocks until everything is in the log or on disk."""


_watched: Final[weakref.WeakKeyDictionary[Drainable, float]] = weakref.WeakKeyDictionary()
_hooked_pid: int | None = None


def watch(publisher: Drainable, grace_s: float) -> None:
    """From now on the publisher is drained when the process ends."""
    _watched[publisher] = grace_s
    _install()


def forget(publisher: Drainable) -> None:
    """It was closed in an orderly way."""
    _watched.pop(publisher, None)


def drain_all() -> None:
    """Drains whatever is still open, in a thread of its own: this one may be inside any lock."""
    open_now = list(_watched.items())
    _watched.clear()
    if not open_now:
        return
    threads = [threading.Thread(target=publisher.drain_now, args=(grace_s,), daemon=True) for publisher, grace_s in open_now]
    for thread in threads:
        thread.start()
    for thread, (_, grace_s) in zip(threads, open_now, strict=True):
        thread.join(grace_s + 2 * KEEP_S)


def _install() -> None:
    global _hooked_pid  # noqa: PLW0603  # hooks are per process
    if _hooked_pid == os.getpid():
        return
    first_in_family = _hooked_pid is None
    _hooked_pid = os.getpid()
    if first_in_family:
        atexit.register(drain_all)
    if multiprocessing.parent_process() is not None:
        multiprocessing.util.Finalize(None, drain_all, exitpriority=100)
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _on_sigterm)


def _on_sigterm(number: int, _frame: FrameType | None) -> None:
    with contextlib.suppress(Exception):  # whatever goes wrong, the process was told to end
        drain_all()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)

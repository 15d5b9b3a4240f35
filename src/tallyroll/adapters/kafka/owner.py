"""The thread that owns a client. The end of the process does not wait for it, as it would for one of a pool: a client may hang."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")


class Owner(Executor):
    """Does one thing after the other, in one thread. Not promised: that what is under way when the process ends is done."""

    def __init__(self, name: str) -> None:
        self._work: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """As ``Executor.submit``; after ``retire`` it is never done."""
        future: Future[T] = Future()
        self._work.put((future, lambda: function(*args, **kwargs)))
        return future

    def retire(self) -> None:
        """Ends the thread after what was handed over; returns at once."""
        self._work.put(None)

    def _run(self) -> None:
        while (item := self._work.get()) is not None:
            future, work = item
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as error:  # noqa: BLE001  # for who waits
                    future.set_exception(error)
                del future, work, item  # the thread would keep them until the next

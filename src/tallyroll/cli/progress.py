"""A bar on standard error while something takes long, where a person looks; nothing elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

from tallyroll.cli.printing import console

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID


class Progress:
    """``with Progress("reading", total) as progress: progress.advance_to(n)``.

    ``total`` None: how many is not known. ``done``: how many are dealt with.
    Not promised: that anything is shown for work that is over at once.
    """

    def __init__(self, what: str, total: int | None, *, silent: bool = False) -> None:
        self.done = 0
        self._silent = silent
        self._what = what
        self._total = total
        self._bar: Bar | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty() and not self._silent:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415  # see ``console``

            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(bar_width=30), MofNCompleteColumn(), TimeElapsedColumn(),
                console=console(stderr=True), transient=True,
            )  # fmt: skip
            self._task = self._bar.add_task(self._what, total=self._total)
            self._bar.start()
        return self

    def resize(self, total: int) -> None:
        """So many there are, now that it is known."""
        if total != self._total:
            self._total = total
            if self._bar is not None and self._task is not None:
                self._bar.update(self._task, total=total)

    def advance_to(self, done: int) -> None:
        """So many are dealt with."""
        self.done = done
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

"""The demo's pictures: the fleet as a table that changes while one looks, and two states side by side."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from tallyroll.cli.printing import console, markup, money, number, paint, say, table
from tallyroll.cli.states import readable, status_style

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

_LINE_EVERY_S: Final = 2.0  # where nobody looks, or where there is no terminal
_BAR: Final = 14  # columns of the bar of finished tasks
_COLUMNS: Final = ("agent", "status", "done", "", "failed", "active", "tools", "tokens", "cost")


class Screen:
    """A table of agents that is drawn anew at each ``show``; without a terminal a line every two seconds."""

    def __init__(self, *, silent: bool) -> None:
        self._silent = silent
        self._live: Live | None = None
        self._begun = monotonic()
        self._line_due = self._begun + _LINE_EVERY_S

    def __enter__(self) -> Self:
        if not self._silent and sys.stdout.isatty():
            from rich.live import Live  # noqa: PLC0415  # see ``console``

            self._live = Live(console=console(), refresh_per_second=8)
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, states: Sequence[Mapping[str, Any]], *, published: int, behind: int, last: bool = False) -> None:
        """The agents as stored now, how many events were published, and how far the store is behind them."""
        if self._silent:
            return
        passed = max(monotonic() - self._begun, 0.001)
        summary = (
            f"{number(published)} events published, {number(round(published / passed))} a second, {number(behind)} not yet in the table"
        )
        if self._live is not None:
            self._live.update(_fleet(states, summary), refresh=True)
        elif last:
            console().print(_fleet(states, summary))
        elif monotonic() >= self._line_due:
            self._line_due = monotonic() + _LINE_EVERY_S
            done, failed = (sum(state[name] for state in states) for name in ("tasks_completed", "tasks_failed"))
            say(f"{summary}; {number(done)} tasks done, {number(failed)} failed")
            sys.stdout.flush()


def _fleet(states: Sequence[Mapping[str, Any]], summary: str) -> Table:
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415  # see ``console``
    from rich.table import Table  # noqa: PLC0415  # as above

    made = Table(
        box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="dim", caption=summary, caption_style="dim", caption_justify="left"
    )
    for name in _COLUMNS:
        made.add_column(name, justify="left" if name in ("agent", "status", "") else "right", no_wrap=True)
    most = max((state["tasks_completed"] for state in states), default=0) or 1
    for state in states:
        working = bool(state["active_tasks"])
        status = state["status"] or "-"
        made.add_row(
            markup(state["agent_id"], "bold"),
            markup(
                "working" if working and status == "running" else "idle" if status == "running" else status,
                "green" if working else status_style(status) if status != "running" else "dim",
            ),
            number(state["tasks_completed"]),
            markup("━" * round(_BAR * state["tasks_completed"] / most), "cyan"),
            markup(number(state["tasks_failed"]), "red" if state["tasks_failed"] else "dim"),
            number(len(state["active_tasks"])),
            number(state["tool_calls"]),
            number(state["tokens"]),
            money(state["cost_micro"]),
        )
    return made


def show_change(then: Mapping[str, Any], now: Mapping[str, Any], halfway: datetime) -> None:
    """Two states of one agent beside each other: what changed, and how many members did not."""
    before, after = readable(then), readable(now)
    names = [name for name in after if name != "agent_id"]
    changed = [name for name in names if before.get(name) != after[name]]
    rows = [(markup(name), markup(before.get(name, "-")), markup(after[name], "bold")) for name in changed]
    table(("what", f"at {halfway:%H:%M:%S}", "at the end"), rows)
    counts = f"{number(then['events_applied'])} events then, {number(now['events_applied'])} now, coverage {now['coverage']}"
    say(paint(f"{len(names) - len(changed)} more are as they were. {counts}.", "dim"))

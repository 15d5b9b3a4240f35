"""The fleet's tasks, tokens and tools as metrics for a scraper, from what the kernel has just measured.

Cumulative since this process began to follow, in base units; windows are the scraper's business. Per-agent values are not
exported, their number has no bound: they are asked of the query side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from tallyroll.analytics.spec import FLEET
from tallyroll.ports import DocumentWrite
from tallyroll.telemetry import OUTCOMES, TASK_DURATION, TASKS, TOKENS, TOOL_CALLS, Telemetry

if TYPE_CHECKING:
    from tallyroll.analytics.run import KernelRun, Observed

_MS_PER_S: Final = 1_000
_BOUNDS: Final = np.asarray(TASK_DURATION.buckets)
_SUCCEEDED, _FAILED = OUTCOMES


class Exposition:
    """Implements ``Observer``: counts the built-in metrics of the whole fleet, and tool calls per tool.

    A user's own metric is not exported. Not promised: that records are counted once; what is read again after a conflict is
    counted again, as a counter of a process does.
    """

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._take: Mapping[tuple[str, str], Callable[[Observed], None]] = {
            ("response_time", FLEET): self._durations,
            ("success", FLEET): self._tasks,
            ("tokens", FLEET): self._tokens,
            ("tool_success", "tool"): self._tools,
        }
        telemetry.observe_many(TASK_DURATION, [0] * (len(_BOUNDS) + 1), 0.0)
        for outcome in OUTCOMES:
            telemetry.count(TASKS, 0, outcome=outcome)
        telemetry.count(TOKENS, 0)

    def observed(self, run: KernelRun) -> None:
        for one in run.observed:
            take = self._take.get((one.spec.name, one.dimension))
            if take is not None:
                take(one)

    def _durations(self, one: Observed) -> None:
        seconds = one.values / _MS_PER_S
        counts = np.bincount(np.searchsorted(_BOUNDS, seconds, side="left"), minlength=len(_BOUNDS) + 1)
        self._telemetry.observe_many(TASK_DURATION, counts.tolist(), float(seconds.sum()))

    def _tasks(self, one: Observed) -> None:
        succeeded = int(np.count_nonzero(one.values))
        self._telemetry.count(TASKS, succeeded, outcome=_SUCCEEDED)
        self._telemetry.count(TASKS, len(one.values) - succeeded, outcome=_FAILED)

    def _tokens(self, one: Observed) -> None:
        self._telemetry.count(TOKENS, float(one.values.sum()))

    def _tools(self, one: Observed) -> None:
        ended = np.bincount(one.key_of, minlength=len(one.keys)).tolist()
        succeeded = np.bincount(one.key_of, weights=one.values, minlength=len(one.keys)).tolist()
        for tool, calls, good in zip(one.keys, ended, succeeded, strict=True):
            self._telemetry.count(TOOL_CALLS, good, tool=tool, outcome=_SUCCEEDED)
            self._telemetry.count(TOOL_CALLS, calls - good, tool=tool, outcome=_FAILED)

    # Nothing of it is stored: a scraper keeps the history.

    @property
    def goes_ahead(self) -> bool:
        return False

    @property
    def is_urgent(self) -> bool:
        return False

    def take_documents(self) -> Sequence[DocumentWrite]:
        return ()

    def stored(self) -> None: ...

    def give_back(self) -> None: ...

    def forget(self) -> None: ...

"""Threshold rules on panes that are still open: judged while values arrive, for the keys that got some.

A run is looked at as columns first; a pane is read only where the new values can have made the rule true. What does so depends
on the function: an average or a percentile passes a bound only by a value beyond that bound, a count by any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Final, NamedTuple

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from tallyroll.analytics.alerts.evaluate import Judgement, Window, judge_threshold, read
from tallyroll.analytics.alerts.rules import OF_SUCCESS, AnyRule, ThresholdRule, is_live
from tallyroll.analytics.run import KernelRun, Observed
from tallyroll.analytics.signal import MOST_EVIDENCE, Evidence
from tallyroll.analytics.spec import MetricSpec

OLDEST_S: Final = 86_400
"""Panes that began longer ago are history, an import for instance: no rule fires about them while values arrive."""

_COUNTED: Final = ("count", "sum", "per_minute")
_NEAR: Final = 0.02  # percentiles are read from bins of 2 %
_MOST_HELD: Final = 100_000  # open panes that are watched more closely; each is a small tuple

Bools = NDArray[np.bool_]


class _Pane(NamedTuple):
    rule: str
    key: str
    start: int


class LiveRules:
    """The rules that can be judged live, and what is remembered of the panes that are open.

    Not promised: to see what other processes have of the same pane; closed panes are judged again from the store.
    """

    def __init__(self, rules: Sequence[AnyRule], specs: Sequence[MetricSpec]) -> None:
        self._rules: dict[tuple[str, str], list[tuple[ThresholdRule, frozenset[str]]]] = {}
        known = {spec.name: spec for spec in specs}
        for rule in rules:
            if isinstance(rule, ThresholdRule) and is_live(rule, known[rule.metric]):
                self._rules.setdefault((rule.metric, rule.dimension), []).append((rule, frozenset(rule.keys)))
        self._hot: set[_Pane] = set()  # beyond the bound, with too few values so far
        self._missing: dict[_Pane, float] = {}  # how much a counted pane still lacks

    def judge(self, run: KernelRun, is_firing: Callable[[str], bool], now: int) -> Iterator[Judgement]:
        """The rules that are true now and whose series does not fire already (``is_firing`` of the series)."""
        if self._rules:
            for seen in run.observed:
                for rule, keys in self._rules.get((seen.spec.name, seen.dimension), ()):
                    yield from self._judge(run, seen, rule, keys, is_firing, now)
            if len(self._hot) + len(self._missing) > _MOST_HELD:
                self._hot.clear()
                self._missing.clear()

    def _judge(  # noqa: PLR0913  # one rule on one column, and who asks
        self, run: KernelRun, seen: Observed, rule: ThresholdRule, keys: frozenset[str], is_firing: Callable[[str], bool], now: int
    ) -> Iterator[Judgement]:
        beyond = _beyond(rule, seen.values)
        code = seen.key_of.astype(np.int64) + len(seen.keys) * ((seen.starts - seen.starts.min()) // seen.spec.pane_s)
        looked = np.unique(code[beyond] if not self._hot else code)
        if not len(looked):
            return
        order = np.argsort(code, kind="stable")
        ends = [np.searchsorted(code[order], looked, side).tolist() for side in ("left", "right")]
        for one, begin, end in zip(looked.tolist(), *ends, strict=True):
            place = one % len(seen.keys)
            pane = _Pane(rule.name, seen.keys[place], int(seen.starts.min()) + one // len(seen.keys) * seen.spec.pane_s)
            if (keys and pane.key not in keys) or pane.start < now - OLDEST_S:
                continue
            if is_firing(f"{rule.metric}|{rule.dimension}|{pane.key}|{rule.name}"):
                continue
            rows = order[begin:end]
            of_these = beyond[rows]
            if pane in self._hot or (of_these.any() and self._is_due(rule, pane, seen.values[rows])):
                judged = self._look(run, seen, rule, pane, seen.rows[rows[of_these] if of_these.any() else rows])
                if judged is not None:
                    yield judged

    def _is_due(self, rule: ThresholdRule, pane: _Pane, values: NDArray[np.float64]) -> bool:
        if rule.function not in _COUNTED:
            return True
        if pane not in self._missing:
            return True
        self._missing[pane] -= float(np.maximum(values, 0).sum()) if rule.function == "sum" else len(values)
        return self._missing[pane] <= 0

    def _look(self, run: KernelRun, seen: Observed, rule: ThresholdRule, at: _Pane, rows: NDArray[np.int32]) -> Judgement | None:
        pane = run.open_pane(rule.metric, rule.dimension, at.key, at.start)
        window = Window(at.start + seen.spec.pane_s, at.start)
        judged = judge_threshold(rule, seen.spec, at.key, pane, window)
        if judged.signal is not None:
            self._hot.discard(at)
            self._missing.pop(at, None)
            evidence = tuple(Evidence(*run.evidence(int(row))) for row in islice(reversed(rows), MOST_EVIDENCE))
            return judged._replace(signal=replace(judged.signal, evidence=evidence))
        if rule.function in _COUNTED:
            value = read(pane, rule.function, seen.spec, seen.spec.pane_s) or 0.0
            lacking = rule.value - value
            self._missing[at] = lacking * seen.spec.pane_s / 60 if rule.function == "per_minute" else lacking
        elif pane.n < rule.min_count:
            self._hot.add(at)
        return None

    def forget_before(self, start: int) -> None:
        """Panes that began before are closed."""
        self._hot = {pane for pane in self._hot if pane.start >= start}
        self._missing = {pane: lacking for pane, lacking in self._missing.items() if pane.start >= start}


def _beyond(rule: ThresholdRule, values: NDArray[np.float64]) -> Bools:
    """Which values can bring what the rule reads to the bad side."""
    if rule.function in _COUNTED:
        return np.ones(len(values), np.bool_)
    if rule.function in OF_SUCCESS:
        wants_failures = (rule.function == "success_rate") == (rule.comparison[0] == "<")
        failed: Bools = values == 0
        return failed if wants_failures else ~failed
    room = _NEAR * abs(rule.value)
    beyond: Bools = (values >= rule.value - room) if rule.comparison[0] == ">" else (values <= rule.value + room)
    return beyond

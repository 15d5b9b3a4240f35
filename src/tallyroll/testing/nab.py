"""The yardstick for detectors: scoring of the Numenta Anomaly Benchmark, and reading of its series.

Written from the published rule. Each series has windows in which an anomaly lies; a detection early in a window earns most,
one outside costs, a missed window costs. One threshold serves all series; 0 is a detector that says nothing, 100 one that
hits the first row of each window and nothing else.

Source: Lavin, Ahmad, "Evaluating Real-time Anomaly Detection Algorithms - the Numenta Anomaly Benchmark" (2015).
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tallyroll.analytics.anomalies.incidents import LOOK_BACK


class Profile(NamedTuple):
    """What a hit on the first row of a window earns, what a missed window costs, and what a row far from any window costs."""

    hit: float
    miss: float
    false: float


PROFILES: Final[Mapping[str, Profile]] = {
    "standard": Profile(1.0, 1.0, 0.11),
    "low-FP": Profile(1.0, 1.0, 0.22),
    "low-FN": Profile(1.0, 2.0, 0.11),
}

_PROBATION_SHARE: Final = 0.15
_LONGEST_PROBATION: Final = 750
_FAR: Final = 3.0  # so many windows behind the last one, a row costs all of it


class Labelled(NamedTuple):
    """One series: its values, and the windows as first and last row, both inclusive, ascending.

    ``days`` is the time from its first to its last row.
    """

    name: str
    values: NDArray[np.float64]
    windows: Sequence[tuple[int, int]]
    days: float


class Judged(NamedTuple):
    """The scores that a detector gave to the rows of a series, and the windows of that series."""

    scores: NDArray[np.float64]
    windows: Sequence[tuple[int, int]]


class Outcome(NamedTuple):
    """A score on the scale from 0 (silent) to 100 (perfect), and the threshold it was reached with."""

    score: float
    threshold: float


def probation(rows: int) -> int:
    """How many rows at the beginning of a series count for nothing."""
    return min(int(_PROBATION_SHARE * rows), _LONGEST_PROBATION)


def best(judged: Sequence[Judged], profile: Profile) -> Outcome:
    """The highest score that any one threshold reaches on all these series; infinity, which detects nothing, is among them."""
    scores, gains = _gains(judged, profile)
    order = np.argsort(-scores, kind="stable")
    scores, totals = scores[order], np.cumsum(gains[order])
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], len(scores) > 0))
    missed = -profile.miss * sum(len(one.windows) for one in judged)
    top = int(np.argmax(totals[last])) if len(last) else 0
    if not len(last) or totals[last[top]] <= 0:
        return Outcome(_on_scale(missed, judged, profile), float("inf"))
    return Outcome(_on_scale(missed + float(totals[last[top]]), judged, profile), float(scores[last[top]]))


def score_at(judged: Sequence[Judged], profile: Profile, threshold: float) -> float:
    """The score where rows at or above this threshold are detections."""
    scores, gains = _gains(judged, profile)
    missed = -profile.miss * sum(len(one.windows) for one in judged)
    return _on_scale(missed + float(gains[scores >= threshold].sum()), judged, profile)


def hits(judged: Judged, threshold: float) -> tuple[int, int]:
    """How many windows have a detection at this threshold, and how many detections lie outside of them; probation left out."""
    detected = judged.scores >= threshold
    detected[: probation(len(detected))] = False
    inside = np.zeros(len(detected), dtype=bool)
    for first, last in judged.windows:
        inside[first : last + 1] = True
    return sum(bool(detected[first : last + 1].any()) for first, last in judged.windows), int((detected & ~inside).sum())


def _on_scale(total: float, judged: Sequence[Judged], profile: Profile) -> float:
    windows = sum(len(one.windows) for one in judged)
    silent = -profile.miss * windows
    return 100 * (total - silent) / (profile.hit * windows - silent)


def _gains(judged: Sequence[Judged], profile: Profile) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scores of all rows that count, and what each adds to the total when the threshold sinks to its score."""
    scores, gains = [], []
    for one in judged:
        gained = _row_gains(one, profile)
        start = probation(len(one.scores))
        scores.append(one.scores[start:])
        gains.append(gained[start:])
    return (np.concatenate(scores), np.concatenate(gains)) if scores else (np.empty(0), np.empty(0))


def _row_gains(one: Judged, profile: Profile) -> NDArray[np.float64]:
    rows = len(one.scores)
    gained = np.full(rows, -profile.false)
    for first, last in one.windows:
        behind = (np.arange(last + 1, rows) - last) / max(last - first, 1)
        gained[last + 1 :] = profile.false * _decay(behind)
    for first, last in one.windows:
        worth = profile.hit * _decay(-np.arange(last - first + 1, 0, -1) / (last - first + 1)) / _decay(np.array([-1.0]))
        gained[first : last + 1] = _first_gains(one.scores[first : last + 1], worth, profile.miss, max(0, probation(rows) - first))
    return gained


def _first_gains(scores: NDArray[np.float64], worth: NDArray[np.float64], miss: float, skipped: int) -> NDArray[np.float64]:
    """Within a window only the best detection counts: what each row adds beyond those with a higher score."""
    gained = np.zeros(len(scores))
    order = np.argsort(-scores[skipped:], kind="stable") + skipped
    so_far = np.maximum.accumulate(worth[order])
    gained[order] = np.diff(so_far, prepend=-miss)
    return gained


def _decay(y: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(y > _FAR, -1.0, 2 / (1 + np.exp(5 * np.minimum(y, _FAR))) - 1)


def one_per_incident(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Only what is above all scores of the last hundred rows speaks, as incidents have it; the rest is 0."""
    before = np.concatenate([np.zeros(LOOK_BACK), scores[:-1]])
    return np.where(scores > np.lib.stride_tricks.sliding_window_view(before, LOOK_BACK).max(axis=1), scores, 0.0)


def data_folder(given: Path | None = None) -> Path | None:
    """Where the series lie: the folder that is given, else ``NAB_DATA`` of the environment; None if they are not there."""
    named = str(given) if given is not None else os.environ.get("NAB_DATA", "")
    folder = Path(named)
    return folder if named and (folder / "windows.json").is_file() else None


def read(folder: Path) -> Sequence[Labelled]:
    """All series that ``windows.json`` names, by name. Windows are found by equal timestamps; where one repeats, by the first."""
    labels: Mapping[str, Sequence[tuple[str, str]]] = json.loads((folder / "windows.json").read_text())
    return [_series(folder, name, labels[name]) for name in sorted(labels)]


def _series(folder: Path, name: str, windows: Sequence[tuple[str, str]]) -> Labelled:
    with (folder / name).open(newline="") as file:
        rows = list(csv.DictReader(file))
    place: dict[str, int] = {}
    for index, row in enumerate(rows):
        place.setdefault(row["timestamp"], index)
    days = (np.datetime64(rows[-1]["timestamp"]) - np.datetime64(rows[0]["timestamp"])) / np.timedelta64(1, "D")
    spans = sorted((place[first.removesuffix(".000000")], place[last.removesuffix(".000000")]) for first, last in windows)
    return Labelled(name.removesuffix(".csv"), np.array([float(row["value"]) for row in rows]), spans, float(days))

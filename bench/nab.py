"""Detectors on series of the Numenta Anomaly Benchmark: scores per group and in total, and what they say at their own thresholds.

Parameters and thresholds are the same for all series. They were chosen on the series of TUNED_ON; the others were held out.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bench.report import ROOT, save, table
from tallyroll.analytics.anomalies.incidents import Incidents
from tallyroll.opening import DETECTORS, new_detector
from tallyroll.testing.nab import PROFILES, Judged, Labelled, best, data_folder, hits, one_per_incident, probation, read, score_at

TUNED_ON: Final = (
    "artificialNoAnomaly/*",
    "artificialWithAnomaly/*",
    *(f"realTweets/Twitter_volume_{of}" for of in ("AAPL", "CRM", "FB", "IBM", "PFE")),
)

Scores = Mapping[str, NDArray[np.float64]]


def is_tuned_on(name: str) -> bool:
    """Whether this series was looked at when parameters and thresholds were chosen."""
    return name in TUNED_ON or f"{group_of(name)}/*" in TUNED_ON


def group_of(name: str) -> str:
    """The folder of a series."""
    return name.split("/", 1)[0]


def scored(detector: str, series: Sequence[Labelled]) -> tuple[Scores, float]:
    """The scores of a detector, a new one for each series, and the processor time of a row in microseconds."""
    found: dict[str, NDArray[np.float64]] = {}
    spent = 0.0
    for one in series:
        values, fresh = one.values.tolist(), new_detector(detector)
        started = time.process_time()
        found[one.name] = np.array([fresh.score(value).score for value in values])
        spent += time.process_time() - started
    return found, spent / sum(len(one.values) for one in series) * 1e6


def alarms(scores: NDArray[np.float64], threshold: float) -> NDArray[np.float64]:
    """1 on the rows with which an incident would have been told."""
    incidents, told = Incidents(), np.zeros(len(scores))
    for row, score in enumerate(scores.tolist()):
        change = incidents.step(row, 0.0, score, threshold)
        told[row] = change is not None and change.what == "began"
    return told


def by_profile(judged: Sequence[Judged], thresholds: Mapping[str, float] | None = None) -> Mapping[str, Any] | None:
    """Scores and thresholds per profile: the best threshold for these series, or those given. None without a window."""
    if not any(one.windows for one in judged):
        return None
    found = {}
    for name, profile in PROFILES.items():
        if thresholds is None:
            score, threshold = best(judged, profile)
        else:
            threshold = thresholds[name]
            score = score_at(judged, profile, threshold)
        found[name] = {"score": round(score, 2), "threshold": round(threshold, 5) if np.isfinite(threshold) else None}
    return found


def told(series: Sequence[Labelled], scores: Scores, threshold: float) -> Mapping[str, Any]:
    """What would have been told at this threshold, probation left out: windows hit, alarms, and how many of them a day."""
    found = [hits(Judged(alarms(scores[one.name], threshold), one.windows), 1.0) for one in series]
    count = sum(int(alarms(scores[one.name], threshold)[probation(len(one.values)) :].sum()) for one in series)
    days = sum(one.days * (1 - probation(len(one.values)) / len(one.values)) for one in series)
    return {
        "windows": sum(len(one.windows) for one in series),
        "windows_hit": sum(hit for hit, _ in found),
        "alarms": count,
        "alarms_outside_windows": sum(outside for _, outside in found),
        "series_days": round(days, 1),
        "alarms_per_series_day": round(count / days, 3),
    }


def figures_of(detector: str, series: Sequence[Labelled]) -> Mapping[str, Any]:
    """Everything that is said of one detector."""
    scores, us = scored(detector, series)
    threshold = new_detector(detector).threshold
    speaking = {name: one_per_incident(of) for name, of in scores.items()}

    def judged(some: Sequence[Labelled]) -> list[Judged]:
        return [Judged(speaking[one.name], one.windows) for one in some]

    sets = {"all": series, "tuned_on": [one for one in series if is_tuned_on(one.name)]}
    sets["held_out"] = [one for one in series if not is_tuned_on(one.name)]
    groups = {group: [one for one in series if group_of(one.name) == group] for group in sorted({group_of(one.name) for one in series})}
    corpus = {name: best(judged(series), profile).threshold for name, profile in PROFILES.items()}
    own = dict.fromkeys(PROFILES, threshold)
    return {
        "us_per_row": round(us, 2),
        "threshold": threshold,
        "best_threshold": {name: by_profile(judged(some)) for name, some in sets.items()},
        "own_threshold": {name: by_profile(judged(some), own) for name, some in sets.items()},
        "groups_at_best_threshold_of_all": {name: by_profile(judged(some), corpus) for name, some in groups.items()},
        "told_at_own_threshold": {name: told(some, scores, threshold) for name, some in {**sets, **groups}.items()},
        "without_one_per_incident": by_profile([Judged(scores[one.name], one.windows) for one in series]),
    }


def tables(found: Mapping[str, Mapping[str, Any]]) -> str:
    """What is printed."""
    score_rows, told_rows, group_rows = [], [], []
    for detector, of in found.items():
        top, own, spoke = of["best_threshold"], of["own_threshold"], of["told_at_own_threshold"]
        score_rows.append([
            detector, *(top["all"][profile]["score"] for profile in PROFILES),
            *(scores[part]["standard"]["score"] for scores in (top, own) for part in ("tuned_on", "held_out")), of["us_per_row"],
        ])  # fmt: skip
        told_rows += [
            [f"{detector}, {part}", str(of["threshold"]), f"{one['windows_hit']} of {one['windows']}", one["alarms"],
             one["alarms_outside_windows"], one["alarms_per_series_day"]]
            for part, one in spoke.items() if part in ("tuned_on", "held_out")
        ]  # fmt: skip
        groups = of["groups_at_best_threshold_of_all"]
        group_rows.append([detector, *(scores["standard"]["score"] if scores else "-" for scores in groups.values())])
    names = list(next(iter(found.values()))["groups_at_best_threshold_of_all"])
    best_of = ["standard", "low-FP", "low-FN", "tuned on", "held out", "tuned on, own", "held out, own", "µs/row"]
    return "\n\n".join([
        table("0 says nothing, 100 is perfect; at the best threshold, and (own) at the detector's own", ["detector", *best_of], score_rows),
        table("at the best threshold for all, standard, per group", ["detector", *names], group_rows),
        table("at the detector's own threshold", ["detector", "threshold", "windows hit", "alarms", "outside", "a series-day"], told_rows),
    ])  # fmt: skip


def main(argv: list[str]) -> None:
    """Prints the tables and writes bench-results/nab.json."""
    parser = argparse.ArgumentParser(prog="scripts/bench nab", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with the series and windows.json (default: NAB_DATA of the environment)")
    parser.add_argument("--detectors", nargs="+", choices=DETECTORS, default=list(DETECTORS), help="only these (default: all)")
    parser.add_argument("--no-save", action="store_true", help="print only")
    options = parser.parse_args(argv)
    folder = data_folder(options.data)
    if folder is None:
        parser.error("no windows.json there: set NAB_DATA, or --data, to a folder with series of the Numenta Anomaly Benchmark")
    series = read(folder)
    found = {name: figures_of(name, series) for name in options.detectors}
    print(tables(found))
    about = {
        "series": len(series), "rows": sum(len(one.values) for one in series), "windows": sum(len(one.windows) for one in series),
        "tuned_on": [one.name for one in series if is_tuned_on(one.name)],
        "held_out": [one.name for one in series if not is_tuned_on(one.name)],
    }  # fmt: skip
    if not options.no_save:
        print(f"\nwritten to {save('nab', {**about, 'detectors': found}).relative_to(ROOT)}")

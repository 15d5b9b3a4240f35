"""The figures of detectors on the page are those of the file of results."""

from __future__ import annotations

import json

import pytest
from tests.docs.pages import ROOT

PAGE = (ROOT / "docs" / "explanation" / "anomalies.md").read_text()
RESULTS = json.loads((ROOT / "bench-results" / "nab.json").read_text())


def score_row(name: str) -> str:
    one = RESULTS["detectors"][name]
    best, own = one["best_threshold"], one["own_threshold"]
    cells = [best["all"][profile]["score"] for profile in ("standard", "low-FP", "low-FN")]
    cells += [scores[part]["standard"]["score"] for scores in (best, own) for part in ("tuned_on", "held_out")]
    return f"| `{name}` | " + " | ".join(f"{cell:.1f}" for cell in cells) + f" | {one['us_per_row']:,.0f} |"


def told_row(name: str) -> str:
    one = RESULTS["detectors"][name]
    cells = [str(one["threshold"])]
    for part in ("tuned_on", "held_out"):
        told = one["told_at_own_threshold"][part]
        cells += [f"{told['windows_hit']} of {told['windows']}", str(told["alarms"]), f"{told['alarms_per_series_day']:.2f}"]
    return f"| `{name}` | " + " | ".join(cells) + " |"


def group_row(name: str) -> str:
    groups = RESULTS["detectors"][name]["groups_at_best_threshold_of_all"]
    return f"| `{name}` | " + " | ".join(f"{of['standard']['score']:.1f}" for of in groups.values() if of) + " |"


@pytest.mark.parametrize("name", RESULTS["detectors"])
@pytest.mark.parametrize("row", [score_row, told_row, group_row])
def test_each_row_is_on_the_page(name: str, row) -> None:
    assert row(name) in PAGE.splitlines()


def test_machine_and_commit_are_told() -> None:
    about = RESULTS["provenance"]
    machine = about["machine"]
    assert f"{machine['cores']} shared cores ({machine['cpu']}), Python {machine['python']}, commit `{about['commit']}`" in PAGE

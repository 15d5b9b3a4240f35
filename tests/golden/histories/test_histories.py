"""Every recorded history still comes to the recorded states; a change of meaning needs a new version of the view."""

from __future__ import annotations

import pytest
from tests.golden.histories.history import FOLDER, load, outcome

GOOD = sorted(path for path in FOLDER.glob("*.jsonl") if not path.name.startswith("wrong"))


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
async def test_a_recorded_history_comes_to_the_recorded_states(path: object) -> None:
    expected, log = load(path)
    assert await outcome(log) == expected


async def test_a_history_that_is_wrong_on_purpose_is_noticed_in_the_one_view_that_is_wrong() -> None:
    expected, log = load(FOLDER / "wrong_order.jsonl")
    found = await outcome(log)
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == ["agent"]


def test_the_histories_together_have_states_of_every_view() -> None:
    counts = {name: sum(load(path)[0][name]["owners"] for path in GOOD) for name in load(GOOD[0])[0]}
    assert all(counts.values()), counts

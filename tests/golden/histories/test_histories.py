"""Every recorded history still comes to the recorded states; a change of meaning needs a new version of the view."""

from __future__ import annotations

import pytest
from tests.golden.histories.history import FOLDER, load, outcome

GOOD = sorted(path for path in FOLDER.glob("*.jsonl") if not path.name.startswith("wrong"))


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
async def test_a_recorded_history_comes_to_the_recorded_states(path: object) -> None:
    expected, log = load(path)
    assert await outcome(log) == expected


async def test_a_history_that_is_wrong_on_purpose_is_noticed() -> None:
    expected, log = load(FOLDER / "wrong_order.jsonl")
    assert await outcome(log) != expected

"""A forked child publishes on its own; the parent's buffer stays the parent's."""

from __future__ import annotations

import pytest
from tests.flows.leaving import find, leave, spooled

from tallyroll.settings import Settings

pytestmark = pytest.mark.slow


def test_on_the_embedded_log_parent_and_child_both_publish_once(tmp_path):
    url = f"sqlite:///{tmp_path}"
    left = leave("fork", url, tmp_path, 50)
    assert left.code == 0, left.errors
    found = find(Settings(url=url))
    assert sorted(left.ids) == sorted(record.event_id for records in found.seen.values() for record in records)
    for key in ("task-parent", "task-child", "task-parent-2"):
        assert found.numbers(key) == list(range(50))
    assert found.findings == []


def test_while_the_broker_is_away_each_has_a_spool_of_its_own(tmp_path):
    left = leave("fork", "kafka://127.0.0.1:1", tmp_path, 50, "TALLYROLL_EXIT_GRACE_MS=200")
    assert left.code == 0, left.errors
    waiting = spooled(tmp_path)
    assert sorted(set(waiting)) == sorted(left.ids)

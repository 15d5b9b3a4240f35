"""No way out of a process loses what was accepted."""

from __future__ import annotations

import signal

import pytest
from tests.flows.leaving import find, leave, spooled

from tallyroll.settings import Settings

pytestmark = pytest.mark.slow
NOBODY = "kafka://127.0.0.1:1"
"""A broker that is away."""
SHORT = "TALLYROLL_EXIT_GRACE_MS=200"
WAYS = [
    ("plain", None, 0),
    ("system_exit", None, 7),
    ("wait_for_signal", signal.SIGTERM, -signal.SIGTERM),
    ("host_handler", signal.SIGTERM, 5),
    ("spawn", None, 0),
    ("fork_children", None, 0),
]


@pytest.mark.parametrize(("way", "send", "code"), WAYS)
def test_on_the_embedded_log_everything_accepted_is_there(tmp_path, way, send, code):
    url = f"sqlite:///{tmp_path}"
    left = leave(way, url, tmp_path, send=send)
    assert left.code == code, left.errors
    found = find(Settings(url=url))
    assert set(left.ids) == found.ids
    assert len(left.ids) == (400 if way in ("spawn", "fork_children") else 200)
    assert found.findings == []


@pytest.mark.parametrize(("way", "send", "code"), WAYS)
def test_while_the_broker_is_away_everything_accepted_is_in_the_spool_in_order(tmp_path, way, send, code):
    left = leave(way, NOBODY, tmp_path, 200, SHORT, send=send)
    assert left.code == code, left.errors
    waiting = list(dict.fromkeys(spooled(tmp_path)))
    assert sorted(waiting) == sorted(left.ids), left.errors
    if way not in ("spawn", "fork_children"):
        assert waiting == left.ids


def test_what_was_not_waited_for_survives_kill_9_from_acceptance_on(tmp_path):
    left = leave("acknowledged", NOBODY, tmp_path, 500, "KAFKA_WAIT_FOR_ACK=false", send=signal.SIGKILL, after=100)
    assert left.code == -signal.SIGKILL
    waiting = spooled(tmp_path)
    assert len(left.ids) >= 100
    assert waiting[: len(left.ids)] == left.ids


def test_events_of_write_ahead_topics_survive_kill_9(tmp_path):
    durable = 'TALLYROLL_TOPICS={"task-events":{"durability":"write-ahead"}}'
    left = leave("acknowledged", NOBODY, tmp_path, 1, durable, "TALLYROLL_PUBLISH_DEADLINE_MS=200", SHORT)
    assert "PublishUncertain" in left.errors
    assert len(spooled(tmp_path)) == 1


def test_what_the_embedded_log_acknowledged_survives_kill_9(tmp_path):
    url = f"sqlite:///{tmp_path}"
    left = leave("acknowledged", url, tmp_path, 500, send=signal.SIGKILL, after=50)
    assert set(left.ids) <= find(Settings(url=url)).ids

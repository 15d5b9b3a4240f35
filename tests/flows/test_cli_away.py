"""What the commands say where the broker is away: what they wait for, what became of the event, where to look."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from tallyroll.adapters.system.clock import SystemClock
from tallyroll.cli.app import app

pytestmark = pytest.mark.slow

AWAY = "kafka://127.0.0.1:1"  # a port where nobody listens


@pytest.fixture
def tallyroll(tmp_path: Path) -> Callable[..., Result]:
    runner = CliRunner(
        env={
            "TALLYROLL_URL": None, "KAFKA_BOOTSTRAP_SERVERS": None, "TALLYROLL_CONFIG": None, "TALLYROLL_DATA_DIR": str(tmp_path),
            "TALLYROLL_PUBLISH_DEADLINE_MS": "2500", "TALLYROLL_STALL_MS": "300", "TALLYROLL_EXIT_GRACE_MS": "60000",
        }
    )  # fmt: skip

    def call(*words: str, code: int) -> Result:
        result = runner.invoke(app, list(words), prog_name="tallyroll")
        assert result.exit_code == code, f"{words}: {result.exit_code}\n{result.output}\n{result.exception!r}"
        return result

    return call


def test_publishing_says_what_it_waits_for_and_leaves_what_is_kept(tallyroll: Callable[..., Result]) -> None:
    clock = SystemClock()
    began = clock.monotonic()
    said = tallyroll("publish", "agent.started", "a1", "--url", AWAY, code=5).stderr
    assert clock.monotonic() - began < 30  # it does not wait out the grace of 60 s for what is in the spool
    assert f"{AWAY} has not answered yet; waiting for it up to 2.5 s" in said
    assert "no answer within 2.5 s" in said
    assert "left in the spool" not in said

    looked = tallyroll("agents", "ls", "--url", AWAY, code=3).stderr
    assert "Kafka at 127.0.0.1:1: does not answer (_TIMED_OUT)" in looked
    assert "tallyroll doctor" in looked
    assert "spool" not in looked  # who only looks is not told what others have left

    again = tallyroll("publish", "agent.started", "a1", "--url", AWAY, code=5).stderr
    assert again.count("1 event is left in the spool by an earlier process; it goes out before anything new") == 1
    third = tallyroll("publish", "agent.started", "a1", "--url", AWAY, code=5).stderr
    assert "2 events are left in the spool by earlier processes; they go out before anything new" in third

    examined = tallyroll("doctor", "--url", AWAY, code=1).stdout
    assert "127.0.0.1:1 does not answer" in examined
    assert "3 events waiting, 0 refused" in examined


def test_plans_name_the_broker_that_does_not_answer(tallyroll: Callable[..., Result]) -> None:
    assert "Kafka at 127.0.0.1:1, asked about " in tallyroll("topics", "plan", "--url", AWAY, code=3).stderr


@pytest.mark.parametrize("url", ["foo", "kafka://user:secret@broker:9092", "kafka://"])
def test_a_slip_in_the_option_is_not_blamed_on_a_variable(tallyroll: Callable[..., Result], url: str) -> None:
    for words in (("agents", "ls", "--url", url), ("--url", url, "agents", "ls")):
        said = tallyroll(*words, code=2).stderr
        assert said.startswith("tallyroll: --url: expected ")
        assert "TALLYROLL_URL" not in said
        assert "secret" not in said

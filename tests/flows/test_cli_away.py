"""What the commands say where the broker is away: what they wait for, what became of the event, where to look."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.apart import Program, begun
from tests.environment import environment
from typer.testing import CliRunner

from tallyroll.cli.app import app

pytestmark = pytest.mark.slow

AWAY = "kafka://127.0.0.1:1"  # a port where nobody listens
Begin = Callable[..., Program]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """Begins a command in a process of its own: each waits for seconds, and several can wait beside each other."""
    programs: list[Program] = []
    grace = "3600000"  # nobody waits it out for what is in the spool, or this would never end

    def begin(*words: str, folder: str = "spool", deadline_ms: int = 2_500) -> Program:
        waits = {"TALLYROLL_PUBLISH_DEADLINE_MS": str(deadline_ms), "TALLYROLL_STALL_MS": "300", "TALLYROLL_EXIT_GRACE_MS": grace}
        environ = environment(TALLYROLL_DATA_DIR=str(tmp_path / folder), **waits)
        programs.append(begun([*words, "--url", AWAY], tmp_path, environ))
        return programs[-1]

    yield begin
    for program in programs:
        program.kill()
        program.lines.close()


def said(program: Program, code: int) -> str:
    ended, text = program.ended()
    assert ended == code, text
    return text


def test_the_commands_say_what_they_wait_for_and_leave_what_is_kept(begin: Begin) -> None:
    planning = begin("topics", "plan")
    waiting = begin("publish", "agent.started", "a1", folder="other", deadline_ms=15_000)  # time enough to say so
    leaving = begin("publish", "agent.started", "a1", folder="looked-at")
    first = said(begin("publish", "agent.started", "a1"), 5)
    assert "no answer within 2.5 s" in first
    assert "left in the spool" not in first

    said(leaving, 5)
    looking = begin("agents", "ls", folder="looked-at")
    again = said(begin("publish", "agent.started", "a1"), 5)
    assert again.count("1 event is left in the spool by an earlier process; it goes out before anything new") == 1
    third = said(begin("publish", "agent.started", "a1"), 5)
    assert "2 events are left in the spool by earlier processes; they go out before anything new" in third

    looked = said(looking, 3)
    assert "Kafka at 127.0.0.1:1: does not answer (_TIMED_OUT)" in looked
    assert "tallyroll doctor" in looked
    assert "spool" not in looked  # who only looks is not told what others have left

    examined = said(begin("doctor"), 1)
    assert "127.0.0.1:1 does not answer" in examined
    assert "3 events waiting, 0 refused" in examined

    assert f"{AWAY} has not answered yet; waiting for it up to 15 s" in said(waiting, 5)
    assert "Kafka at 127.0.0.1:1, asked about " in said(planning, 3)


def invoked(*words: str, code: int) -> str:
    """What is said on standard error."""
    done = CliRunner().invoke(app, list(words), prog_name="tallyroll")
    assert done.exit_code == code
    return done.stderr


@pytest.mark.parametrize("url", ["foo", "kafka://user:secret@broker:9092", "kafka://"])
def test_a_slip_in_the_option_is_not_blamed_on_a_variable(url: str) -> None:
    for words in (("agents", "ls", "--url", url), ("--url", url, "agents", "ls")):
        said = invoked(*words, code=2)
        assert said.startswith("tallyroll: --url: expected ")
        assert "TALLYROLL_URL" not in said
        assert "secret" not in said


def test_a_wrong_url_and_a_folder_that_cannot_be_made_send_nobody_to_the_wrong_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for words in (("agents", "ls"), ("archive", "query", "SELECT 1"), ("verify", "chain")):
        assert "next: give it another value; see --help" in invoked(*words, "--url", "postgres://x", code=2)
        refused = invoked(*words, "--url", f"sqlite:///{tmp_path}/file/log", code=3)
        assert "the folder cannot be made" in refused
        assert "next: check the folder of the log with 'tallyroll doctor'" in refused

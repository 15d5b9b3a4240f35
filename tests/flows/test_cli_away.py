"""What the commands say where the broker is away: what they wait for, what became of the event, where to look."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.apart import Program, begun
from tests.environment import environment
from typer.testing import CliRunner

from tallyroll.cli.app import app

pytestmark = pytest.mark.slow

AWAY = "kafka://127.0.0.1:1"  # a port where nobody listens


class Said(NamedTuple):
    """What a command has printed, and what it has said on standard error."""

    out: str
    err: str


class Begun(NamedTuple):
    """A command in a process of its own."""

    program: Program
    errors: Path

    def said(self, code: int) -> Said:
        """All that it has said, when it has ended so."""
        ended, out = self.program.ended()
        said = Said(out, self.errors.read_text())
        assert ended == code, said
        return said


Begin = Callable[..., Begun]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """Begins a command in a process of its own: each waits for seconds, and several can wait beside each other."""
    programs: list[Program] = []
    grace = "3600000"  # nobody waits it out for what is in the spool, or this would never end

    def begin(*words: str, folder: str = "spool", deadline_ms: int = 2_500) -> Begun:
        waits = {"TALLYROLL_PUBLISH_DEADLINE_MS": str(deadline_ms), "TALLYROLL_STALL_MS": "300", "TALLYROLL_EXIT_GRACE_MS": grace}
        environ, errors = environment(TALLYROLL_DATA_DIR=str(tmp_path / folder), **waits), tmp_path / f"{len(programs)}.err"
        programs.append(begun([*words, "--url", AWAY], tmp_path, environ, errors))
        return Begun(programs[-1], errors)

    yield begin
    for program in programs:
        program.kill()
        program.lines.close()


def test_the_commands_say_what_they_wait_for_and_leave_what_is_kept(begin: Begin) -> None:
    planning = begin("topics", "plan")
    waiting = begin("publish", "agent.started", "a1", folder="other", deadline_ms=15_000)  # time enough to say so
    leaving = begin("publish", "agent.started", "a1", folder="looked-at")
    first = begin("publish", "agent.started", "a1").said(5)
    assert "no answer within 2.5 s" in first.err
    assert "left in the spool" not in first.err

    leaving.said(5)
    looking = begin("agents", "ls", folder="looked-at")
    again = begin("publish", "agent.started", "a1").said(5)
    assert again.err.count("1 event is left in the spool by an earlier process; it goes out before anything new") == 1
    third = begin("publish", "agent.started", "a1").said(5)
    assert "2 events are left in the spool by earlier processes; they go out before anything new" in third.err

    looked = looking.said(3)
    assert "Kafka at 127.0.0.1:1: does not answer (_TIMED_OUT)" in looked.err
    assert "tallyroll doctor" in looked.err
    assert "spool" not in looked.err  # who only looks is not told what others have left

    examined = begin("doctor").said(1)
    assert "127.0.0.1:1 does not answer" in examined.out  # what doctor finds is what it was asked for
    assert "3 events waiting, 0 refused" in examined.out

    waited, planned = waiting.said(5), planning.said(3)
    assert f"{AWAY} has not answered yet; waiting for it up to 15 s" in waited.err
    assert "Kafka at 127.0.0.1:1, asked about " in planned.err
    assert [one.out for one in (first, again, third, looked, waited, planned)] == [""] * 6


def test_for_a_program_the_error_is_the_one_object_that_is_printed(begin: Begin) -> None:
    looking, examining = begin("agents", "ls", "--json", folder="looking"), begin("doctor", "--json", folder="examined")
    published = begin("publish", "agent.started", "a1", "--json").said(5)
    for said, kind, what in (
        (published, "PublishUncertain", "no answer within 2.5 s"),
        (looking.said(3), "LogUnavailable", "Kafka at 127.0.0.1:1: does not answer (_TIMED_OUT)"),
    ):
        found = json.loads(said.out)
        assert set(found) == {"error", "type", "next"}
        assert found["type"] == kind
        assert what in found["error"]
        assert "tallyroll:" not in said.err
    found = json.loads(examining.said(1).out)
    assert not found["ok"]


def invoked(*words: str, code: int) -> str:
    """What is said on standard error, and nothing else."""
    done = CliRunner().invoke(app, list(words), prog_name="tallyroll")
    assert (done.exit_code, done.stdout) == (code, "")
    return done.stderr


def told(*words: str, code: int) -> dict[str, str]:
    """The same error, printed for a program; then nothing is said on standard error."""
    done = CliRunner().invoke(app, [*words, "--json"], prog_name="tallyroll")
    assert (done.exit_code, done.stderr) == (code, "")
    return json.loads(done.stdout)


@pytest.mark.parametrize("url", ["foo", "kafka://user:secret@broker:9092", "kafka://"])
def test_a_slip_in_the_option_is_not_blamed_on_a_variable(url: str) -> None:
    for words in (("agents", "ls", "--url", url), ("--url", url, "agents", "ls")):
        said = invoked(*words, code=2)
        assert said.startswith("tallyroll: --url: expected ")
        error = told(*words, code=2)
        assert error["type"] == "SettingsError"
        assert error["error"].startswith("--url: expected ")
        for text in (said, *error.values()):
            assert "TALLYROLL_URL" not in text
            assert "secret" not in text


def test_a_wrong_url_and_a_folder_that_cannot_be_made_send_nobody_to_the_wrong_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for words in (("agents", "ls"), ("archive", "query", "SELECT 1"), ("verify", "chain")):
        assert "next: give it another value; see --help" in invoked(*words, "--url", "postgres://x", code=2)
        refused = invoked(*words, "--url", f"sqlite:///{tmp_path}/file/log", code=3)
        assert "the folder cannot be made" in refused
        assert "next: check the folder of the log with 'tallyroll doctor'" in refused
        assert told(*words, "--url", "postgres://x", code=2)["next"] == "give it another value; see --help"
        assert "the folder cannot be made" in told(*words, "--url", f"sqlite:///{tmp_path}/file/log", code=3)["error"]

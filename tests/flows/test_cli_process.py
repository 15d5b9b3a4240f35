"""The installed command as a process: pipes, signals, missing extras, and the demo."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.environment import environment
from tests.patience import PATIENCE_S

from tallyroll.cli.demo.command import fleet_until
from tallyroll.cli.demo.forgery import forge_copy
from tallyroll.events.event import AgentEvent
from tallyroll.roll import Roll

pytestmark = pytest.mark.slow

TALLYROLL = Path(sys.executable).with_name("tallyroll")


def environ_of(folder: Path, **more: str) -> Mapping[str, str]:
    return environment(TALLYROLL_URL=f"sqlite:///{folder / 'log'}", **more)


def python(program: str, folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Runs a program that ends by itself, as the command would be run."""
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env=environ_of(folder, **more), capture_output=True, text=True, check=False, timeout=PATIENCE_S)


def begin(folder: Path, *command: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(command, env=environ_of(folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    return begin(folder, TALLYROLL, *words)


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=PATIENCE_S)
    return process.returncode, out, err


def run(folder: Path, *words: str) -> str:
    code, out, err = finish(start(folder, *words))
    assert code == 0, out + err
    return out


def test_a_reader_that_leaves_early_ends_tail_quietly(tmp_path: Path) -> None:
    run(tmp_path, "simulate", "--events", "2000", "--seed", "1")
    process = start(tmp_path, "tail", "--all", "--json")
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["event_id"]
    process.stdout.close()
    assert process.wait(timeout=PATIENCE_S) == 0
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()


@pytest.mark.parametrize(
    "words", [("agents", "timeline", "researcher-001"), ("replay", "step", "agent", "researcher-001"), ("tail", "--all")]
)
def test_a_reader_that_leaves_early_ends_every_listing_with_0(tmp_path: Path, words: tuple[str, ...]) -> None:
    run(tmp_path, "simulate", "--events", "3000", "--agents", "1", "--seed", "1")  # more lines than a pipe holds
    process = start(tmp_path, *words)
    assert process.stdout is not None
    assert process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=PATIENCE_S) == 0
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()


def test_standard_output_that_is_closed_full_or_of_another_encoding_is_no_defect(tmp_path: Path) -> None:
    run(tmp_path, "publish", "agent.started", "ä-1")
    for line, code, said in (
        ('"$0" agents ls >&-', 0, ""),
        ('"$0" agents ls --json > /dev/full', 2, "No space left on device"),
        ('"$0" agents ls > /dev/full', 2, "No space left on device"),
        ('PYTHONIOENCODING=ascii "$0" agents state ä-1 | grep -c "^.xe4-1  running"', 0, ""),
        ('PYTHONIOENCODING=ascii "$0" doctor --url sqlite:///new', 0, ""),
    ):
        shell = ["bash", "-c", line, str(TALLYROLL)]
        done = subprocess.run(
            shell, env=environ_of(tmp_path), cwd=tmp_path, capture_output=True, text=True, check=False, timeout=PATIENCE_S
        )
        assert done.returncode == code, f"{line}: {done.stderr}"
        assert said in done.stderr
        assert len(done.stderr.splitlines()) <= 2, done.stderr


def test_a_folder_without_rights_is_told_of_by_every_command_and_by_doctor_as_one_check(tmp_path: Path) -> None:
    run(tmp_path, "publish", "agent.started", "a-1")
    without_rights = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    (tmp_path / "log").chmod(0o000)
    try:
        for words, code in ((("agents", "ls"), 3), (("publish", "agent.started", "a-2"), 3), (("doctor",), 1)):
            command = [*without_rights, TALLYROLL, *words, "--json"]
            done = subprocess.run(command, env=environ_of(tmp_path), capture_output=True, text=True, check=False, timeout=PATIENCE_S)
            assert done.returncode == code, done.stdout + done.stderr
            told = json.loads(done.stdout)
            if words == ("doctor",):
                assert [one["name"] for one in told["checks"] if one["verdict"] == "fail"] == ["folder"]
            else:
                assert "permissions" in told["error"] or "writable" in told["error"]
                assert told["next"].startswith("check the folder of the log")
    finally:
        (tmp_path / "log").chmod(0o700)


def test_ctrl_c_while_it_is_still_importing_ends_with_130_and_no_trace(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom tallyroll.cli import main\n"
        "class Interrupted:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'tallyroll.cli.app':\n            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupted())\nmain()"
    )
    done = python(program, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_ctrl_c_ends_with_130_after_everything_accepted_is_in_the_log(tmp_path: Path) -> None:
    process = start(tmp_path, "simulate", "--rate", "200", "--duration", "10h", "--seed", "1")
    log = tmp_path / "log" / "log.db"
    until = time.monotonic() + PATIENCE_S
    while not log.exists() or not run(tmp_path, "tail", "--last", "1", "--json"):
        assert time.monotonic() < until
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert (code, err) == (130, "")
    report = json.loads(run(tmp_path, "verify", "chain", "--json"))
    assert report["intact"]
    assert report["records"] > 0


def test_a_service_beside_an_older_copy_of_its_log_says_so(tmp_path: Path) -> None:
    run(tmp_path, "publish", "task.started", "task-1", "--agent", "a-1")
    log = Path(environ_of(tmp_path)["TALLYROLL_URL"].removeprefix("sqlite:///"))
    kept = shutil.copytree(log, tmp_path / "kept")
    run(tmp_path, "publish", "task.completed", "task-1", "--agent", "a-1")
    run(tmp_path, "run", "archive", "state", "--once")
    for path in [*log.glob("log.db*")]:
        path.unlink()
    shutil.copytree(kept, log, dirs_exist_ok=True)
    process = start(tmp_path, "run", "archive", "state", "--interval", "100ms", "--json")
    assert process.stdout is not None
    line = json.loads(process.stdout.readline())
    assert (line["ahead"], line["behind"]) == (["archive", "state"], 0)
    process.send_signal(signal.SIGTERM)
    code, _, err = finish(process)
    assert code == 0
    assert err.count("what archive, state has stored is ahead of the log") == 1


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_run_stores_what_it_applied_when_it_is_told_to_end(tmp_path: Path, sent: signal.Signals, code: int) -> None:
    run(tmp_path, "simulate", "--events", "500", "--seed", "1")
    process = start(tmp_path, "run", "--interval", "100ms", "--json")
    assert process.stdout is not None
    while json.loads(process.stdout.readline())["behind"]:
        pass
    process.send_signal(sent)
    assert finish(process)[0] == code
    assert json.loads(run(tmp_path, "lag", "--json"))["records"] == 0


def test_a_line_says_the_time_that_has_passed_and_not_the_interval(tmp_path: Path) -> None:
    process = start(tmp_path, "run", "--interval", "48h")
    assert process.stderr is not None
    while "following" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGTERM)
    code, out, _ = finish(process)
    assert code == 0
    assert re.search(r"0 applied in [0-9.]+ (ms|s|min|h), 0 behind$", out.strip())


@pytest.mark.parametrize(
    ("words", "code", "advice"), [((), 0, "New here? Run 'tallyroll demo'."), (("publis",), 2, "did you mean publish?")]
)
def test_python_m_tallyroll_is_the_command(tmp_path: Path, words: tuple[str, ...], code: int, advice: str) -> None:
    as_module = finish(begin(tmp_path, sys.executable, "-m", "tallyroll", *words))
    assert as_module[0] == code
    assert advice in as_module[2 if code else 1]
    assert as_module == finish(start(tmp_path, *words))


SPREAD = ("run", "state", "archive", "--processes", "2", "--interval", "100ms", "--json")


def until_each_has_caught_up(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    left: dict[str, int] = {}
    while set(left) != {"state", "archive"} or any(left.values()):
        line = json.loads(process.stdout.readline())
        (follower,) = line["followers"]
        left[follower] = line["behind"]


def children_of(process: subprocess.Popen[str]) -> list[int]:
    """By the kernel, each as a descriptor that is readable when the process has ended, whoever has started it."""
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [os.pidfd_open(int(pid)) for pid in found]


def ended(child: int) -> bool:
    found = select.select([child], [], [], PATIENCE_S)[0]
    os.close(child)
    return bool(found)


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_followers_in_processes_of_their_own_end_together_when_they_are_told_to(tmp_path: Path, sent: signal.Signals, code: int) -> None:
    run(tmp_path, "simulate", "--events", "500", "--seed", "1")
    process = start(tmp_path, *SPREAD, "--http", "127.0.0.1:0")
    until_each_has_caught_up(process)
    process.send_signal(sent)
    ended_with, _, err = finish(process)
    assert ended_with == code
    assert (err.count("serving http://127.0.0.1:"), err.count("stopped; all that was applied is stored")) == (2, 2)
    left = json.loads(run(tmp_path, "run", "state", "archive", "--once", "--json"))
    assert (left["applied"], left["behind"]) == (0, 0)


def test_where_one_process_of_several_is_killed_the_others_store_what_they_have_and_the_code_tells(tmp_path: Path) -> None:
    run(tmp_path, "simulate", "--events", "500", "--seed", "1")
    process = start(tmp_path, *SPREAD)
    until_each_has_caught_up(process)
    children = children_of(process)
    signal.pidfd_send_signal(children[0], signal.SIGKILL)
    code, _, err = finish(process)
    assert code == 128 + signal.SIGKILL
    assert (err.count("ended with code -9"), err.count("stopped; all that was applied is stored")) == (1, 1)
    assert all(map(ended, children))


def test_no_process_of_several_outlives_the_one_that_has_started_it(tmp_path: Path) -> None:
    process = start(tmp_path, *SPREAD)
    until_each_has_caught_up(process)
    children = children_of(process)
    assert len(children) == 2
    process.kill()
    assert all(map(ended, children))
    assert finish(process)[0] == -signal.SIGKILL


def test_several_processes_catch_up_once(tmp_path: Path) -> None:
    run(tmp_path, "simulate", "--events", "500", "--seed", "1")
    said = [json.loads(line) for line in run(tmp_path, *SPREAD, "--once").splitlines()]
    assert sorted((line["followers"], line["behind"]) for line in said) == [(["archive"], 0), (["state"], 0)]
    assert all(line["applied"] > 0 for line in said)


def without(*modules: str) -> str:
    """The beginning of a program for which these are not installed, as far as the import system knows."""
    return f"import sys\nsys.modules.update(dict.fromkeys({modules}))\nfrom tallyroll.cli import main\n"


def test_without_its_extra_the_command_names_the_line_that_installs_it(tmp_path: Path) -> None:
    done = python(f"{without('typer')}main()", tmp_path)
    assert done.returncode == 2
    assert done.stderr == "tallyroll: the command line is not installed; run: pip install 'tallyroll[cli]'\n"
    assert done.stdout == ""


@pytest.mark.parametrize("words", [("archive", "status"), ("archive", "query", "SELECT 1"), ("archive", "seal")])
def test_without_the_archives_extra_its_commands_name_the_line_that_installs_it(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = python(f"{without('pyarrow', 'numpy', 'duckdb')}sys.argv = ['tallyroll', *{words}, '--json']\nmain()", tmp_path)
    assert (done.returncode, json.loads(done.stdout)["type"]) == (2, "MissingExtra"), done.stderr
    assert "pip install 'tallyroll[archive]'" in json.loads(done.stdout)["error"]


def test_doctor_names_every_extra_that_the_settings_ask_for_and_nobody_installed(tmp_path: Path) -> None:
    program = f"{without('redis', 'nats', 'opentelemetry')}sys.argv = ['tallyroll', 'doctor', '--json']\nmain()"
    asked = {"REDIS_HOST": "127.0.0.1", "NATS_SERVERS": "nats://127.0.0.1:1", "TALLYROLL_TRACES": "otlp"}
    done = python(program, tmp_path, **asked)
    assert done.returncode == 1, done.stderr
    failed = {one["name"]: one["says"] for one in json.loads(done.stdout)["checks"] if one["verdict"] == "fail"}
    assert {name: says.partition("pip")[2] for name, says in failed.items()} == {
        "traces": " install 'tallyroll[otel]'", "redis": " install 'tallyroll[redis]'", "nats": " install 'tallyroll[nats]'",
    }  # fmt: skip


def test_help_imports_no_client_no_table_maker_and_no_roll(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom tallyroll.cli import main\nsys.argv = ['tallyroll', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('rich', 'confluent_kafka', 'redis', 'nats', 'sqlite3', 'tallyroll.roll', 'tallyroll.publish')"
        " if name in sys.modules], file=sys.stderr)"
    )
    assert python(program, tmp_path).stderr == "[]\n"


@pytest.mark.slow
@pytest.mark.parametrize("hour", [3, 9, 14, 22])
def test_the_demos_fleet_is_at_work_until_now_at_any_hour(hour: int) -> None:
    now = datetime(2026, 3, 4, hour, 20, tzinfo=UTC)
    events = fleet_until(now, 3_000)
    assert len(events) >= 3_000
    assert now - timedelta(minutes=2) < max(event.timestamp for event in events) < now


async def test_a_record_to_alter_is_found_where_heartbeats_are_most(tmp_path: Path) -> None:
    async with Roll.open(f"sqlite:///{tmp_path / 'log'}") as roll, Roll.open(f"sqlite:///{tmp_path / 'copy'}") as copy:
        await roll.publish_batch([AgentEvent("agent.heartbeat", "idle", "agent") for _ in range(50)])
        await roll.publish_batch([AgentEvent("tool.completed", "t", "task", {"tool_name": "x", "duration_ms": 7}) for _ in range(5)])
        forgery = await forge_copy(roll, copy)
        assert (forgery.position.topic, forgery.before, forgery.after) == ("task-events", '"duration_ms":7', '"duration_ms":8')
        assert not (await copy.verify_chain()).intact


def test_everything_the_demo_shows_holds(tmp_path: Path) -> None:
    report = json.loads(run(tmp_path, "demo", "--seconds", "1", "--json"))
    assert report["ok"]
    assert report["live_equals_replay"]
    assert report["chain_intact"]
    assert report["forgery_found"]
    assert report["alarm_ms"] >= 0
    assert report["trail_valid"]
    assert report["trail_forgery_found"]
    assert report["person_forgotten"]
    assert not (tmp_path / "log").exists()


def test_a_kept_demo_log_can_be_looked_at(tmp_path: Path) -> None:
    out = run(tmp_path, "demo", "--seconds", "1", "--keep", str(tmp_path / "kept"))
    assert "Everything held" in out
    assert "then and now" in out
    assert "found out" in out
    url = f"sqlite:///{tmp_path / 'kept' / 'log'}"
    assert len(run(tmp_path, "agents", "ls", "--json", "--url", url).splitlines()) == 12

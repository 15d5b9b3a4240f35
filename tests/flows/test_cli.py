"""The commands in one process: what they print, what they end with, and what they never show."""

from __future__ import annotations

import asyncio
import json
import shlex
import socket
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from tallyroll.adapters.sqlite.outbox import SqliteOutbox
from tallyroll.adapters.sqlite.state_store import SqliteStateStore
from tallyroll.cli.app import VERBS, app
from tallyroll.cli.printing import counted
from tallyroll.events.codec import HEADERS
from tallyroll.events.position import TopicPartition
from tallyroll.follow.deadletter import DeadLetters
from tallyroll.ports import DeadLetter, Encoded, OutboxRow, PartitionWrite, Progress, Span
from tallyroll.replay.views import FOLD
from tallyroll.roll import Roll
from tallyroll.settings import Settings

START = "2026-01-05T08:00:00Z"
Run = Callable[..., Result]


def runner_for(folder: Path, **environ: str) -> Run:
    runner = CliRunner(env={"TALLYROLL_URL": f"sqlite:///{folder}", **environ})

    def run(*words: str, code: int = 0, stdin: str | None = None) -> Result:
        result = runner.invoke(app, list(words), input=stdin, prog_name="tallyroll")
        assert result.exit_code == code, f"{words}: {result.exit_code}\n{result.output}\n{result.exception!r}"
        return result

    return run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A log of this test's own."""
    return runner_for(tmp_path / "log")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A log with a fleet in it and its states stored; for tests that only look."""
    folder = tmp_path_factory.mktemp("fleet") / "log"
    run = runner_for(folder)
    run("simulate", "--events", "1500", "--agents", "5", "--seed", "4", "--start", START, "--json")
    run("run", "--once")
    return run


def lines(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def document(result: Result) -> dict[str, Any]:
    (only,) = lines(result)
    return only


# Help


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_has_help_of_its_own(run: Run, verb: str) -> None:
    text = run(verb, "--help").stdout
    assert "Usage: tallyroll" in text
    assert len(text.splitlines()) > 5


def test_every_command_gives_json_to_who_asks() -> None:
    def ends(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:  # of a library
        if not isinstance(command, typer.core.TyperGroup):
            yield words, command
            return
        context = typer.Context(command)
        for name in command.list_commands(context):
            yield from ends(command.get_command(context, name), (*words, name))

    every = dict(ends(typer.main.get_command(app)))
    assert len(every) > 60
    assert [words for words, command in every.items() if not any("--json" in one.opts for one in command.params)] == []


@pytest.mark.parametrize(
    "words", [("publish",), ("tail",), ("agents", "ls"), ("agents", "state"), ("events", "lint"), ("topics", "acls"), ("dlq", "redrive")]
)
def test_help_teaches_with_an_example(run: Run, words: tuple[str, ...]) -> None:
    assert f"tallyroll {' '.join(words)}" in run(*words, "--help").stdout.partition("Examples:")[2]


def test_the_root_lists_commands_and_exit_codes(run: Run) -> None:
    text = run().stdout
    assert all(verb in text for verb in VERBS)
    assert "Exit codes:" in text
    assert "130" in text


def test_version_is_said(run: Run) -> None:
    assert run("--version").stdout.startswith("tallyroll 0.")


# Publish and look


def test_a_published_event_is_shown_by_its_position_and_by_its_id(run: Run) -> None:
    published = document(
        run("publish", "task.completed", "task-7", "--agent", "a-1", "--payload", '{"duration_ms": 5200, "status": "ok"}', "--json")
    )
    by_position = document(run("events", "show", published["position"], "--json"))
    by_id = document(run("events", "show", published["event_id"], "--json"))
    assert by_position == by_id
    assert by_id["payload"] == {"duration_ms": 5200, "status": "ok", "agent_id": "a-1"}
    assert by_id["aggregate_type"] == "task"
    assert by_id["chain"]["number"] == 1


def test_a_payload_may_come_from_a_file_and_from_standard_input(run: Run, tmp_path: Path) -> None:
    (tmp_path / "payload.json").write_text('{"n": 1}')
    run("publish", "agent.started", "a-1", "--payload", f"@{tmp_path / 'payload.json'}")
    run("publish", "agent.started", "a-1", "--payload", "-", stdin='{"n": 2}')
    assert [one["payload"]["n"] for one in lines(run("tail", "--json"))] == [1, 2]


def test_publish_hints_at_what_readers_miss_beside_the_result(run: Run) -> None:
    result = run("publish", "task.completed", "task-7")
    assert "payload.agent_id" in result.stderr
    assert "payload.agent_id" not in result.stdout


def test_an_own_type_needs_its_topic(run: Run) -> None:
    run("publish", "invoice.line.approved", "i-1", code=2)
    run("publish", "invoice.line.approved", "i-1", "--aggregate-type", "invoice", "--topic", "workflow-events")
    assert [one["event_type"] for one in lines(run("tail", "--json"))] == ["invoice.line.approved"]


def test_raw_shows_the_bytes_as_they_lie_in_the_log(run: Run) -> None:
    position = document(run("publish", "agent.started", "a-1", "--json"))["position"]
    assert json.loads(run("events", "show", position, "--raw").stdout)["specversion"] == "1.0"


# Tail


def test_tail_shows_the_newest_by_event_time(fleet: Run) -> None:
    everything = sorted(lines(fleet("tail", "--all", "--json")), key=lambda one: one["timestamp"])
    newest = lines(fleet("tail", "--last", "7", "--json"))
    assert [one["timestamp"] for one in newest] == [one["timestamp"] for one in everything[-7:]]
    assert "no event matches" in fleet("tail", "--last", "0").stderr


@pytest.mark.parametrize(
    ("options", "holds"),
    [
        (
            ("--type", "tool.*", "--type", "*.failed"),
            lambda one: one["event_type"].startswith("tool.") or one["event_type"].endswith(".failed"),
        ),
        (("--agent", "coder-001"), lambda one: "coder-001" in (one["aggregate_id"], one["payload"].get("agent_id"))),
        (("--field", "tool_name=run_tests"), lambda one: one["payload"].get("tool_name") == "run_tests"),
        (("--field", "metadata.source=tallyroll/simulate", "--type", "task.started"), lambda one: one["event_type"] == "task.started"),
        (("--correlation", "coder-001"), lambda one: one["metadata"]["correlation_id"] == "coder-001"),
    ],
    ids=["types", "agent", "payload field", "metadata field", "correlation"],
)
def test_filters_let_through_exactly_what_they_name(fleet: Run, options: tuple[str, ...], holds: Callable[[dict[str, Any]], bool]) -> None:
    shown = lines(fleet("tail", "--all", "--json", *options))
    expected = [one for one in lines(fleet("tail", "--all", "--json")) if holds(one)]
    assert shown == expected
    assert 0 < len(shown) < 1500


def test_last_counts_what_matches(fleet: Run) -> None:
    assert len(lines(fleet("tail", "--type", "agent.created", "--last", "3", "--json"))) == 3


def test_a_task_filter_finds_what_names_the_task(fleet: Run) -> None:
    task = lines(fleet("tail", "--type", "task.completed", "--last", "1", "--json"))[0]["aggregate_id"]
    kinds = {one["event_type"] for one in lines(fleet("tail", "--all", "--task", task, "--json"))}
    assert {"task.created", "task.started", "task.completed"} <= kinds


def test_human_lines_hold_time_type_agent_and_no_escape_codes_where_nobody_looks(fleet: Run) -> None:
    text = fleet("tail", "--type", "tool.invoked", "--agent", "coder-001", "--last", "2").stdout
    assert text.count("\n") == 2
    assert "tool.invoked" in text
    assert "coder-001" in text
    assert "\x1b" not in text


def test_control_characters_of_an_event_do_not_reach_the_terminal(run: Run) -> None:
    trick = json.dumps({"error": "\x1b]0;owned\x07 sorry"})
    position = document(run("publish", "task.failed", "task-1", "--agent", "a\x9b", "--payload", trick, "--json"))["position"]
    shown = run("tail").stdout + run("events", "show", position).stdout + run("agents", "ls").stdout
    assert not {"\x1b", "\x07", "\x9b"} & set(shown)
    assert shown.count("sorry") == 2


def test_an_export_is_imported_with_the_same_ids_and_adds_nothing_twice(fleet: Run, tmp_path: Path) -> None:
    export = fleet("tail", "--all", "--json").stdout
    other = runner_for(tmp_path / "other")
    assert document(other("import", "-", "--json", stdin=export)) == {
        "format": "events", "published": 1500, "already_there": 0, "skipped": [], "failed": [],
    }  # fmt: skip
    assert document(other("import", "-", "--format", "events", "--json", stdin=export))["already_there"] == 1500
    strip = [{name: value for name, value in one.items() if name != "position"} for one in lines(other("tail", "--all", "--json"))]
    assert strip == [{name: value for name, value in json.loads(line).items() if name != "position"} for line in export.splitlines()]


# Events


def test_types_name_topic_and_schema(run: Run) -> None:
    found = {one["type"]: one for one in lines(run("events", "types", "--json"))}
    assert found["task.completed"]["topic"] == "task-events"
    assert found["task.completed"]["schema_version"] == "1.0.0"


def test_lint_passes_what_the_fleet_writes(fleet: Run) -> None:
    assert fleet("events", "lint", "-", stdin=fleet("tail", "--all", "--json").stdout).stdout == ""


def test_lint_ends_with_one_when_it_finds_something(run: Run) -> None:
    bad = '{"event_type": "completeTask", "aggregate_type": "task", "payload": {}}\nnot json\n'
    found = lines(run("events", "lint", "-", "--json", code=1, stdin=bad))
    assert {one["rule"] for one in found} == {"named-as-a-fact", "is-an-event"}


# States


def test_agents_are_listed_with_what_they_did(fleet: Run) -> None:
    agents = lines(fleet("agents", "ls", "--json"))
    assert len(agents) == 5
    assert sum(one["tasks_completed"] for one in agents) > 0
    assert sum(one["tokens"] for one in agents) > 0


def test_agents_are_sorted_limited_and_chosen_by_status(fleet: Run) -> None:
    done = [one["tasks_completed"] for one in lines(fleet("agents", "ls", "--sort", "done", "--json"))]
    assert done == sorted(done, reverse=True)
    assert len(lines(fleet("agents", "ls", "--limit", "2", "--json"))) == 2
    assert lines(fleet("agents", "ls", "--status", "created", "--json")) == []
    assert "created, running, stopped, failed" in fleet("agents", "ls", "--status", "weird", code=2).stderr


def test_the_table_of_agents_names_each(fleet: Run) -> None:
    text = fleet("agents", "ls").stdout
    assert all(one["agent_id"] in text for one in lines(fleet("agents", "ls", "--json")))


def test_a_state_from_the_store_equals_the_replayed_one(fleet: Run) -> None:
    stored = document(fleet("agents", "state", "coder-001", "--json"))
    replayed = document(fleet("agents", "state", "coder-001", "--at", "2030-01-01T00:00:00Z", "--json"))
    different = {name for name in stored if stored[name] != replayed[name]}
    assert different <= {"at", "as_of"}
    assert stored["coverage"] == "complete"


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2026-01-05", "soon"])
def test_what_is_no_moment_is_a_wrong_argument(fleet: Run, moment: str) -> None:
    assert "--at" in fleet("agents", "ls", "--at", moment, code=2).stderr


def test_a_state_at_an_earlier_moment_knows_less(fleet: Run) -> None:
    then = document(fleet("agents", "state", "coder-001", "--at", "2026-01-05T08:01:00Z", "--json"))
    now = document(fleet("agents", "state", "coder-001", "--json"))
    assert 0 < then["events_applied"] < now["events_applied"]
    assert then["as_of"]


def test_a_state_says_how_it_is_known(fleet: Run) -> None:
    assert "coverage complete" in fleet("agents", "state", "coder-001").stdout
    assert "replayed from the log as of 2026-01-05T08:01" in fleet("agents", "state", "coder-001", "--at", "2026-01-05T08:01:00Z").stdout


def test_a_timeline_is_in_order_of_time_and_of_one_agent(fleet: Run) -> None:
    shown = lines(fleet("agents", "timeline", "coder-001", "--json"))
    assert [one["timestamp"] for one in shown] == sorted(one["timestamp"] for one in shown)
    assert all("coder-001" in (one["aggregate_id"], one["payload"].get("agent_id")) for one in shown)
    assert len(fleet("agents", "timeline", "coder-001", "--last", "3").stdout.splitlines()) in range(4, 8)


def test_tasks_and_workflows_have_states(fleet: Run) -> None:
    task = lines(fleet("tail", "--type", "task.completed", "--last", "1", "--json"))[0]["aggregate_id"]
    workflow = lines(fleet("tail", "--type", "workflow.started", "--last", "1", "--json"))[0]["aggregate_id"]
    assert document(fleet("tasks", "state", task, "--json"))["status"] == "completed"
    assert document(fleet("workflows", "state", workflow, "--json"))["workflow_id"] == workflow
    assert task in fleet("tasks", "state", task).stdout


def test_a_state_is_current_without_a_service_on_the_embedded_log(run: Run) -> None:
    run("publish", "agent.started", "a-1")
    assert document(run("agents", "state", "a-1", "--json"))["status"] == "running"


def test_whom_no_event_names_is_not_found(fleet: Run) -> None:
    for words in (
        ("agents", "state", "nobody"),
        ("agents", "state", "nobody", "--at", "1h"),
        ("agents", "timeline", "nobody"),
        ("tasks", "state", "none"),
    ):
        assert set(document(fleet(*words, "--json", code=4))) == {"error", "type", "next"}


# Following, lag, chain


def test_run_once_brings_the_lag_to_nothing(run: Run) -> None:
    run("simulate", "--events", "300", "--agents", "3", "--seed", "1")
    assert document(run("lag", "--json"))["records"] > 200
    run("lag", "--max", "10", code=1)
    assert document(run("run", "--once", "--json"))["behind"] == 0
    assert run("lag", "--max", "0").stdout == "state: up to date\n"


def test_simulated_events_follow_from_seed_start_and_agents(run: Run, tmp_path: Path) -> None:
    other = runner_for(tmp_path / "other")
    told = [document(one("simulate", "--events", "200", "--seed", "9", "--start", START, "--json")) for one in (run, other)]
    assert {key: value for key, value in told[0].items() if key != "seconds"} == {
        key: value for key, value in told[1].items() if key != "seconds"
    }
    ids = [[one["event_id"] for one in lines(run_("tail", "--all", "--json"))] for run_ in (run, other)]
    assert ids[0] == ids[1]


def test_an_intact_chain_is_confirmed(fleet: Run) -> None:
    report = document(fleet("verify", "chain", "--json"))
    assert report["intact"]
    assert report["linked"] == report["records"] == 1500


def test_an_altered_record_breaks_the_chain_and_ends_with_one(run: Run, tmp_path: Path) -> None:
    for number in range(3):
        run("publish", "agent.started", "a-1", "--payload", json.dumps({"n": number}))
    # Three commands are three sessions; a session of several events shows the break.
    run("simulate", "--events", "400", "--agents", "1", "--seed", "2")
    asyncio.run(_copy_altered(tmp_path / "log", tmp_path / "forged"))
    forged = runner_for(tmp_path / "forged")
    report = document(forged("verify", "chain", "--json", code=1))
    assert {one["kind"] for one in report["findings"]} == {"altered"}
    assert "altered" in forged("verify", "chain", code=1).stdout


async def _copy_altered(source: Path, target: Path) -> None:
    from tallyroll.cli.demo.forgery import forge_copy

    async with Roll.open(Settings(url=f"sqlite:///{source}")) as original, Roll.open(Settings(url=f"sqlite:///{target}")) as forged:
        await forge_copy(original, forged)


# Dead letters


async def _append_bytes(folder: Path, value: bytes, timestamp_ms: int | None = None) -> None:
    async with Roll.open(Settings(url=f"sqlite:///{folder}")) as roll:
        at_ms = roll.clock.now_us() // 1_000 if timestamp_ms is None else timestamp_ms
        await roll.log.append([Encoded("poison", "task-events", 0, b"task:x", value, HEADERS, at_ms)]).settled()


def test_records_that_retention_removed_are_no_lag(run: Run, tmp_path: Path) -> None:
    asyncio.run(_append_bytes(tmp_path / "log", b"of 1970", timestamp_ms=1))
    assert document(run("run", "--once", "--json"))["behind"] == 0
    assert run("lag", "--max", "0").stdout == "state: up to date\n"
    assert document(run("doctor", "--json"))["ok"]


def test_a_record_that_cannot_be_read_is_listed_shown_and_not_redriven(run: Run, tmp_path: Path) -> None:
    asyncio.run(_append_bytes(tmp_path / "log", b"not json"))
    run("run", "--once")
    (letter,) = lines(run("dlq", "ls", "--json"))
    (check,) = [one for one in document(run("doctor", "--json"))["checks"] if one["name"] == "letters"]
    assert check["verdict"] == "warn"
    assert check["says"].startswith("1 record ")
    assert letter["record"] == "task-events/0/0"
    assert letter["applies_now"] is False
    assert letter["letter"][:12] in run("dlq", "ls").stdout
    assert run("dlq", "show", letter["letter"][:8], "--raw").stdout_bytes == b"not json"
    assert document(run("dlq", "show", "task-events/0/0", "--json"))["value"] == "not json"
    assert document(run("dlq", "redrive", "--yes", "--json"))["would_apply"] == 0
    assert "not readable" in run("tail").stdout


def test_an_id_or_a_position_that_means_several_letters_is_answered_with_their_names_and_no_letter(run: Run, tmp_path: Path) -> None:
    asyncio.run(_append_bytes(tmp_path / "log", b"not json"))
    run("run", "--once")
    asyncio.run(_put_aside(tmp_path / "log", TopicPartition("task-events", 0), "nats"))
    letters = lines(run("dlq", "ls", "--json"))
    assert len(letters) == 2
    for which in ("", "task-events/0/0"):
        told = run("dlq", "show", which, code=2).stderr
        assert "is ambiguous, it may be 2 letters" in told
        assert all(one["letter"][:12] in told and one["follower"] in told for one in letters)
    assert document(run("dlq", "show", letters[1]["letter"], "--json"))["follower"] == letters[1]["follower"]


def test_a_record_that_would_now_be_applied_gets_into_the_state_by_redriving(run: Run, tmp_path: Path) -> None:
    position = document(run("publish", "agent.started", "a-1", "--json"))["position"]
    asyncio.run(_pretend_it_was_put_aside(tmp_path / "log", TopicPartition(*position.rsplit("/", 1)[0].rsplit("/", 1))))
    run("agents", "state", "a-1", code=4)
    assert document(run("dlq", "redrive", "--json"))["would_apply"] == 1
    run("agents", "state", "a-1", code=4)
    assert document(run("dlq", "redrive", "--yes", "--json"))["done"] is True
    assert document(run("agents", "state", "a-1", "--json"))["status"] == "running"


async def _pretend_it_was_put_aside(folder: Path, where: TopicPartition) -> None:
    """As an older version leaves it that did not know the record: a letter, and a store that has gone past it."""
    partition = TopicPartition(where.topic, int(where.partition))
    await _put_aside(folder, partition, "state")
    store = await SqliteStateStore.open(folder / "state.db")
    await store.commit([PartitionWrite(partition, None, Progress(FOLD.fold_id, 0, 1, b"[]"), [])])
    await store.close()


async def _put_aside(folder: Path, partition: TopicPartition, follower: str) -> None:
    """A letter of that follower for the first record."""
    async with Roll.open(Settings(url=f"sqlite:///{folder}")) as roll:
        letters = DeadLetters(roll.log, roll.catalogue, clock=roll.clock, telemetry=roll.telemetry, max_record_bytes=900_000)
        async for batch in roll.log.read([Span(*partition, 0, 1)]):
            await letters.write(follower, batch, [DeadLetter(0, "unknown_schema", "UnknownSchema")])


def test_of_several_processes_none_is_started_where_a_port_of_theirs_is_taken(run: Run, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        last = taken.getsockname()[1]
        told = run("run", "state", "archive", "--processes", "2", "--http", f"127.0.0.1:{last - 1}", code=2).stderr
        assert "is in use by another process" in told
        assert f"2 processes serve on the ports {last - 1} to {last}: name another one, 0 for any free ones, or --http off" in told
        told = runner_for(tmp_path / "log", TALLYROLL_HTTP_PORT=str(last))("run", "state", "archive", "--processes", "2", code=2).stderr
        assert told.startswith(f"tallyroll: TALLYROLL_HTTP_PORT: 127.0.0.1:{last} is in use by another process")
    assert "none above 65535" in run("run", "state", "archive", "--processes", "2", "--http", "127.0.0.1:65535", code=2).stderr
    assert not (tmp_path / "log").exists()


# Topics on the embedded log


@pytest.mark.parametrize("verb", ["plan", "apply", "drift", "acls"])
def test_the_embedded_log_has_nothing_to_do_for_topics_and_says_so(run: Run, verb: str) -> None:
    assert "nothing to do" in run("topics", verb).stdout
    assert "nothing to do" in document(run("topics", verb, "--json"))["note"]


def test_the_catalogue_is_described(run: Run) -> None:
    found = {one["name"]: one for one in lines(run("topics", "describe", "--json"))}
    assert found["agent-events"]["partitions"] == 8
    assert found["audit-events"]["retention_days"] == 2555
    assert "task-events" in run("topics", "describe").stdout


def test_rights_are_printed_without_a_cluster(run: Run) -> None:
    text = run("topics", "acls", "--url", "kafka://127.0.0.1:1", "--service", "state", "--principal", "State-1").stdout
    commands = [line for line in text.splitlines() if not line.startswith("#")]
    assert commands
    assert all(line.startswith("kafka-acls ") and "User:State-1" in line for line in commands)


# Doctor


def test_doctor_says_which_log_won_and_why(tmp_path: Path) -> None:
    run = runner_for(tmp_path / "log", KAFKA_BOOTSTRAP_SERVERS="broker:9092")
    (check,) = [one for one in document(run("doctor", "--json"))["checks"] if one["name"] == "log"]
    assert check["verdict"] == "warn"
    assert "from TALLYROLL_URL" in check["says"]
    assert "KAFKA_BOOTSTRAP_SERVERS" in check["next"]


def test_doctor_is_content_with_a_fresh_start(run: Run) -> None:
    report = document(run("doctor", "--json"))
    assert report["ok"]
    assert {one["verdict"] for one in report["checks"]} == {"ok"}
    assert "all is well" in run("doctor").stdout


def test_doctor_names_a_misspelt_variable(tmp_path: Path) -> None:
    assert "TALLYROLL_BATCH_RECORDS" in runner_for(tmp_path / "log", TALLYROLL_BATCH_RECORD="7")("doctor").stdout


def test_doctor_fails_on_bad_settings_and_on_a_folder_it_cannot_use(tmp_path: Path) -> None:
    bad = document(runner_for(tmp_path / "log", TALLYROLL_STALL_MS="soon")("doctor", "--json", code=1))
    assert not bad["ok"]
    assert "TALLYROLL_STALL_MS" in bad["checks"][-1]["says"]
    (tmp_path / "file").write_text("")
    assert not document(runner_for(tmp_path / "file" / "log")("doctor", "--json", code=1))["ok"]


def test_doctor_sees_a_store_that_is_behind(run: Run) -> None:
    run("publish", "agent.started", "a-1")
    run("run", "--once")
    run("publish", "agent.started", "a-2")
    assert "1 record behind" in run("doctor").stdout


def test_doctor_sees_created_tasks_that_the_log_does_not_know_of(run: Run, tmp_path: Path) -> None:
    def outbox() -> list[dict[str, Any]]:
        return [one for one in document(run("doctor", "--json"))["checks"] if one["name"] == "outbox"]

    async def leave(path: Path) -> None:
        store = await SqliteOutbox.open(path)
        await store.put(OutboxRow("r1", 1_700_000_000_000_000, 1_700_000_060_000_000, b"{}"))
        await store.close()

    assert outbox() == []
    path = tmp_path / "log" / "outbox.db"
    assert not path.exists(), "a look makes no file"
    asyncio.run(leave(path))
    (found,) = outbox()
    assert (found["verdict"], found["says"][:40]) == ("warn", "1 task asked for and not in the log yet,")
    path.write_bytes(b"no outbox at all, " * 100)
    (broken,) = [one for one in document(run("doctor", "--json", code=1))["checks"] if one["name"] == "outbox"]
    assert broken["verdict"] == "fail"


def test_doctor_sees_an_archive_that_topics_have_outrun(run: Run, tmp_path: Path) -> None:
    run("simulate", "--events", "60", "--seed", "2")
    run("run", "archive", "--once")
    assert {"name": "archive", "verdict": "ok"}.items() <= _check(run, "archive").items()
    run("simulate", "--events", "60", "--seed", "3")
    assert (_check(run, "archive")["verdict"], _check(run, "archive")["next"]) == ("warn", "run 'tallyroll run archive' as a service")
    with sqlite3.connect(tmp_path / "log" / "log.db") as connection:  # topics forget what is not archived yet
        connection.execute("UPDATE partitions SET first_offset = next_offset")
    connection.close()
    lost = _check(run, "archive", code=1)
    assert lost["verdict"] == "fail"
    assert "before they were archived" in lost["says"]


def _check(run: Run, name: str, code: int = 0) -> dict[str, Any]:
    (found,) = [one for one in document(run("doctor", "--json", code=code))["checks"] if one["name"] == name]
    return dict(found)


def test_no_secret_is_ever_shown(tmp_path: Path) -> None:
    canary = "canary-7Jd0q"
    file = tmp_path / "password"
    file.write_text(canary)
    for given in ({"KAFKA_SASL_PASSWORD": canary}, {"KAFKA_SASL_PASSWORD_FILE": str(file)}, {"KAFKA_SSL_KEY_PASSWORD": canary}):
        for protocol in ("PLAINTEXT", "SASL_SSL", "nonsense"):
            run = runner_for(tmp_path / "log", KAFKA_SECURITY_PROTOCOL=protocol, **given)
            for words in (("doctor",), ("doctor", "--json"), ("lag",)):
                code = 0 if protocol == "PLAINTEXT" else None
                result = _any_code(run, *words) if code is None else run(*words)
                assert canary not in result.output


def _any_code(run: Run, *words: str) -> Result:
    for code in (0, 1, 2):
        try:
            return run(*words, code=code)
        except AssertionError:
            continue
    raise AssertionError(words)


# Errors


@pytest.mark.parametrize(
    ("words", "code", "kind"),
    [
        (("publish", "task.complete", "t-1"), 2, "InvalidEvent"),
        (("publish", "agent.started", "a", "--payload", "[1]"), 2, "CommandError"),
        (("publish", "agent.started", "a", "--payload", "@/nowhere/payload.json"), 2, "FileNotFoundError"),
        (("tail", "--since", "yesterday"), 2, "CommandError"),
        (("tail", "--since", "2026-01-05T08:00:00"), 2, "CommandError"),
        (("tail", "--field", "tool_name"), 2, "CommandError"),
        (("tail", "--nosuch"), 2, "UsageError"),
        (("nosuch",), 2, "UsageError"),
        (("lag", "--url", "mysql://x"), 2, "SettingsError"),
        (("agents", "ls", "--sort", "colour"), 2, "CommandError"),
        (("import", "/nowhere/runs.json"), 2, "FileNotFoundError"),
        (("import", "/dev/null"), 2, "CommandError"),
        (("simulate", "--duration", "soon"), 2, "CommandError"),
        (("events", "show", "no-such-id"), 4, "CommandError"),
        (("events", "show", "task-events/0/7"), 4, "CommandError"),
        (("dlq", "show", "abc"), 4, "CommandError"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_an_error_is_two_lines_or_one_object_and_a_code(run: Run, words: tuple[str, ...], code: int, kind: str) -> None:
    told = run(*words, code=code)
    assert told.stdout == ""
    what, next_step = told.stderr.splitlines()
    assert what.startswith("tallyroll: ")
    assert next_step.startswith("  next: ")
    shown = document(run(*words, "--json", code=code))
    assert set(shown) == {"error", "type", "next"}
    assert shown["type"] == kind


def test_a_mistyped_command_is_met_with_the_nearest_one(run: Run) -> None:
    assert "did you mean agents?" in run("agent", code=2).stderr


def test_options_before_the_command_count_too(run: Run, tmp_path: Path) -> None:
    result = run("--json", "--url", f"sqlite:///{tmp_path / 'elsewhere'}", "publish", "agent.started", "a-1")
    assert document(result)["position"].startswith("agent-events/")
    assert (tmp_path / "elsewhere" / "log.db").exists()


@pytest.mark.parametrize("words", [("agents", "--json", "--url", "URL", "ls"), ("--url", "URL", "agents", "--json", "ls")])
def test_options_between_a_collection_and_its_command_count_too(run: Run, tmp_path: Path, words: tuple[str, ...]) -> None:
    url = f"sqlite:///{tmp_path / 'elsewhere'}"
    run("publish", "agent.started", "a-1", "--url", url)
    assert document(run(*(url if word == "URL" else word for word in words)))["agent_id"] == "a-1"


@pytest.mark.parametrize(
    ("words", "listing"),
    [
        (("agents", "state", "nobody"), "tallyroll agents ls"),
        (("tasks", "state", "none"), "tallyroll replay run task --states"),
        (("workflows", "state", "none"), "tallyroll replay run workflow --states"),
    ],
)
def test_whom_no_event_names_is_looked_for_by_a_command_that_lists(fleet: Run, words: tuple[str, ...], listing: str) -> None:
    assert listing in fleet(*words, code=4).stderr
    fleet(*listing.split()[1:])


def test_the_next_steps_of_a_simulation_lead_to_its_log(run: Run, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'else where'}"
    said = run("simulate", "--events", "50", "--url", url).stderr
    steps = said.splitlines()[-1].partition(": ")[2].split("; ")
    assert len(steps) == 3
    for step in steps:
        name, *words = shlex.split(step)
        assert name == "tallyroll"
        assert run(*words).stdout


def test_an_empty_log_is_named(run: Run, tmp_path: Path) -> None:
    assert f"nothing is in sqlite:///{tmp_path / 'log'}" in run("tail").stderr
    assert f"no agent in sqlite:///{tmp_path / 'log'}" in run("agents", "ls").stderr


def test_a_payload_too_deep_for_any_reader_is_the_callers_slip(run: Run, tmp_path: Path) -> None:
    (tmp_path / "deep.json").write_text('{"a":' * 20_000 + "1" + "}" * 20_000)
    run("publish", "agent.started", "a-1", "--payload", f"@{tmp_path / 'deep.json'}", code=2)


def test_bytes_that_are_no_text_are_the_callers_slip(run: Run) -> None:
    run("agents", "state", "\udcff\udcfe", code=2)
    run("agents", "timeline", "\udcff", code=4)


# Completion


def test_completion_lists_every_command(run: Run, tmp_path: Path) -> None:
    asked = runner_for(tmp_path / "log", _TALLYROLL_COMPLETE="complete_bash", COMP_WORDS="tallyroll ", COMP_CWORD="1")
    assert asked().stdout.split() == list(VERBS)
    assert "_TALLYROLL_COMPLETE=complete_bash" in run("completion", "bash").stdout
    assert run("completion", "zsh").stdout.startswith("#compdef tallyroll")
    assert json.loads(run("completion", "zsh", "--json").stdout) == {"shell": "zsh", "script": run("completion", "zsh").stdout.rstrip("\n")}
    run("completion", "tcsh", code=2)


def test_completion_goes_on_below_a_command(tmp_path: Path) -> None:
    asked = runner_for(tmp_path / "log", _TALLYROLL_COMPLETE="complete_bash", COMP_WORDS="tallyroll agents ti", COMP_CWORD="2")
    assert asked().stdout.split() == ["timeline"]


@pytest.mark.parametrize(
    ("count", "what", "said"),
    [(0, "event", "0 events"), (1, "entry", "1 entry"), (2, "entry", "2 entries"), (1_000, "retry", "1,000 retries"), (2, "key", "2 keys")],
)
def test_counts_have_their_nouns(count: int, what: str, said: str) -> None:
    assert counted(count, what) == said

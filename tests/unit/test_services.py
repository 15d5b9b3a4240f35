"""Which followers a service runs, and what it says while it does."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import pytest

from tallyroll.cli.exits import CommandError
from tallyroll.cli.logs import json_line, service_log, service_logs
from tallyroll.cli.run.services import GROUPS, SERVICES, chosen
from tallyroll.events.batch import Batch
from tallyroll.events.codec import HEADERS, encode
from tallyroll.events.event import AgentEvent, EventMetadata
from tallyroll.roll import FOLLOWERS
from tallyroll.settings import Settings

CANARY = "canary-93be"
BOTH = Settings(redis_host="cache", nats_servers="nats://n:1")


def test_every_follower_has_its_row() -> None:
    """A new follower needs a row in SERVICES."""
    assert tuple(SERVICES) == FOLLOWERS
    assert set(GROUPS["all"]) == set(FOLLOWERS)


@pytest.mark.parametrize(
    ("words", "settings", "names", "left_out"),
    [
        (["state"], Settings(), ("state",), {}),
        (["archive", "state", "archive"], Settings(), ("archive", "state"), {}),
        (["all"], BOTH, ("state", "archive", "analytics", "redis", "nats", "audit"), {}),
        (["all"], Settings(redis_host="cache"), ("state", "archive", "analytics", "redis", "audit"), {"nats": "NATS_SERVERS"}),
        (
            ["all"],
            Settings(url="kafka://broker:9092"),
            ("state", "archive", "analytics"),
            {"redis": "REDIS_HOST", "nats": "NATS_SERVERS", "audit": "AUDIT_SECRET_KEY"},
        ),
        (["bridges"], BOTH, ("redis", "nats"), {}),
        (["analytics", "bridges"], Settings(nats_servers="nats://n:1"), ("analytics", "nats"), {"redis": "REDIS_HOST"}),
        (["redis"], Settings(), ("redis",), {}),  # named by itself: what it lacks is an error
        (["bridges", "redis"], Settings(nats_servers="nats://n:1"), ("nats", "redis"), {}),
    ],
)
def test_words_mean_followers(words: list[str], settings: Settings, names: tuple[str, ...], left_out: dict[str, str]) -> None:
    assert chosen(words, settings) == (names, left_out)


def test_in_memory_there_is_nothing_to_archive() -> None:
    assert "archive" in chosen(["all"], Settings(url="sqlite://:memory:")).left_out


def test_what_is_not_installed_is_left_out_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)  # for the import system: there is no such module
    assert chosen(["all"], BOTH).left_out == {"redis": "pip install 'tallyroll[redis]'"}


@pytest.mark.parametrize(("words", "says"), [(["all", "stat"], "no follower stat"), (["bridges"], "redis needs REDIS_HOST")])
def test_a_word_that_means_nothing_is_refused(words: list[str], says: str) -> None:
    with pytest.raises(CommandError, match=says):
        chosen(words, Settings())


def batch_of(*values: bytes) -> Batch:
    count = len(values)
    return Batch("task-events", 3, offsets=range(7, 7 + count), keys=[b"k"] * count, values=values, timestamps_ms=[0] * count,
                 headers=[HEADERS] * count)  # fmt: skip


def logged(message: str, *arguments: object, **more: Any) -> dict[str, Any]:
    record = logging.getLogger("tallyroll.follow").makeRecord(
        "tallyroll.follow", logging.ERROR, "x.py", 1, message, arguments, more.pop("exc_info", None), extra=more
    )
    line = json_line(record)
    assert "\n" not in line
    return dict(json.loads(line))


def test_a_line_has_the_ids_that_are_known() -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    event = AgentEvent("task.started", "t-1", "task", metadata=EventMetadata(traceparent=f"00-{trace}-b7ad6b7169203331-01"))
    batch = batch_of(encode(event, event.key), b"not json")
    line = logged("%s", "x", follower="state", **batch.about(0))
    assert {name: line[name] for name in ("level", "logger", "message", "follower", "topic", "partition", "offset", "event_id")} == {
        "level": "error", "logger": "tallyroll.follow", "message": "x", "follower": "state",
        "topic": "task-events", "partition": 3, "offset": 7, "event_id": event.event_id,
    }  # fmt: skip
    assert line["time"].endswith("Z")
    assert line["trace_id"] == trace
    assert set(batch.about(1)) == {"topic", "partition", "offset"}
    assert "follower" not in logged("x")


@pytest.mark.parametrize("form", ["text", "json"])
def test_of_an_exception_only_class_and_place_are_said(form: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with service_logs(Settings(log_format=form)):
        try:
            raise KeyError(CANARY)  # noqa: TRY301  # to have a traceback
        except KeyError:
            service_log.exception("could not apply")
    said = capsys.readouterr().err
    assert "could not apply" in said
    assert "KeyError" in said
    assert "test_services.py:" in said.replace("\n", "")
    assert CANARY not in said


def test_a_line_stays_one_line_whatever_is_in_it() -> None:
    assert logged("a\nb\u2028c\x1b[31m")["message"] == "a·b·c·[31m"


@pytest.mark.parametrize(("level", "heard"), [("debug", 3), ("info", 2), ("warning", 1), ("error", 0)])
def test_the_level_says_what_is_left_unsaid(level: Any, heard: int, capsys: pytest.CaptureFixture[str]) -> None:
    ours = logging.getLogger("tallyroll")
    before = (ours.handlers[:], ours.level, ours.propagate)
    with service_logs(Settings(log_format="json", log_level=level)):
        for say in (service_log.debug, service_log.info, service_log.warning):
            say("said")
    assert [json.loads(line)["message"] for line in capsys.readouterr().err.splitlines()] == ["said"] * heard
    assert (ours.handlers, ours.level, ours.propagate) == before

"""``tallyroll analytics``: what it shows of a fleet, for people and as JSON, and what it says of what is not there."""

from __future__ import annotations

import json
import shlex
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from tests.flows.test_cli import START, Run, document, lines, runner_for
from typer.testing import Result

from tallyroll.analytics.prometheus_rules import RuleOptions, rules_document, rules_file
from tallyroll.analytics.spec import BUILT_IN
from tallyroll.events.event import iso
from tallyroll.events.ids import utc_now

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
NEWEST = ("--at", "newest")
RULES = """
[[rule]]
kind = "threshold"
name = "too_slow"
metric = "response_time"
function = "max"
comparison = ">"
value = 60000
dimension = "agent"
severity = "high"
"""
STEPS = """
[[metric]]
name = "steps"
unit = "steps"
help = "Steps done."
event_types = ["task.progressed"]
value = { type = "path", path = "payload.step" }
"""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A log with a fleet in it, counted; for tests that only look."""
    run = runner_for(tmp_path_factory.mktemp("fleet") / "log")
    run("simulate", "--events", "3000", "--agents", "12", "--seed", "4", "--start", START, "--json")
    run("run", "analytics", "--once")
    return run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / "rules.toml").write_text(RULES)
    return runner_for(tmp_path / "log", TALLYROLL_ALERTS_FILE=str(tmp_path / "rules.toml"))


def publish(run: Run, agent: str, took_ms: int, task: str = "task-1") -> str:
    payload = json.dumps({"duration_ms": took_ms, "status": "ok"})
    return str(document(run("publish", "task.completed", task, "--agent", agent, "--payload", payload, "--json"))["event_id"])


# Numbers


def test_the_fleet_in_words_and_as_json(fleet: Run) -> None:
    shown = fleet("analytics", "show", *NEWEST).stdout
    assert all(word in shown for word in ("response time p95", "success rate", "top performers", "tools", "models", "coder-001"))
    found = document(fleet("analytics", "show", *NEWEST, "--json"))
    assert found["agents"] == 12
    assert found["events_processed"] == 3_000
    assert found["success_rate"] == pytest.approx(100 - found["error_rate"])
    assert found["response_time_median"] <= found["response_time_p95"] <= found["response_time_p99"] <= found["response_time_max"]
    assert found["tasks_completed"] + found["tasks_failed"] <= found["tasks_started"]


def test_each_kind_has_its_numbers_and_agents_add_up_to_the_fleet(fleet: Run) -> None:
    whole = document(fleet("analytics", "show", "--window", "1day", *NEWEST, "--json"))
    ranked = lines(fleet("analytics", "top", "--by", "tokens", "--window", "1day", *NEWEST, "--json"))
    assert [one["rank"] for one in ranked] == list(range(1, 13))
    assert sum(one["value"] for one in ranked) == whole["tokens"]
    first = document(fleet("analytics", "show", "agent", ranked[0]["agent"], "--window", "1day", *NEWEST, "--json"))
    assert first["tokens"] == ranked[0]["value"]
    for kind, key in (
        ("tool", whole["tools"][0]["tool"]),
        ("model", whole["models"][0]["model"]),
        ("task-type", "nobody-does-this"),
        ("tenant", "none"),
    ):
        found = document(fleet("analytics", "show", kind, key, *NEWEST, "--json"))
        assert found["coverage"] == 1
        assert fleet("analytics", "show", kind, key, *NEWEST).stdout.startswith(key)


def test_an_agent_is_never_part_of_another_ones_name(run: Run) -> None:
    publish(run, "agent-12", 100)
    other = document(run("analytics", "show", "agent", "agent-1", "--json"))
    assert (other["events_processed"], other["tasks_completed"], other["tokens"]) == (0, 0, 0)
    unknown = [name for name, value in other.items() if value is None]
    assert {"response_time_avg", "response_time_p95", "response_time_p99", "success_rate", "error_rate", "tool_latency_p95"} <= set(unknown)
    known = document(run("analytics", "show", "agent", "agent-12", "--json"))
    assert (known["events_processed"], known["response_time_avg"], known["success_rate"]) == (1, 100, 100)
    assert "success rate" not in run("analytics", "show", "agent", "agent-1").stdout
    publish(run, "agent-2", 90_000, "task-2")
    assert "90 s" in run("analytics", "show", "agent", "agent-2").stdout


def test_a_name_that_nobody_has_is_said_to_be_unknown_with_those_like_it(fleet: Run) -> None:
    said = fleet("analytics", "show", "agent", "coder-01", *NEWEST)
    assert "no agent coder-01 is known" in said.stderr
    assert "did you mean coder-001" in said.stderr
    assert "'tallyroll agents ls' lists those that are" in fleet("analytics", "show", "agent", "zebra").stderr
    assert "'tallyroll analytics top --dimension tool" in fleet("analytics", "show", "tool", "zebra").stderr
    assert "no agent" not in fleet("analytics", "show", "agent", "coder-001", *NEWEST).stderr
    assert "nothing of coder-001 in that time" in fleet("analytics", "show", "agent", "coder-001", "--at", "2001-01-01T00:00:00Z").stderr
    assert document(fleet("analytics", "show", "agent", "zebra", "--json"))["events_processed"] == 0
    assert "did you mean coder-001" in fleet("analytics", "series", "tokens", "--dimension", "agent", "--key", "coder-01").stderr


def test_what_is_too_old_to_be_counted_is_told_in_a_few_words(run: Run, tmp_path: Path) -> None:
    publish(run, "agent-1", 100)
    first = run("tail", "--all", "--json").stdout.splitlines()[0]
    newer = json.loads(first)
    old = {**newer, "event_id": f"0188{newer['event_id'][4:]}", "timestamp": "2024-02-01T00:00:00.000000Z"}
    (tmp_path / "old.jsonl").write_text(json.dumps(old))
    run("analytics", "show")
    run("import", str(tmp_path / "old.jsonl"))
    at = ("--at", "2024-02-01T00:10:00Z")
    assert "left out: 1 event too old for the panes that are kept" in run("analytics", "show", *at).stdout
    assert "left out: 1 event" in run("analytics", "series", "tokens", *at).stderr
    assert document(run("analytics", "show", *at, "--json"))["left_out"] == {"too_old": 1}
    assert "left out" not in run("analytics", "show").stdout


def test_nothing_counted_is_no_number(run: Run) -> None:
    found = document(run("analytics", "show", "--json"))
    assert (found["events_processed"], found["success_rate"], found["watermark"]) == (0, None, None)
    assert "nothing is counted yet" in run("analytics", "show").stdout
    assert "no event is counted yet" in run("analytics", "show", *NEWEST, code=4).stderr
    assert "nothing in that window" in run("analytics", "top").stderr


@pytest.mark.parametrize("words", [("show",), ("show", "agent", "a"), ("top",)])
def test_an_unknown_window_is_refused_with_the_known_ones(fleet: Run, words: tuple[str, ...]) -> None:
    said = fleet("analytics", *words, "--window", "2weeks", code=2).stderr
    assert "accepted: 1min, 5min, 15min, 1hour, 1day" in said
    assert "metrics" not in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("show", "robot", "a"), "there is no robot to show"),
        (("show", "agent"), "which agent?"),
        (("show", "fleet", "a"), "the fleet has no key"),
        (("top", "--by", "speed"), "'speed' is no metric; there are response_time"),
        (("top", "--by", "tokens", "--function", "p95"), "p95"),
        (("top", "--dimension", "planet"), "planet"),
        (("series", "speed"), "'speed' is no metric"),
        (("series", "response_time", "--step", "90s"), "no whole multiple of the pane of 0:01:00"),
        (("correlate", "speed"), "'speed' is no metric"),
        (("backtest", "speed"), "'speed' is no metric"),
        (("anomalies", "--severity", "awful"), "write one of critical, high, medium, low"),
        (("silence",), "--why"),
        (("silence", "--why", "x", "--for", "0s"), "--for"),
    ],
)
def test_wrong_words_are_refused_with_what_there_is(fleet: Run, words: tuple[str, ...], said: str) -> None:
    assert said in fleet("analytics", *words, code=2).stderr


def test_top_is_printed_once_where_nobody_looks(fleet: Run) -> None:
    shown = fleet("analytics", "top", *NEWEST).stdout
    assert shown.count("coder-001") == 1
    lowest = lines(fleet("analytics", "top", "--lowest", "--limit", "2", *NEWEST, "--json"))
    assert [one["rank"] for one in lowest] == [1, 2]
    assert lowest[0]["value"] <= lowest[1]["value"]


def test_a_series_is_a_picture_or_a_point_per_line(fleet: Run) -> None:
    picture = fleet("analytics", "series", "response_time", "--function", "p95", *NEWEST).stdout
    assert picture.startswith("response_time p95 of fleet, ms")
    assert "█" in picture
    points = lines(fleet("analytics", "series", "tokens", "--since", "1h", *NEWEST, "--step", "5m", "--json"))
    assert {one["unit"] for one in points} == {"tokens"}
    begins = [datetime.fromisoformat(one["start"]) for one in points]
    assert {later - earlier for earlier, later in pairwise(begins)} == {timedelta(minutes=5)}
    assert "nothing of tokens" in fleet("analytics", "series", "tokens", "--since", "1h", "--at", "2020-01-01T00:00:00Z").stderr


def test_metrics_are_listed_with_those_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "metrics.toml").write_text(STEPS)
    run = runner_for(tmp_path / "log", TALLYROLL_METRICS_FILE=str(tmp_path / "metrics.toml"))
    assert [one["name"] for one in lines(run("analytics", "metrics", "--json"))] == [*(spec.name for spec in BUILT_IN), "steps"]
    assert "steps" in run("analytics", "metrics").stdout


# What is unusual


def test_after_a_change_of_metrics_answers_are_made_anew_also_where_nothing_new_came(tmp_path: Path) -> None:
    (tmp_path / "metrics.toml").write_text(STEPS)
    plain, more = runner_for(tmp_path / "log"), runner_for(tmp_path / "log", TALLYROLL_METRICS_FILE=str(tmp_path / "metrics.toml"))
    publish(plain, "agent-1", 100)
    for run in (plain, more, plain):
        assert document(run("analytics", "show", "agent", "agent-1", "--json"))["events_processed"] == 1


def test_a_silence_names_a_rule_of_those_in_force_a_detector_or_a_rule_whose_alert_is_open(run: Run, tmp_path: Path) -> None:
    def silence(run: Run, rule: str, code: int = 0) -> Result:
        return run("analytics", "silence", "--rule", rule, "--why", "x", code=code)

    for known in ("too_slow", "log_away", "live", "panes"):
        silence(run, known)
    without = runner_for(tmp_path / "log")
    assert "there is no too_slow" in silence(without, "too_slow", 2).stderr
    assert "there is no anomalies" in silence(run, "anomalies", 2).stderr  # what it makes alerts of is told by detectors
    publish(run, "a-1", 90_000)
    run("run", "analytics", "--once")
    silence(without, "too_slow")


def test_an_alert_is_told_by_a_run_that_ends_at_once_and_a_silence_keeps_another_one_quiet(run: Run) -> None:
    event = publish(run, "a-1", 90_000)
    run("run", "analytics", "--once")
    (alert,) = lines(run("analytics", "alerts", "--json"))
    assert (alert["kind"], alert["state"], alert["detector"], alert["key"]) == ("alert", "firing", "too_slow", "a-1")
    assert "above 60000" in run("analytics", "alerts").stdout
    (told,) = lines(run("analytics", "anomalies", "--json"))
    assert (told["severity"], told["state"], told["key"]) == ("high", "firing", "a-1")
    assert [one["event_id"] for one in told["evidence"]] == [event]
    assert "above 60000" in run("analytics", "anomalies", "--severity", "medium").stdout
    assert lines(run("analytics", "anomalies", "--severity", "critical", "--json")) == []

    silence = document(run("analytics", "silence", "--key", "b-*", "--why", "load test", "--for", "2h", "--json"))
    publish(run, "b-1", 90_000, "task-2")
    run("run", "analytics", "--once")
    assert len(lines(run("analytics", "anomalies", "--json"))) == 1
    assert "load test" in run("analytics", "alerts").stdout
    assert "no silence" in run("analytics", "silence", "--end", "nobody", code=4).stderr
    assert "one of response_time, success" in run("analytics", "silence", "--metric", "error_rate", "--why", "x", code=2).stderr
    said = run("analytics", "silence", "--rule", "to_slow", "--why", "x", code=2).stderr
    assert "--rule: there is no to_slow; rules of a file are known where TALLYROLL_ALERTS_FILE names it" in said
    assert "too_slow" in said
    run("analytics", "silence", "--end", silence["id"])
    assert [one["kind"] for one in lines(run("analytics", "alerts", "--json"))] == ["alert", "alert"]


def test_no_alert_and_nothing_unusual_is_said(fleet: Run) -> None:
    assert "no alert is open" in fleet("analytics", "alerts").stderr
    assert "nothing unusual" in fleet("analytics", "anomalies").stderr
    assert lines(fleet("analytics", "alerts", "--json")) == lines(fleet("analytics", "anomalies", "--json")) == []


def test_correlate_and_backtest_look_at_the_past(fleet: Run, tmp_path: Path) -> None:
    assert "12 keys compared" in fleet("analytics", "correlate", "response_time", *NEWEST).stderr
    assert all(abs(one["coefficient"]) >= 0.7 for one in lines(fleet("analytics", "correlate", "response_time", *NEWEST, "--json")))
    judged = document(fleet("analytics", "backtest", "response_time", "--json"))
    assert judged["panes"] > 10
    assert judged["precision"] is None
    (tmp_path / "labels.json").write_text(json.dumps([[START, iso(datetime(2026, 1, 5, 8, 3, tzinfo=UTC))]]))
    labelled = document(fleet("analytics", "backtest", "response_time", "--labels", str(tmp_path / "labels.json"), "--json"))
    assert labelled["recall"] is not None
    assert "a day" in fleet("analytics", "backtest", "response_time").stdout
    (tmp_path / "labels.json").write_text('[["yesterday"]]')
    assert "no list of pairs" in fleet("analytics", "backtest", "response_time", "--labels", str(tmp_path / "labels.json"), code=2).stderr
    assert "which agent" in fleet("analytics", "backtest", "response_time", "--dimension", "agent", code=2).stderr
    assert (
        "nothing of response_time" in fleet("analytics", "backtest", "response_time", "--since", iso(utc_now() + timedelta(days=1))).stderr
    )


def test_rules_are_the_file_that_prometheus_loads(fleet: Run) -> None:
    assert fleet("analytics", "rules").stdout == rules_file(RuleOptions())
    assert fleet("analytics", "rules", "--job", "mine", "--objective", "99.5").stdout == rules_file(
        RuleOptions(job="mine", objective=0.995)
    )
    assert json.loads(fleet("analytics", "rules", "--job", "mine", "--json").stdout) == rules_document(RuleOptions(job="mine"))


def test_every_example_of_the_page_works(tmp_path: Path) -> None:
    page = (ROOT / "docs/reference/commands.md").read_text("utf-8")
    told = [line for line in page.splitlines() if line.startswith("tallyroll analytics ") and "\u2026" not in line]
    (tmp_path / "incidents.json").write_text("[]")
    assert len(told) > 15
    run = runner_for(tmp_path / "log")
    run("simulate", "--events", "300", "--agents", "3", "--seed", "4", "--json")
    for line in told:
        words = shlex.split(line.partition(">")[0], comments=True)[1:]
        run(*(str(tmp_path / word) if word == "incidents.json" else word for word in words))

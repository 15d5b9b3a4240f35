"""promtool says that every generated rule is valid, fires when it should, and stays silent when it should not."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
from services.install import tool
from tests.patience import PATIENCE_S

from tallyroll.adapters.prometheus.exporter import PrometheusExporter
from tallyroll.analytics.prometheus_rules import RuleOptions, alert_rules, rules_document, rules_file
from tallyroll.telemetry import Counters

pytestmark = [pytest.mark.server, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
UP = 'up{job="analytics-pipeline"}'
EVENTS = 'analytics_events_processed_total{topic="task-events"}'
PANES = "analytics_panes_closed_total"
WATERMARK = 'analytics_watermark_lag_seconds{topic="task-events",partition="3"}'
LAG = 'follow_lag_records{follower="state",topic="task-events",partition="3",instance="%s"}'
LETTERS = 'dead_letters_total{follower="state",reason="empty"}'
FLUSHES = 'follow_flush_failures_total{follower="state"}'
HEADROOM = 'archive_retention_headroom_seconds{topic="task-events",partition="3"}'
UNARCHIVED = 'archive_unarchived_records{topic="task-events",partition="3"}'
FAILED = 'agent_tasks_total{outcome="failed"}'
SUCCEEDED = 'agent_tasks_total{outcome="succeeded"}'


class Case(NamedTuple):
    """Series with a value per step, in promtool's notation, and how many alerts fire after so many steps."""

    alert: str
    when: str
    series: dict[str, str]
    steps: int
    firing: int
    step_minutes: int = 1


def burn_cases(window: str, step_minutes: int, steps: int, hold: int, share: float) -> list[Case]:
    """``steps`` of the window, ``hold`` more of the wait; ``share`` of failed tasks above which the alert fires."""
    alert = f"TaskFailuresBurn{window}"
    whole = steps + hold + 4

    def rates(failed: float, succeeded: float) -> dict[str, str]:
        return {FAILED: f"0+{failed:g}x{whole}", SUCCEEDED: f"0+{succeeded:g}x{whole}"}

    over = int(steps * 0.85)  # failing for most of the long window, and for nothing of the short one
    ceased = {FAILED: f"0+50x{over} {50 * over}x{whole - over}", SUCCEEDED: f"0+50x{whole}"}
    return [
        Case(alert, "more tasks fail than the rate allows", rates(120 * share, 100 - 120 * share), whole, 1, step_minutes),
        Case(alert, "fewer fail", rates(80 * share, 100 - 80 * share), whole, 0, step_minutes),
        Case(alert, "all fail, but they are few", rates(40 / steps, 0), whole, 0, step_minutes),
        Case(alert, "they failed, and do no more", ceased, whole, 0, step_minutes),
        Case(alert, "nothing ends", rates(0, 0), whole, 0, step_minutes),
    ]


CASES = [
    Case("AnomalyDetectionFailure", "it cannot be scraped", {UP: "1x5 0x20"}, 12, 1),
    Case("AnomalyDetectionFailure", "nobody knows of it", {'up{job="other"}': "1x20"}, 12, 1),
    Case("AnomalyDetectionFailure", "it is up", {UP: "1x20", 'up{job="other"}': "0x20"}, 12, 0),
    Case("AnalyticsStalled", "events come and no pane closes", {EVENTS: "0+60x40", PANES: "0+9x5 45x40"}, 35, 1),
    Case("AnalyticsStalled", "panes close", {EVENTS: "0+60x40", PANES: "0+9x40"}, 35, 0),
    Case("AnalyticsStalled", "nothing comes", {EVENTS: "60x40", PANES: "9x40"}, 35, 0),
    Case("AnalyticsWatermarkLate", "event time stands still", {EVENTS: "0+60x40", WATERMARK: "0+60x40"}, 25, 1),
    Case("AnalyticsWatermarkLate", "nothing comes", {EVENTS: "60x40", WATERMARK: "0+60x40"}, 25, 0),
    Case("AnalyticsWatermarkLate", "it keeps up", {EVENTS: "0+60x40", WATERMARK: "30x40"}, 25, 0),
    Case("FollowerBehind", "it is behind and stays there", {LAG % "a": "20000x40"}, 30, 1),
    Case("FollowerBehind", "it catches up", {LAG % "a": "90000-1000x40"}, 30, 0),
    Case("FollowerBehind", "two members tell of one lag", {LAG % "a": "6000x40", LAG % "b": "6000x40"}, 30, 0),
    Case("DeadLetters", "a first one is written", {LETTERS: "0x5 1x20"}, 8, 1),
    Case("DeadLetters", "there are old ones", {LETTERS: "3x40"}, 30, 0),
    Case("DeadLetters", "a counter is born at 1, which is why ours start at 0", {LETTERS: "_x5 1x20"}, 8, 0),
    Case("FlushFailing", "the store refuses again and again", {FLUSHES: "0+1x40"}, 30, 1),
    Case("FlushFailing", "it refused once", {FLUSHES: "0x5 1x40"}, 12, 0),
    Case("ArchiveHeadroomLow", "an hour is left", {HEADROOM: "3600x20", UNARCHIVED: "5x20"}, 15, 1),
    Case("ArchiveHeadroomLow", "all is archived", {HEADROOM: "3600x20", UNARCHIVED: "0x20"}, 15, 0),
    Case("ArchiveHeadroomLow", "weeks are left", {HEADROOM: "2000000x20", UNARCHIVED: "5x20"}, 15, 0),
    *burn_cases("1h", 1, 60, 2, 0.144),
    *burn_cases("6h", 5, 72, 3, 0.06),
    *burn_cases("1d", 20, 72, 3, 0.03),
    *burn_cases("3d", 60, 72, 3, 0.01),
]


def promtool(*words: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([tool("promtool"), *words], input=stdin, capture_output=True, text=True, check=False, timeout=PATIENCE_S)


def tried(folder: Path, case: Case, options: RuleOptions = RuleOptions()) -> subprocess.CompletedProcess[str]:  # noqa: B008
    (folder / "rules.yml").write_text(rules_file(options))
    expected = [{"labels": "{}", "value": case.firing}] if case.firing else []
    test = {
        "interval": f"{case.step_minutes}m",
        "input_series": [{"series": name, "values": values} for name, values in case.series.items()],
        "promql_expr_test": [
            {
                "expr": f'count(ALERTS{{alertname="{case.alert}",alertstate="firing"}})',
                "eval_time": f"{case.steps * case.step_minutes}m",
                "exp_samples": expected,
            }
        ],
    }
    whole = {"rule_files": ["rules.yml"], "evaluation_interval": test["interval"], "tests": [test]}
    (folder / "test.json").write_text(json.dumps(whole))
    return promtool("test", "rules", folder / "test.json")


def test_every_generated_rule_is_valid() -> None:
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", ROOT / "deploy/prometheus/tallyroll.rules.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{sum(len(group.rules) for group in alert_rules())} rules found" in done.stdout


def test_the_rules_as_json_are_a_file_for_prometheus_too(tmp_path: Path) -> None:
    (tmp_path / "rules.json").write_text(json.dumps(rules_document()))
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", tmp_path / "rules.json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{sum(len(group.rules) for group in alert_rules())} rules found" in done.stdout


def test_what_is_exported_keeps_to_the_customs_of_prometheus() -> None:
    text = PrometheusExporter(Counters()).text("")[0].decode()
    done = promtool("check", "metrics", stdin=text)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    assert promtool("check", "metrics", stdin=text.replace("agent_tasks_total", "agent_tasks")).returncode != 0


def test_a_list_of_alerts_at_the_top_is_refused(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yml"
    rules.write_text(rules_file().replace("groups:", "alerts:"))
    assert promtool("check", "rules", rules).returncode != 0


def test_every_rule_has_a_case_that_fires_and_one_that_does_not() -> None:
    names = {rule.alert for group in alert_rules() for rule in group.rules}
    assert {case.alert for case in CASES if case.firing} == {case.alert for case in CASES if not case.firing} == names


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.alert}: {case.when}")
def test_the_rule_fires_when_it_should_and_not_else(tmp_path: Path, case: Case) -> None:
    done = tried(tmp_path, case)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_check_would_notice(tmp_path: Path) -> None:
    assert tried(tmp_path, CASES[0]._replace(firing=0)).returncode != 0
    assert tried(tmp_path, CASES[2]._replace(firing=1)).returncode != 0


def test_only_the_minimum_of_tasks_keeps_a_few_failures_silent(tmp_path: Path) -> None:
    few = next(case for case in CASES if case.when.startswith("all fail"))
    assert tried(tmp_path, few._replace(firing=1), RuleOptions(min_tasks=10)).returncode == 0


def test_an_alert_says_in_words_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "rules.yml").write_text(rules_file(RuleOptions(runbook="https://runbooks.example")))
    alert = {
        "exp_labels": {"severity": "ticket", "follower": "state"},
        "exp_annotations": {
            "summary": "state is 20000 records behind the log and does not catch up.",
            "runbook_url": "https://runbooks.example#followerbehind",
        },
    }
    test = {
        "interval": "1m",
        "input_series": [{"series": LAG % "a", "values": "20000x40"}],
        "alert_rule_test": [{"eval_time": "30m", "alertname": "FollowerBehind", "exp_alerts": [alert]}],
    }
    (tmp_path / "test.json").write_text(json.dumps({"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": [test]}))
    done = promtool("test", "rules", tmp_path / "test.json")
    assert done.returncode == 0, done.stdout + done.stderr

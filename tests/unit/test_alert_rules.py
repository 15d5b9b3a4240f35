"""Rules travel as TOML and JSON; what does not fit is named."""

from __future__ import annotations

import msgspec
import pytest

from tallyroll.analytics.alerts.rules import (
    DEFAULT_RULES,
    AbsenceRule,
    AnomalyRule,
    BurnRateRule,
    GaugeRule,
    RulesFile,
    ThresholdRule,
    check_rules,
    rules_from,
)
from tallyroll.analytics.signal import Severity
from tallyroll.analytics.spec import BUILT_IN

TOML = """
defaults = false

[[rule]]
kind = "threshold"
name = "slow_agent"
metric = "response_time"
function = "p95"
dimension = "agent"
keys = ["planner", "coder"]
window_s = 300
comparison = ">"
value = 5000
clear = 4000
min_count = 20
for_s = 120
severity = "high"
urgency = "page"
runbook = "https://runbooks.example/slow"
inhibits = ["unusual"]

[rule.labels]
team = "search"

[[rule]]
kind = "absence"
name = "planner_is_silent"
dimension = "agent"
keys = ["planner"]
window_s = 600

[[rule]]
kind = "burn_rate"
name = "success_burns"
objective = 99.5
factor = 14.4
window_s = 3600
short_s = 300

[[rule]]
kind = "anomaly"
name = "unusual"
metrics = ["response_time", "cost"]
min_severity = "high"

[[rule]]
kind = "gauge"
name = "behind"
gauge = "lag_records"
comparison = ">="
value = 100000
"""


def test_toml_gives_rules_of_every_kind() -> None:
    slow, silent, burns, unusual, behind = rules_from(TOML, BUILT_IN, toml=True)
    assert isinstance(slow, ThresholdRule)
    assert (slow.keys, slow.clear, slow.severity, slow.urgency, slow.labels) == (
        ("planner", "coder"), 4000, Severity.HIGH, "page", {"team": "search"},
    )  # fmt: skip
    assert isinstance(silent, AbsenceRule)
    assert isinstance(burns, BurnRateRule)
    assert burns.min_count == 100
    assert isinstance(unusual, AnomalyRule)
    assert unusual.urgency == "ticket"
    assert isinstance(behind, GaugeRule)


def test_rules_round_trip() -> None:
    rules = rules_from(TOML, BUILT_IN, toml=True)
    text = msgspec.json.encode(RulesFile(rule=rules, defaults=False)).decode()
    assert rules_from(text, BUILT_IN, toml=False) == rules
    assert rules_from("", BUILT_IN, toml=True) == DEFAULT_RULES


def test_the_default_rules_fit_the_built_in_metrics_and_only_burn_rates_page() -> None:
    check_rules(DEFAULT_RULES, BUILT_IN)
    assert [rule.name for rule in DEFAULT_RULES if rule.urgency == "page"] == ["success_burns_in_2_days", "success_burns_in_5_days"]
    burns = {(rule.factor, rule.window_s, rule.short_s) for rule in DEFAULT_RULES if isinstance(rule, BurnRateRule)}
    assert burns == {(14.4, 3600, 300), (6, 21_600, 1_800), (3, 86_400, 7_200), (1, 259_200, 21_600)}


def test_an_own_rule_stands_in_for_the_default_of_its_name() -> None:
    rules = rules_from('[[rule]]\nkind = "anomaly"\nname = "anomalies"\nmin_severity = "high"', BUILT_IN, toml=True)
    assert [rule.name for rule in rules].count("anomalies") == 1
    assert len(rules) == len(DEFAULT_RULES)


SLOW = 'kind = "threshold"\nname = "slow"\nmetric = "response_time"\nfunction = "p95"\ncomparison = ">"\nvalue = 5000\n'
BURN = 'kind = "burn_rate"\nname = "burn"\nfactor = 2\nwindow_s = 3600\nshort_s = 300\n'

BAD = {
    "not TOML": ("[[rule", "alert rules"),
    "an unknown member": (f"[[rule]]\n{SLOW}colour = 1", "colour"),
    "an unknown kind": ('[[rule]]\nkind = "wish"\nname = "a"', "wish"),
    "a missing member": ('[[rule]]\nkind = "absence"', "name"),
    "a bad name": (f"[[rule]]\n{SLOW}".replace('"slow"', '"Slow one"'), "rule"),
    "a bad comparison": (f"[[rule]]\n{SLOW}".replace('">"', '"=="'), "=="),
    "two of a name": (f"[[rule]]\n{SLOW}[[rule]]\n{SLOW}", "alert rule slow: there are two of this name"),
    "no such metric": (f"[[rule]]\n{SLOW}".replace("response_time", "mood"), "alert rule slow: metric: there is no mood"),
    "no such dimension": (f'[[rule]]\n{SLOW}dimension = "tool"', "dimension: response_time is kept per fleet"),
    "an odd window": (f"[[rule]]\n{SLOW}window_s = 90", "multiples of the panes of response_time, which are of 60 s"),
    "a window beyond what is kept": (f"[[rule]]\n{SLOW}window_s = 9999999", "window_s"),
    "no histogram": (f"[[rule]]\n{SLOW}".replace("response_time", "cost"), "cost has avg, count"),
    "a mean of successes": (f"[[rule]]\n{SLOW}".replace("response_time", "success").replace("p95", "avg"), "has count, error_rate"),
    "clear on the bad side": (f"[[rule]]\n{SLOW}clear = 6000", "clear: expected on the good side of value"),
    "a burn rate of no success": (f'[[rule]]\n{BURN}metric = "cost"', "cost does not count successes"),
    "a short window that is long": (f"[[rule]]\n{BURN}".replace("300", "3600"), "short_s: expected less than window_s"),
    "an objective of all": (f"[[rule]]\n{BURN}objective = 100", "objective"),
    "inhibits nobody": (f'[[rule]]\n{SLOW}inhibits = ["nobody"]', "there is no rule nobody"),
    "the name of a detector": (f"[[rule]]\n{SLOW}".replace('"slow"', '"live"'), "are detectors"),
    "an anomaly of no metric": ('[[rule]]\nkind = "anomaly"\nname = "a"\nmetrics = ["mood"]', "there is no mood"),
    "an anomaly of no dimension": ('[[rule]]\nkind = "anomaly"\nname = "a"\ndimensions = ["mood"]', "no metric is kept per mood"),
    "no such gauge": ('[[rule]]\nkind = "gauge"\nname = "a"\ngauge = "mood"\ncomparison = ">"\nvalue = 1', "mood"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_does_not_fit_is_named(what: str) -> None:
    text, said = BAD[what]
    with pytest.raises(ValueError, match="alert rule") as caught:
        rules_from(text, BUILT_IN, toml=True)
    assert said in str(caught.value)

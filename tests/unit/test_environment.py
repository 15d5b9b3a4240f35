"""Tests run as if nobody had set anything."""

from __future__ import annotations

import os
from dataclasses import fields

import pytest
from tests.environment import environment, is_setting
from tests.patience import READ_WAIT_MS

from tallyroll.settings import Settings
from tallyroll.settings.sources import BOOTSTRAP_VARIABLE, CONFIG_VARIABLE

PATIENT = {"TALLYROLL_READ_WAIT_MS": str(READ_WAIT_MS)}


def test_every_variable_of_a_setting_is_known_to_be_one() -> None:
    variables = [item.metadata["variable"].env for item in fields(Settings)]
    assert len(variables) > 60
    assert [name for name in (*variables, BOOTSTRAP_VARIABLE, CONFIG_VARIABLE) if not is_setting(name)] == []
    assert not any(map(is_setting, ("PATH", "HOME", "PYTHONPATH", "TMPDIR", "NAB_DATA")))


def test_a_test_has_no_setting_but_patience() -> None:
    assert {name: value for name, value in os.environ.items() if is_setting(name)} == PATIENT
    assert Settings.from_env() == Settings.from_env(PATIENT)


@pytest.mark.parametrize(
    "name", ["TALLYROLL_URL", "KAFKA_WAIT_FOR_ACK", "REDIS_HOST", "NATS_SERVERS", "AUDIT_RULES", "ANALYTICS_WINDOW_SIZE"]
)
def test_a_program_gets_what_is_given_and_no_other_setting(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "of somebody")
    monkeypatch.setenv("SOMETHING", "else")
    made = environment(AUDIT_SUBJECT_FIELDS="given")
    assert {one: value for one, value in made.items() if is_setting(one)} == {**PATIENT, "AUDIT_SUBJECT_FIELDS": "given"}
    assert made["SOMETHING"] == "else"
    assert made["PATH"] == os.environ["PATH"]

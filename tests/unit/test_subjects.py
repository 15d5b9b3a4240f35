"""Subjects of forwarded events: each id is one token, whatever is in it."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallyroll.bridges.forward import KafkaNATSBridge, types_named
from tallyroll.bridges.subjects import check_template, subject_of, token
from tallyroll.errors import SettingsError
from tallyroll.events.event import AgentEvent, EventMetadata


@given(st.text(min_size=1))
def test_a_token_holds_nothing_that_has_a_meaning_and_can_be_read_back(text: str) -> None:
    made = token(text)
    assert not set(made) & set(".*> \t\n\r\x00")
    assert unquote(made) == text


@given(st.lists(st.text(alphabet=".*>% aü\n", min_size=1, max_size=4), min_size=2, max_size=2, unique=True))
def test_two_ids_never_share_a_token(ids: list[str]) -> None:
    assert token(ids[0]) != token(ids[1])


def test_every_field_of_a_template() -> None:
    event = AgentEvent("task.completed", "t.1", "task", {"agent_id": "a b"}, EventMetadata(tenant_id="acme.eu"))
    assert subject_of("agents.{aggregate_id}.status", event) == "agents.t%2E1.status"
    assert subject_of("{tenant}.{agent_id}.{event_type}", event) == "acme%2Eeu.a%20b.task.completed"
    bare = AgentEvent("task.completed", "t", "task")
    assert subject_of("{tenant}.{agent_id}", bare) == "-.-"


@pytest.mark.parametrize(
    "template", ["", "a..b", ".a", "a.*", "a.>", "a b", "{payload}", "{aggregate_id!r}", "{aggregate_id:>9}", "{", "{}"]
)
def test_a_template_that_gives_no_subject_is_refused(template: str) -> None:
    with pytest.raises(SettingsError, match="TALLYROLL_NATS_SUBJECT"):
        check_template(template)
    with pytest.raises(SettingsError):
        KafkaNATSBridge(None, subject=template)


def test_types_are_named_as_people_write_them() -> None:
    assert types_named(" agent.started , task.completed,") == ["agent.started", "task.completed"]
    with pytest.raises(SettingsError, match=r"did you mean agent\.started"):
        types_named("agent.start")
    with pytest.raises(SettingsError, match="at least one"):
        types_named(" ,")

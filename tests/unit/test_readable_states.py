"""States in words: what is nested is told as names and values, not as a program would write it."""

from __future__ import annotations

from tallyroll.cli.states import readable


def test_an_object_in_an_object_is_told_by_its_names_and_values() -> None:
    state = {"last_seen": {"DATA_ACCESS": {"position": "system-events/0/3", "at": "2026"}}, "tools": {"grep": 2}, "settings": {}}
    assert readable(state) == {"last_seen": "DATA_ACCESS (position system-events/0/3, at 2026)", "tools": "grep 2"}


def test_nothing_in_a_state_can_steer_the_terminal() -> None:
    assert "\x1b" not in str(readable({"settings": {"a\x1b[2J": {"b\x1b[2J": "c\x1b[2J"}}}))

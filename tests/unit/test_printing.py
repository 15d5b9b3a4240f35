"""Tables on screens of any width."""

from __future__ import annotations

import contextlib
import io

import pytest

from tallyroll.cli.printing import table

NAMES = ("researcher-001", "support-002")
COLUMNS = ("agent", "status", "done", "failed", "active", "tools", "tokens", "cost", "last seen")
ROW = ("running", "109", "0", "1", "183", "1,884,627", "0.3188", "22.6 h ago")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(columns: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    for name, value in (("COLUMNS", str(columns)), ("TERM", "xterm"), ("NO_COLOR", "1")):
        monkeypatch.setenv(name, value)
    out = Terminal()
    with contextlib.redirect_stdout(out):
        table(COLUMNS, [(name, *ROW) for name in NAMES], right=COLUMNS[2:])
    return out.getvalue().splitlines()


@pytest.mark.parametrize("columns", [200, 120, 100, 80, 70, 60, 50, 40, 30])
def test_a_row_says_what_it_is_about_on_any_screen(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown(columns, monkeypatch)
    assert [line.split()[0] for line in lines[2:]] == list(NAMES)
    assert max(map(len, lines)) <= columns


def test_columns_come_closer_before_they_are_shortened(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(cell in shown(84, monkeypatch)[2] for cell in ROW[1:])
    assert shown(200, monkeypatch)[2].split("   ")[0] == NAMES[0]

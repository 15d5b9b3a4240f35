"""How checks are shown: one line each, what to do below it, and how many there were of which kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import typer

from tallyroll.cli.doctor.checks import Check, Verdict
from tallyroll.cli.exits import ExitCode
from tallyroll.cli.printing import counted, paint, plain, say, say_json

_MARKS: Final[Mapping[Verdict, tuple[str, str]]] = {"ok": ("✓", "green"), "warn": ("!", "bold yellow"), "fail": ("✗", "bold red")}


def show(found: Sequence[Check], *, json: bool) -> None:
    """Prints the checks; ends the command with FINDINGS if one of them fails."""
    failed = sum(check.verdict == "fail" for check in found)
    warned = sum(check.verdict == "warn" for check in found)
    if json:
        say_json({"ok": not failed, "checks": [check._asdict() for check in found]})
    else:
        wide = max(len(check.name) for check in found)
        for check in found:
            mark, style = _MARKS[check.verdict]
            say(f"{paint(mark, style)} {paint(check.name.ljust(wide), 'dim')}  {plain(check.says)}")
            if check.next:
                say(f"  {' ' * wide}  {paint('→', style)} {plain(check.next)}")
        say()
        fine = len(found) - failed - warned
        say(f"{failed} failed, {counted(warned, 'warning')}, {fine} fine" if failed + warned else paint("all is well", "green"))
    if failed:
        raise typer.Exit(ExitCode.FINDINGS)

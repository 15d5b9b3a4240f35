"""What every command shares: which log, which form of output, and running to an end that scripts can rely on."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from tallyroll.cli.exits import CommandError, ExitCode
from tallyroll.cli.moments import parse_moment, parse_span
from tallyroll.errors import SettingsError
from tallyroll.events.ids import utc_now
from tallyroll.settings import CONFIG_VARIABLE, Settings, Source, settings_and_sources

if TYPE_CHECKING:
    from tallyroll.roll import Roll

_MAX_PORT: Final = 65_535
T = TypeVar("T")

COMPLETE_VARIABLE: Final = "_TALLYROLL_COMPLETE"
"""What a shell sets when it asks for completions."""

Url = Annotated[str | None, typer.Option("--url", metavar="URL", help="Which log: sqlite:///FOLDER or kafka://HOST:PORT,…")]
Json = Annotated[bool, typer.Option("--json", help="Machine output: JSON on standard output, words on standard error.")]


@dataclass(frozen=True, slots=True)
class Session:
    """One run of a command. ``url`` and ``config`` None: what the environment says."""

    url: str | None = None
    json: bool = False
    config: Path | None = None

    @property
    def file(self) -> Path | None:
        """The configuration file in force: the one of the option, else the one that the environment names."""
        named = os.environ.get(CONFIG_VARIABLE)
        return self.config or (Path(named) if named else None)

    def settings(self) -> Settings:
        """The settings in force. Raises SettingsError."""
        return self.settings_and_sources()[0]

    def settings_and_sources(self) -> tuple[Settings, Mapping[str, Source]]:
        """The settings in force, and by field name where each value comes from. Raises SettingsError."""
        given: dict[str, Any] = {} if self.url is None else {"url": self.url}
        try:
            return settings_and_sources(self.file, **given)
        except SettingsError as error:
            if error.name not in given:
                raise
            raise SettingsError("--url", error.reason) from None

    def command(self, words: str) -> str:
        """A command that works on the same log, to be copied: options that were given are in it."""
        return shlex.join(["tallyroll", *words.split(), *self.options])

    @property
    def options(self) -> list[str]:
        """The options that were given and say which log it is, as words of a command line."""
        given = (("--url", self.url), ("--config", self.config))
        return [str(word) for pair in given if pair[1] is not None for word in pair]

    def roll(self) -> AbstractAsyncContextManager[Roll]:
        """The roll that the command works on."""
        from tallyroll.roll import Roll  # noqa: PLC0415  # a tenth of a second that --help need not spend

        return Roll.open(self.settings())


def session_of(context: typer.Context, url: str | None, json: bool) -> Session:  # noqa: FBT001  # as the option gives it
    """The session that the options of the command make, on top of those before it."""
    outer = context.find_root().obj
    above = outer if isinstance(outer, Session) else Session()
    return Session(url or above.url, json or above.json, above.config)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Runs a command's work. Ctrl-C closes the roll, which flushes, and ends with 130."""
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        raise typer.Exit(ExitCode.INTERRUPTED) from None


def confirm(question: str, *, yes: bool) -> None:
    """Goes on only if somebody agrees, or has with ``yes``. Raises CommandError where nobody can be asked."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise CommandError(ExitCode.USAGE, f"nobody can answer: {question}", "add --yes")
    typer.confirm(question, abort=True, err=True)


def moment_of(text: str | None, option: str) -> datetime | None:
    """The moment that an option names. Raises CommandError."""
    return None if text is None else _read(option, lambda: parse_moment(text, utc_now()))


def span_of(text: str | None, option: str) -> timedelta | None:
    """The duration that an option names. Raises CommandError."""
    return None if text is None else _read(option, lambda: parse_span(text))


def _read(option: str, parse: Callable[[], T]) -> T:
    try:
        return parse()
    except ValueError as error:
        raise CommandError(ExitCode.USAGE, f"{option}: {error}", "see the examples in --help") from None


def address_of(listen: str, example: str) -> tuple[str, int]:
    """Host and port of ``--listen``; without a host 127.0.0.1. Raises CommandError."""
    host, _, port = listen.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > _MAX_PORT:
        raise CommandError(ExitCode.USAGE, "--listen: expected HOST:PORT", f"write {example}, or :0 for any free port")
    return host.strip("[]") or "127.0.0.1", int(port)


def examples(*lines: str) -> str:
    """The end of a command's help: how it is used."""
    listed = "\n".join(f"  {line}" for line in lines)
    return f"\b\nExamples:\n{listed}"


def verbs() -> typer.Typer:
    """An empty collection of commands, with what all of ours share."""
    return typer.Typer(add_completion=False, rich_markup_mode=None)


def group_of(app: typer.Typer, help_text: str, *examples_given: str) -> None:
    """Makes a collection of commands that shows its help when it is called without one."""

    @app.callback(invoke_without_command=True, help=help_text, epilog=examples(*examples_given) if examples_given else None)
    def show_help(
        context: typer.Context,
        *,
        url: Annotated[str | None, typer.Option("--url", hidden=True)] = None,  # every command of it tells of these
        json: Annotated[bool, typer.Option("--json", hidden=True)] = False,
    ) -> None:
        context.find_root().obj = session_of(context, url, json)
        if context.invoked_subcommand is None:
            sys.stdout.write(context.get_help() + "\n")

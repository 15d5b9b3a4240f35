"""The root command: finds the verb and imports only that one, and turns every error into two lines and an exit code."""

from __future__ import annotations

import contextlib
import difflib
import logging
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import typer
from typer._click.shell_completion import CompletionItem
from typer.core import TyperGroup
from typer.main import get_command

from tallyroll.cli.exits import MEANINGS, ExitCode, explain
from tallyroll.cli.logs import Words
from tallyroll.cli.printing import leave_pipe, paint, plain, say_json
from tallyroll.cli.session import COMPLETE_VARIABLE, Json, Session, Url


class Verb(NamedTuple):
    """Where a command lives, and its line in the list of commands."""

    module: str
    help: str


VERBS: Final[Mapping[str, Verb]] = {
    "demo": Verb("demo.command", "A fleet at work on an embedded log, live; under a minute."),
    "publish": Verb("publish", "Put one event into the log."),
    "tail": Verb("tail", "Show events as they come, filtered, or export them."),
    "events": Verb("events", "Event types, checks of event files, single events."),
    "agents": Verb("agents", "Agents: list, state now or then, timeline."),
    "tasks": Verb("tasks", "A task's state, now or then."),
    "workflows": Verb("workflows", "A workflow's state, now or then."),
    "import": Verb("importing", "Recorded runs (OpenAI, Claude Code, OTLP) into the log."),
    "simulate": Verb("simulate", "Publish the events of a made-up fleet."),
    "run": Verb("run.command", "Keep states, metrics or the archive current until stopped."),
    "replay": Verb("replay.command", "States from the history alone, at any moment, and how they came to be."),
    "archive": Verb("archive.command", "What topics forget, kept for good: status, seal, rebuild, query."),
    "analytics": Verb("analytics.command", "Live numbers of agents, tools, models, the fleet; anomalies and alerts."),
    "audit": Verb("audit.command", "The audit trail: query, verify, prove, report; rules and keys."),
    "lag": Verb("lag", "How far the stored state is behind the log."),
    "verify": Verb("verify", "Check the publishers' chain: loss, reorder, alteration."),
    "dlq": Verb("dlq", "Dead letters: what a follower could not apply."),
    "topics": Verb("topics", "Topics and rights of a Kafka cluster."),
    "config": Verb("config.command", "The settings in force and where they come from; a file of them, checked."),
    "doctor": Verb("doctor.command", "Check settings, log, topics, followers, Redis, NATS, spool."),
    "completion": Verb("completion", "What makes your shell complete commands and options."),
}

_EXIT_CODES: Final = "\b\nExit codes:\n" + "\n".join(f"  {code:>3}  {meaning}" for code, meaning in MEANINGS.items())


class Root(TyperGroup):
    """The command ``tallyroll``. A verb is imported when it is called, so that none pays for the others."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]  # noqa: ARG002  # typer names a base of its class
        """The verbs, in the order in which one meets them."""
        return list(VERBS)

    def get_command(self, ctx: typer.Context, cmd_name: str) -> Any:  # type: ignore[override]  # noqa: ANN401  # as above
        """The verb, imported now. Raises a usage error if there is none of that name."""
        verb = VERBS.get(cmd_name)
        if verb is None:
            near = difflib.get_close_matches(cmd_name, VERBS, n=1)
            ctx.fail(f"there is no command {plain(cmd_name)}" + (f"; did you mean {near[0]}?" if near else ""))
        return get_command(import_module(f"tallyroll.cli.{verb.module}").app)

    def format_commands(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]  # noqa: ANN401, ARG002  # as above
        """The list of verbs from the table: importing them all would cost ten times the help."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, verb.help) for name, verb in VERBS.items()])

    def shell_complete(self, ctx: typer.Context, incomplete: str) -> list[Any]:  # type: ignore[override]  # as above
        """The verbs of the table, and the options; its parent would import every verb for its line of help."""
        items = [CompletionItem(name, help=verb.help) for name, verb in VERBS.items() if name.startswith(incomplete)]
        return items + super(TyperGroup, self).shell_complete(ctx, incomplete)

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]  # noqa: ANN401  # as above
        """Runs the verb. A reader that left, such as ``| head``, ends it quietly, whatever it was writing."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            leave_pipe()
            raise typer.Exit(ExitCode.OK) from None
        return result

    def main(  # as its parent has it
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,  # noqa: ARG002, FBT001, FBT002  # as its parent has it; how it ends is ours
        windows_expand_args: bool = True,  # noqa: FBT001, FBT002  # as its parent has it
        **extra: Any,  # noqa: ANN401  # as its parent has it
    ) -> Any:  # noqa: ANN401  # as its parent has it
        """Runs a command line and exits the process; never with a traceback unless TALLYROLL_DEBUG is set."""
        words = list(sys.argv[1:] if args is None else args)
        _quiet()
        _ready_streams()
        if COMPLETE_VARIABLE in os.environ:
            from typer._completion_classes import completion_init  # noqa: PLC0415  # a shell asks, nobody else

            completion_init()
        try:
            code = super().main(words, prog_name or "tallyroll", complete_var, False, windows_expand_args, **extra)
        except typer.Abort:
            code = ExitCode.INTERRUPTED
        except typer.TyperException as error:
            code = _report(ExitCode.USAGE, "UsageError", error.format_message(), f"see '{_path(error)} --help'", json="--json" in words)
        except Exception as error:  # noqa: BLE001  # the end of the line: whatever it is becomes two lines and a code
            if os.environ.get("TALLYROLL_DEBUG"):
                traceback.print_exception(error)
            trouble = explain(error)
            code = _report(*trouble, json="--json" in words)
        sys.exit(int(code or 0))


def _quiet() -> None:
    """A client that cannot connect says so many times a second; what matters of it comes back as an error."""
    if os.environ.get("TALLYROLL_DEBUG"):
        return
    logging.getLogger("tallyroll.kafka").setLevel(logging.CRITICAL)
    ours, spans = logging.getLogger("tallyroll"), logging.getLogger("opentelemetry")
    if not any(isinstance(handler, Words) for handler in ours.handlers):
        words = Words()
        for logger, level in ((ours, logging.WARNING), (spans, logging.ERROR)):
            logger.addHandler(words)
            logger.setLevel(level)
            logger.propagate = False
        logging.getLogger("tallyroll.alerts.told").setLevel(logging.INFO)  # also the ends of alerts, and the lesser ones


def _ready_streams() -> None:
    """There is a standard output even if it was closed (``>&-``), and what its encoding lacks is spelt out rather than fatal."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115  # for as long as the process runs
        stream = getattr(sys, name)
        if isinstance(stream, TextIOWrapper):
            with contextlib.suppress(OSError):  # what was a file when it was opened, and is a pipe now
                stream.reconfigure(errors="backslashreplace")


def _path(error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    return context.command_path if context is not None else "tallyroll"


def _report(code: ExitCode, kind: str, what: str, next_step: str, *, json: bool) -> ExitCode:
    what = plain(" ".join(what.split()))
    if json:
        with contextlib.suppress(OSError):  # nobody can write there: it may be what the error is about
            say_json({"error": what, "type": kind, "next": next_step})
            sys.stdout.flush()
            return code
    sys.stderr.write(f"{paint('tallyroll:', 'bold red', to=sys.stderr)} {what}\n{paint('  next:', 'dim', to=sys.stderr)} {next_step}\n")
    return code


app = typer.Typer(cls=Root, add_completion=False, rich_markup_mode=None)


def _show_version(asked: bool) -> None:  # noqa: FBT001  # a callback of an option
    if asked:
        from importlib.metadata import version  # noqa: PLC0415  # reads the disk

        sys.stdout.write(f"tallyroll {version('tallyroll')}\n")
        raise typer.Exit


@app.callback(invoke_without_command=True, epilog=_EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
def tallyroll(
    context: typer.Context,
    *,
    url: Url = None,
    json: Json = False,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="Settings in TOML; variables win over it. Else what TALLYROLL_CONFIG names."),
    ] = None,
    version: Annotated[  # noqa: ARG001  # done by its callback
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Every thing your agents do, once, in order, in one log; and what follows from it.

    Without a URL the log is the embedded one in ./tallyroll-data. TALLYROLL_URL or KAFKA_BOOTSTRAP_SERVERS choose another;
    'tallyroll doctor' says which one is in force and why. New here? Run 'tallyroll demo'.
    """
    context.obj = Session(url, json, config)
    if context.invoked_subcommand is None:
        sys.stdout.write(context.get_help() + "\n")

"""``tallyroll import``: recorded runs into the log, each event once."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Final, Literal, cast

import typer

from tallyroll.capture.formats import FORMATS, Format, detect
from tallyroll.capture.publish_new import ImportReport, publish_new
from tallyroll.capture.recording import CaptureOptions, Skipped, Source
from tallyroll.cli.exits import CommandError, ExitCode
from tallyroll.cli.printing import note, number, paint, plain, say, say_json
from tallyroll.cli.progress import Progress
from tallyroll.cli.session import Json, Session, Url, examples, run, session_of, verbs
from tallyroll.errors import SettingsError
from tallyroll.events.event import AgentEvent

app = verbs()

_SHOWN: Final = 5  # places per reason that are listed
_CONTENTS: Final = ("digest", "full")


@app.command(
    "import",
    epilog=examples(
        "tallyroll import runs.json      # the format is guessed",
        "tallyroll import session.jsonl --format claude-code --agent helper-1",
        "tallyroll import trace.json --format otlp-json --content full",
        "tallyroll tail --all --json --url sqlite:///old | tallyroll import - --format events",
    ),
)
def import_(  # noqa: PLR0913  # one parameter per option
    context: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="The recording, or - for standard input.")],
    *,
    format_name: Annotated[
        str | None, typer.Option("--format", metavar="FORMAT", help=f"One of {', '.join(FORMATS)}; guessed unless given.")
    ] = None,
    content: Annotated[
        str, typer.Option(help="digest: sizes, names, outcomes, no texts. full: the texts too, personal data as a rule.")
    ] = "digest",
    agent: Annotated[str | None, typer.Option(help="Whose deeds these are, where the recording does not say.")] = None,
    namespace: Annotated[
        str, typer.Option(help="Keeps imports apart that must not share ids; secret, it protects short texts from guessing.")
    ] = "",
    tenant: Annotated[str | None, typer.Option(help="The tenant of every event.")] = None,
    url: Url = None,
    json: Json = False,
) -> None:
    """Turn recorded agent runs into events and publish those that are not in the log yet.

    Ids come from the recording: importing the same file again adds nothing, also after an import that was cut off.
    """
    session = session_of(context, url, json)
    if content not in _CONTENTS:
        raise CommandError(ExitCode.USAGE, "--content: expected digest or full", "digest keeps no texts; see --help")
    source: Source = sys.stdin.buffer.read() if file == "-" else Path(file)
    if format_name is not None and format_name not in FORMATS:
        raise CommandError(ExitCode.USAGE, f"--format: {plain(format_name)} is not known", f"choose one of {', '.join(FORMATS)}")
    try:
        form = detect(source) if format_name is None else FORMATS[format_name]
    except SettingsError:
        known = "; ".join(f"{one.name}: {one.title}" for one in FORMATS.values())
        raise CommandError(ExitCode.USAGE, "cannot tell the format of this recording", f"name it with --format ({known})") from None
    options = CaptureOptions(content=cast("Literal['digest', 'full']", content), namespace=namespace, agent_id=agent, tenant_id=tenant)
    items = list(form.read(source, options=options))
    report = run(_import(session, items))
    _show(session, form, report)
    if report.failed:
        raise CommandError(
            ExitCode.UNCERTAIN,
            f"{number(len(report.failed))} events were not confirmed",
            "import the same file again: only these are published",
        )
    if report.skipped and not report.published and not report.already_there:
        raise CommandError(ExitCode.FINDINGS, "nothing in the file became an event", "name the right --format")


async def _import(session: Session, items: list[AgentEvent | Skipped]) -> ImportReport:
    async with session.roll() as roll:
        with Progress("importing", len(items)) as progress:
            return await publish_new(roll.log, roll.catalogue, roll.publisher, items, progress=progress.advance_to)


def _show(session: Session, form: Format, report: ImportReport) -> None:
    if session.json:
        skipped = [{"where": one.where, "reason": one.reason} for one in report.skipped]
        failed = [{"event_id": event_id, "reason": reason} for event_id, reason in report.failed]
        say_json(
            {
                "format": form.name,
                "published": report.published,
                "already_there": report.already_there,
                "skipped": skipped,
                "failed": failed,
            }
        )
        return
    say(
        f"{form.name}: {paint(number(report.published), 'bold')} published, {number(report.already_there)} already there, "
        f"{number(len(report.skipped))} skipped"
    )
    for reason, count in Counter(one.reason for one in report.skipped).most_common():
        places = [plain(one.where) for one in report.skipped if one.reason == reason]
        more = f", and {number(count - _SHOWN)} more" if count > _SHOWN else ""
        note(f"skipped, {plain(reason)}: {', '.join(places[:_SHOWN])}{more}")

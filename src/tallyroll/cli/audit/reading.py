"""``tallyroll audit query|show|export``: the trail as its reader may see it."""

from __future__ import annotations

import getpass
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import msgspec
import typer

from tallyroll.audit.ledger.contents import AuditEntry
from tallyroll.audit.reading.ocsf import ocsf_event
from tallyroll.audit.reading.query import MAX_LIMIT, PERSONAL, Answer, Reader, Wanted
from tallyroll.audit.reading.sheet import csv_lines
from tallyroll.audit.trail import AuditTrail
from tallyroll.cli.exits import CommandError, ExitCode
from tallyroll.cli.freshness import catch_up
from tallyroll.cli.moments import MOMENT_HELP
from tallyroll.cli.printing import clip, counted, markup, note, number, plain, say, say_json, spread, table
from tallyroll.cli.progress import Progress
from tallyroll.cli.session import Json, Session, Url, examples, moment_of, run, session_of
from tallyroll.errors import LedgerTampered
from tallyroll.roll import AUDIT_FOLLOWER

WAIT_S: Final = 30.0
"""How long a command on the embedded log seals what nobody has sealed, before it answers with what is there."""

Since = Annotated[str | None, typer.Option("--since", metavar="WHEN", help=f"From then on: {MOMENT_HELP}.")]
Until = Annotated[str | None, typer.Option("--until", metavar="WHEN", help="Up to then, that moment included.")]
Personal = Annotated[bool, typer.Option("--personal", help="Open sealed fields. That you did so is recorded in the trail.")]
Purpose = Annotated[str | None, typer.Option("--purpose", metavar="TEXT", help="What for; recorded with --personal.")]
ReaderName = Annotated[str | None, typer.Option("--reader", metavar="NAME", help="Who reads; your login name if not given.")]
Agent = Annotated[str | None, typer.Option("--agent", metavar="ID", help="Of this agent.")]
Task = Annotated[str | None, typer.Option("--task", metavar="ID", help="Of this task.")]
Workflow = Annotated[str | None, typer.Option("--workflow", metavar="ID", help="Of this workflow.")]
User = Annotated[str | None, typer.Option("--user", metavar="ID", help="Of this user; needs --personal, since users are sealed.")]
Category = Annotated[str | None, typer.Option("--category", help="Such as data_access.")]
Severity = Annotated[str | None, typer.Option("--severity", help="critical, high, medium, low or info.")]
Outcome = Annotated[str | None, typer.Option("--outcome", help="Such as success or denied.")]
Type = Annotated[str | None, typer.Option("--type", metavar="TYPE", help="Of this event type.")]
Framework = Annotated[str | None, typer.Option("--framework", help="Under this framework: gdpr, sox, hipaa, …")]

_QUERY: Final = examples(
    "tallyroll audit query --agent coder-001 --since 1d",
    "tallyroll audit query --user anna --personal --purpose 'request of the data subject'",
)
_SHOW: Final = examples("tallyroll audit show AUDIT_ID", "tallyroll audit show AUDIT_ID --personal --purpose 'case 12'")
_EXPORT: Final = examples(
    "tallyroll audit export --format ocsf --since 1d > events.jsonl",
    "tallyroll audit export --format csv --framework gdpr entries.csv",
    "tallyroll audit export --format ledger ledger.zip     # for: python -m tallyroll.audit.verify ledger.zip --key KEY",
)


class Asked(NamedTuple):
    """What a command asks the trail, and on whose behalf."""

    wanted: Wanted
    reader: Reader


@asynccontextmanager
async def trail_of(session: Session) -> AsyncIterator[AuditTrail]:
    """The trail of the session's log, with everything in it that is in the log; says on standard error where it is behind."""
    async with session.roll() as roll:
        try:
            await catch_up(roll, WAIT_S, AUDIT_FOLLOWER)
        except LedgerTampered as error:
            note(f"nothing more is sealed, and what is there is shown as it is: {error}")
        yield roll.audit


def add_to(app: typer.Typer) -> None:
    """Adds the commands of this module to a collection."""
    app.command(epilog=_QUERY)(query)
    app.command(epilog=_SHOW)(show)
    app.command(epilog=_EXPORT)(export)


def query(  # noqa: PLR0913  # one parameter per option
    context: typer.Context,
    *,
    since: Since = None,
    until: Until = None,
    user: User = None,
    agent: Agent = None,
    task: Task = None,
    workflow: Workflow = None,
    category: Category = None,
    severity: Severity = None,
    outcome: Outcome = None,
    event_type: Type = None,
    framework: Framework = None,
    limit: Annotated[int, typer.Option(min=1, max=MAX_LIMIT, help="At most so many.")] = 50,
    offset: Annotated[int, typer.Option(min=0, help="Leave out so many, the newest ones.")] = 0,
    as_of: Annotated[
        str | None, typer.Option("--as-of", metavar="JSON", help="What --json gave as as_of, so that further pages are of the same moment.")
    ] = None,
    personal: Personal = False,
    purpose: Purpose = None,
    reader: ReaderName = None,
    url: Url = None,
    json: Json = False,
) -> None:
    """Entries of the audit trail, newest first; fields in clear, with --personal the sealed ones too.

    Exit code 1 if some of them cannot be read, since somebody has altered them.
    """
    session = session_of(context, url, json)
    asked = _asked(
        (since, until, user, agent, task, workflow, category, severity, outcome, event_type, framework),
        _reader(reader, purpose, personal=personal),
    )
    found = run(_query(session, asked, limit, offset, _sizes(as_of)))
    if session.json:
        say_json(found.page())
    elif not found.entries:
        say("no entries")
    else:
        _table(found)
    for damaged in found.findings:
        note(f"cannot be read: {damaged}")
    if found.findings:
        raise typer.Exit(ExitCode.FINDINGS)


def _table(found: Answer) -> None:
    rows = [
        (
            markup(entry.timestamp.isoformat()[:19]), markup(entry.event_type, "bold"), markup(entry.severity), markup(entry.outcome),
            markup(entry.agent_id or entry.user_id or "-"), markup(clip(_what(entry), 60)), markup(entry.audit_id, "dim"),
        )
        for entry in found.entries
    ]  # fmt: skip
    table(("time", "type", "severity", "outcome", "who", "what", "id"), rows, whole=("time", "id"))
    note(f"{number(len(found.entries))} of {counted(found.total_count, 'entry')}")


async def _query(session: Session, asked: Asked, limit: int, offset: int, as_of: dict[str, int] | None) -> Answer:
    async with trail_of(session) as trail:
        return await trail.query(asked.wanted, limit=limit, offset=offset, as_of=as_of, reader=asked.reader)


def show(  # noqa: PLR0913  # one parameter per option
    context: typer.Context,
    audit_id: Annotated[str, typer.Argument(metavar="AUDIT_ID", help="Which entry.")],
    *,
    personal: Personal = False,
    purpose: Purpose = None,
    reader: ReaderName = None,
    url: Url = None,
    json: Json = False,
) -> None:
    """One entry. Exit code 4 if there is none."""
    session = session_of(context, url, json)
    found = run(_show(session, audit_id, _reader(reader, purpose, personal=personal)))
    if found is None:
        raise CommandError(ExitCode.NOT_FOUND, "there is no such entry", "see 'tallyroll audit query' for those there are")
    shown = found.to_dict()
    if session.json:
        say_json(shown)
        return
    spread((name, _text(value)) for name, value in shown.items() if value not in (None, [], ""))
    if found.erased:
        note("what was erased, or expired, nobody can read any more; the entry's proof stays valid")
    if found.key_lost:
        note("the key ring lacks a key of it, and no erasure says why: put the newest copy of the ring back to read it")
    elif found.encrypted and not personal and not found.erased:
        note("sealed fields are not shown; --personal opens them, which is recorded")


async def _show(session: Session, audit_id: str, reader: Reader) -> AuditEntry | None:
    async with trail_of(session) as trail:
        return await trail.get_audit_entry(audit_id, reader=reader)


def export(  # noqa: PLR0913  # one parameter per option
    context: typer.Context,
    path: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="Where to; standard output if not given.")] = None,
    *,
    form: Annotated[str, typer.Option("--format", help="csv, json (one entry a line), ocsf, or ledger: a zip for the verifier.")] = "json",
    since: Since = None,
    until: Until = None,
    user: User = None,
    agent: Agent = None,
    task: Task = None,
    workflow: Workflow = None,
    category: Category = None,
    severity: Severity = None,
    outcome: Outcome = None,
    event_type: Type = None,
    framework: Framework = None,
    personal: Personal = False,
    purpose: Purpose = None,
    reader: ReaderName = None,
    url: Url = None,
    json: Json = False,
) -> None:
    """Entries for other tools, or the whole ledger for the verifier."""
    session = session_of(context, url, json)
    if form not in ("csv", "json", "ocsf", "ledger"):
        raise CommandError(ExitCode.USAGE, f"--format: there is no {plain(form)}", "write csv, json, ocsf or ledger")
    filters = (since, until, user, agent, task, workflow, category, severity, outcome, event_type, framework)
    if form == "ledger":
        if path is None or any(one is not None for one in filters):
            raise CommandError(ExitCode.USAGE, "a ledger is exported whole, into a file", "give a FILE, and no filter")
        size = run(_export_ledger(session, path, plain=personal))
        say(f"{number(size)} bytes in {plain(path)}")
        return
    count = run(_export(session, _asked(filters, _reader(reader, purpose, personal=personal)), form, path))
    note(counted(count, "entry"))


async def _export_ledger(session: Session, path: Path, *, plain: bool) -> int:
    async with trail_of(session) as trail:
        with Progress("bytes", None, silent=session.json) as bar:
            return await trail.export_ledger(path, plain=plain, progress=lambda _, done: bar.advance_to(done))


async def _export(session: Session, asked: Asked, form: str, path: Path | None) -> int:
    count = 0
    async with trail_of(session) as trail:
        ledger = (await trail.keys()).ledger
        out = sys.stdout if path is None else path.open("w", encoding="utf-8", newline="")
        try:
            with Progress("entries", None, silent=session.json) as bar:
                async for line in _lines(trail.entries(asked.wanted, reader=asked.reader), form, ledger):
                    out.write(line)
                    count += 1
                    bar.advance_to(count)
        finally:
            if path is not None:
                out.close()
    return count - (form == "csv")


async def _lines(entries: AsyncIterator[AuditEntry], form: str, ledger: str) -> AsyncIterator[str]:
    if form == "csv":
        yield "".join(csv_lines([]))
    async for entry in entries:
        if form == "csv":
            yield [*csv_lines([entry])][1]
        else:
            shown = ocsf_event(entry, ledger=ledger) if form == "ocsf" else entry.to_dict()
            yield msgspec.json.encode(shown).decode() + "\n"


def _asked(filters: Iterable[str | None], reader: Reader) -> Asked:
    since, until, user, *others = filters
    if user is not None and PERSONAL not in reader.scopes:
        raise CommandError(ExitCode.USAGE, "--user: who a user is is sealed", "add --personal; that you looked is recorded")
    try:
        return Asked(Wanted(moment_of(since, "--since"), moment_of(until, "--until"), user, *others), reader)
    except ValueError as error:
        raise CommandError(ExitCode.USAGE, str(error), "see --help") from None


def _reader(name: str | None, purpose: str | None, *, personal: bool) -> Reader:
    return Reader(name or getpass.getuser(), frozenset({PERSONAL}) if personal else frozenset(), purpose)


def _sizes(text: str | None) -> dict[str, int] | None:
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=dict[str, int])
    except msgspec.MsgspecError:
        raise CommandError(ExitCode.USAGE, "--as-of: not what --json gave", 'write it as it stands there: {"0":17,"65535":3}') from None


def _what(entry: AuditEntry) -> str:
    return entry.description or f"{entry.action}{' (key lost)' if entry.key_lost else ' (sealed)' if entry.encrypted else ''}"


def _text(value: Any) -> str:  # noqa: ANN401  # any field
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()

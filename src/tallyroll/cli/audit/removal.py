"""``tallyroll audit erase|resume|retain|hold|release|holds``: forgetting people, retention, and what stands against both."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import msgspec
import typer

from tallyroll.audit.removal.erasure import ErasureReceipt
from tallyroll.audit.removal.retention import RetentionRun
from tallyroll.audit.removal.standing import Hold, Standing
from tallyroll.cli.exits import CommandError, ExitCode
from tallyroll.cli.printing import counted, markup, note, plain, say, say_json, spread, table
from tallyroll.cli.session import Json, Session, Url, confirm, examples, run, session_of
from tallyroll.events.event import iso

_ERASE: Final = examples(
    "tallyroll audit erase cust-123 --reason 'ticket 4711' --yes",
    "tallyroll audit erase - < person.txt     # keeps the id out of the shell's history",
)
_HOLD: Final = examples(
    "tallyroll audit hold --subject cust-123 --who counsel --why 'case 7'",
    "tallyroll audit hold --partition 3 --who counsel --why 'case 7'",
)
_RELEASE: Final = examples("tallyroll audit release 01a2… --who counsel --why 'case 7 is closed'")
_HOLDS: Final = examples("tallyroll audit holds", "tallyroll audit holds --json")
_RETAIN: Final = examples("tallyroll audit retain", "tallyroll audit retain --prune --operator night-job --json")
_RESUME: Final = examples("tallyroll audit resume")

_STATES: Final = {
    "done": "forgotten",
    "restricted": "not erased: {restricted} stands against it. Nobody sees it any more",
    "pending": "forgotten here, and not yet by: {pending}. Ask again",
    "incomplete": "forgotten as far as it can be read: {unread} cannot, and nobody can say what is in there: {unread_at}",
    "nothing_found": "nothing is sealed about this person, or it is erased already",
}

Who = Annotated[str, typer.Option("--who", help="Who orders it; kept in clear and for ever, so a role rather than a name.")]
Why = Annotated[str, typer.Option("--why", help="Why; kept in clear and for ever, so a case number rather than a story.")]


def add_to(app: typer.Typer) -> None:
    """Adds the commands of this module to a collection."""
    app.command(epilog=_ERASE)(erase)
    app.command(epilog=_RESUME)(resume)
    app.command(epilog=_RETAIN)(retain)
    app.command(epilog=_HOLD)(hold)
    app.command(epilog=_RELEASE)(release)
    app.command(epilog=_HOLDS)(holds)


def erase(  # noqa: PLR0913  # one parameter per option
    context: typer.Context,
    subject: Annotated[str, typer.Argument(metavar="SUBJECT", help="The id that their data was sealed under; - reads it from stdin.")],
    *,
    reason: Annotated[str, typer.Option(help="Kept in the trail, sealed; must not name the person.")] = "request",
    operator: Annotated[str | None, typer.Option(help="Who does it; kept in the trail, sealed.")] = None,
    shallow: Annotated[bool, typer.Option("--shallow", help="Do not look into texts about others and about nobody known.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    url: Url = None,
    json: Json = False,
) -> None:
    """Forget a person: destroy their keys and remove what was sealed about them. Every proof stays valid.

    A hold, or a law that binds you, stands against it: then nothing is destroyed, nobody sees it any more, and the exit code
    is 1. So it is where records are damaged: what is in them cannot be told, and the rest is forgotten.
    What was published in clear stays in its topic until the topic's retention.
    """
    session = session_of(context, url, json)
    name = sys.stdin.read().strip() if subject == "-" else subject
    if not name:
        raise CommandError(ExitCode.USAGE, "no subject was given", "name one, or write it to stdin")
    if name in reason:
        raise CommandError(ExitCode.USAGE, "--reason names the person, and would be kept", "write a ticket's number instead")
    confirm("Destroy this person's keys and everything sealed under them, for good?", yes=yes)
    receipt = run(_erase(session, name, reason, operator, deep=not shallow))
    if session.json:
        say_json(msgspec.to_builtins(receipt))
    else:
        _show_receipt(receipt)
    if receipt.state in ("restricted", "pending", "incomplete") or receipt.unread:
        raise typer.Exit(ExitCode.FINDINGS)


async def _erase(session: Session, subject: str, reason: str, operator: str | None, *, deep: bool) -> ErasureReceipt:
    async with session.roll() as roll:
        return await roll.audit.anonymize_subject_data(subject, reason=reason, operator=operator, deep=deep)


def _show_receipt(receipt: ErasureReceipt) -> None:
    unread, at = counted(receipt.unread, "record"), ", ".join(receipt.unread_at[:20])
    say(_STATES[receipt.state].format(restricted=receipt.restricted, pending=", ".join(receipt.pending), unread=unread, unread_at=at))
    if receipt.unread:
        note(f"{unread} could not be read; 'tallyroll audit verify' says what is wrong, then put back a copy and ask again")
    facts = {
        "request": receipt.request_id, "entries": receipt.entries, "parts removed": receipt.parts_removed,
        "keys destroyed": receipt.keys_destroyed, "named in clear": receipt.in_clear, "copies of keys until": receipt.copies_until,
    }  # fmt: skip
    spread([(name, plain(str(value))) for name, value in facts.items() if value])
    if receipt.certificate is not None:
        say()
        say("\n".join(map(plain, receipt.certificate.splitlines())))  # a signed note: its lines are what was signed
        note("rotate the keys, and no older copy of the ring can bring these back: tallyroll audit keys rotate")


def resume(context: typer.Context, *, url: Url = None, json: Json = False) -> None:
    """End erasures that were cut short, or that a restored backup has undone."""
    session = session_of(context, url, json)
    requests = run(_resume(session))
    if session.json:
        say_json({"resumed": requests})
    else:
        say(f"{counted(len(requests), 'erasure')} resumed")


async def _resume(session: Session) -> list[str]:
    async with session.roll() as roll:
        return await roll.audit.resume_erasures()


def retain(
    context: typer.Context,
    *,
    operator: Annotated[str, typer.Option(help="Who runs it; kept in clear and for ever.")] = "retention",
    prune: Annotated[bool, typer.Option("--prune", help="Remove whole beginnings of the ledger too, where all is past its day.")] = False,
    url: Url = None,
    json: Json = False,
) -> None:
    """Remove what is past its day: bodies, personal parts, and what erasures have left. Run it every night.

    What a hold covers stays. Hashes, and what is needed to prove the rest, stay.
    """
    session = session_of(context, url, json)
    found = run(_retain(session, operator, prune=prune))
    if session.json:
        say_json(msgspec.to_builtins(found))
        return
    say(f"{counted(found.bodies, 'expired record')} and {counted(found.personal_parts, 'personal part')} removed")
    rest = {"held": found.held, "left by erasures": found.swept, "pruned": sum(found.pruned.values())}
    spread([(name, str(value)) for name, value in rest.items() if value])


async def _retain(session: Session, operator: str, *, prune: bool) -> RetentionRun:
    async with session.roll() as roll:
        return await roll.audit.apply_retention(operator=operator, prune=prune)


def hold(  # noqa: PLR0913  # one parameter per option
    context: typer.Context,
    *,
    who: Who,
    why: Why,
    subject: Annotated[str | None, typer.Option(help="What is sealed about this person; - reads the id from stdin.")] = None,
    partition: Annotated[int | None, typer.Option(min=0, help="A partition of the ledger.")] = None,
    start: Annotated[int, typer.Option(min=0, help="From this record of the partition on.")] = 0,
    end: Annotated[int | None, typer.Option(min=1, help="Up to this record, which is not covered.")] = None,
    url: Url = None,
    json: Json = False,
) -> None:
    """From now on keep what this covers, whatever retention and erasure say: a person's, a stretch, or without options everything."""
    session = session_of(context, url, json)
    name = sys.stdin.read().strip() if subject == "-" else subject
    ids = run(_hold(session, who=who, why=why, subject_id=name, partition=partition, start=start, end=end))
    if session.json:
        say_json({"holds": ids})
    else:
        say("\n".join(map(plain, ids)))


async def _hold(session: Session, **covers: Any) -> list[str]:  # noqa: ANN401  # handed on
    async with session.roll() as roll:
        try:
            return await roll.audit.set_hold(**covers)
        except ValueError as error:
            raise CommandError(ExitCode.USAGE, str(error), "see --partition, --start and --end in --help") from None
        except LookupError as error:
            raise CommandError(ExitCode.NOT_FOUND, str(error), "hold a stretch or everything instead") from None


def release(  # noqa: PLR0913  # one parameter per option
    context: typer.Context,
    hold_id: Annotated[str, typer.Argument(metavar="HOLD", help="As 'tallyroll audit holds' lists it.")],
    *,
    who: Who,
    why: Why,
    url: Url = None,
    json: Json = False,
) -> None:
    """End a hold, and those that were set with it."""
    session = session_of(context, url, json)
    ids = run(_release(session, hold_id, who, why))
    if session.json:
        say_json({"released": ids})
    else:
        say(f"{counted(len(ids), 'hold')} released")


async def _release(session: Session, hold_id: str, who: str, why: str) -> list[str]:
    async with session.roll() as roll:
        try:
            return await roll.audit.release_hold(hold_id, who=who, why=why)
        except LookupError as error:
            raise CommandError(ExitCode.NOT_FOUND, str(error), "'tallyroll audit holds' lists those that are") from None


def holds(context: typer.Context, *, url: Url = None, json: Json = False) -> None:
    """Holds in force, erasures that are restricted or cut short, and how far the ledger is pruned."""
    session = session_of(context, url, json)
    standing = run(_standing(session))
    held = [_shown(one) for one in standing.holds.values()]
    restricted = {request: asked.restricted for request, asked in standing.asked.items() if asked.restricted}
    pruned = {partition: env["size"] for partition, env in standing.pruned.items()}
    if session.json:
        say_json({"holds": held, "restricted": restricted, "pending": sorted(standing.pending), "pruned": pruned})
        return
    if held:
        columns = list(held[0])
        table(columns, [[markup("-" if one[name] is None else one[name]) for name in columns] for one in held], whole=("hold",))
    cut = len(standing.pending)
    say(f"{counted(len(held), 'hold')}, {counted(len(restricted), 'restricted erasure')}, {counted(cut, 'erasure')} cut short")
    if standing.pending:
        note("tallyroll audit resume ends what was cut short")


def _shown(one: Hold) -> dict[str, Any]:
    since = iso(datetime.fromtimestamp(one.since_us / 1_000_000, UTC))
    handle = None if one.handle is None else one.handle.hex()
    covers = {"partition": one.partition, "start": one.start, "end": one.end, "handle": handle}
    return {"hold": one.hold_id, "since": since, **covers, "who": one.who, "why": one.why}


async def _standing(session: Session) -> Standing:
    async with session.roll() as roll:
        return await roll.audit.standing()

"""``tallyroll audit begin-anew``: goes on where the ledger is lost."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from tallyroll.cli.exits import CommandError, ExitCode
from tallyroll.cli.printing import counted, note, say, say_json
from tallyroll.cli.session import Json, Session, Url, confirm, examples, run, session_of
from tallyroll.events.position import TopicPartition

_BEGIN: Final = examples("tallyroll audit begin-anew --who operations --why 'ticket 4711: the disk is lost' --yes")


def add_to(app: typer.Typer) -> None:
    """Adds the command of this module to a collection."""
    app.command(epilog=_BEGIN)(begin_anew)


def begin_anew(  # noqa: PLR0913  # one parameter per option
    context: typer.Context,
    *,
    who: Annotated[str, typer.Option("--who", help="Who orders it; kept in the trail.")],
    why: Annotated[str, typer.Option("--why", help="Why; kept in the trail.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    url: Url = None,
    json: Json = False,
) -> None:
    """Accept that the ledger is lost, and make another one of what the log still has.

    The sealer stops where the log knows of a ledger that is not there. Look first whether a disk is not mounted, and for a copy:
    the new ledger is another history, which a witness, and who kept a checkpoint of the lost one, will not take for the same.
    It says of itself that it is new. Exit code 4 where nothing is missing.
    """
    session = session_of(context, url, json)
    confirm("Give the lost ledger up, and begin another one?", yes=yes)
    gone = run(_begin(session, who, why))
    if not gone:
        raise CommandError(ExitCode.NOT_FOUND, "nothing is missing: the log knows of no ledger that is not there", "see 'audit verify'")
    if session.json:
        say_json({"partitions": [str(one) for one in gone]})
    else:
        say(f"{counted(len(gone), 'partition')} of the log will be sealed anew")
        note("'tallyroll run audit' does it; keep what is left of the old ledger, its exports and checkpoints")


async def _begin(session: Session, who: str, why: str) -> list[TopicPartition]:
    async with session.roll() as roll:
        return await roll.audit.begin_anew(who=who, why=why)

"""``tallyroll lag``: how far the stored state is behind the log."""

from __future__ import annotations

from typing import Annotated

import typer

from tallyroll.cli.exits import ExitCode
from tallyroll.cli.printing import counted, markup, number, say, say_json, table
from tallyroll.cli.session import Json, Session, Url, examples, run, session_of, verbs
from tallyroll.roll import Lag

app = verbs()


@app.command(epilog=examples("tallyroll lag", "tallyroll lag --max 1000      # exit code 1 when it is more: for a probe"))
def lag(
    context: typer.Context,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Also partitions that are up to date.")] = False,
    limit: Annotated[
        int | None,
        typer.Option(
            "--max", min=0, metavar="N", help="Exit code 1 when more records than that are waiting, or the state is ahead of the log."
        ),
    ] = None,
    url: Url = None,
    json: Json = False,
) -> None:
    """How many records of each partition the stored state does not contain yet. Reads only."""
    session = session_of(context, url, json)
    found = run(_lag(session))
    total, ahead = sum(one.records for one in found), [one for one in found if one.ahead]
    if session.json:
        say_json(
            {
                "records": total,
                "ahead": [str(one.partition) for one in ahead],
                "partitions": [
                    {
                        "follower": one.follower,
                        "partition": str(one.partition),
                        "stored": one.stored,
                        "end": one.end,
                        "records": one.records,
                    }
                    for one in found
                ],
            }
        )
    else:
        shown = [one for one in found if everything or one.records or one.ahead]
        if shown:
            rows = [
                (
                    one.follower,
                    markup(one.partition),
                    "-" if one.stored is None else number(one.stored),
                    number(one.end),
                    number(one.records),
                )
                for one in shown
            ]
            table(("follower", "partition", "stored", "end", "behind"), rows, right=("stored", "end", "behind"))
        if ahead:
            say("state: ahead of the log, which is an older copy, or another; 'tallyroll doctor' says what to do")
        else:
            say(f"state: {counted(total, 'record')} behind" if total else "state: up to date")
    if limit is not None and (total > limit or ahead):
        raise typer.Exit(ExitCode.FINDINGS)


async def _lag(session: Session) -> list[Lag]:
    async with session.roll() as roll:
        return await roll.lag()

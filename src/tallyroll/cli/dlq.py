"""``tallyroll dlq``: what a follower could not apply, and how it gets in after all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final, NamedTuple

import typer

from tallyroll.cli.exits import CommandError, ExitCode
from tallyroll.cli.freshness import behind, follow_until
from tallyroll.cli.moments import age
from tallyroll.cli.printing import counted, markup, note, number, paint, plain, say, say_json, spread, table
from tallyroll.cli.session import Json, Session, Url, examples, group_of, run, session_of, verbs
from tallyroll.cli.states import AllowTruncated
from tallyroll.events.event import iso
from tallyroll.events.ids import utc_now
from tallyroll.events.topics import Catalogue
from tallyroll.follow.deadletter import Letter, count_by_reason, partitions_of
from tallyroll.replay.partition import PartitionFold
from tallyroll.replay.views import FOLD
from tallyroll.roll import STATE_FOLLOWER

app = verbs()
group_of(app, "Dead letters: what a follower could not apply.", "tallyroll dlq ls", "tallyroll dlq redrive --yes")

_SHOWN_ID: Final = 12  # characters of an id, of 32
_MOST_NAMED: Final = 5  # letters, in one line of an error

FollowerName = Annotated[str | None, typer.Option("--follower", help="Only letters of this follower.")]


class Checked(NamedTuple):
    """A letter, and why its record would be refused again now; None if it would be applied."""

    letter: Letter
    refusal: str | None


@app.command("ls", epilog=examples("tallyroll dlq ls", "tallyroll dlq ls --follower state --json"))
def list_letters(
    context: typer.Context,
    *,
    follower: FollowerName = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest ones.")] = 50,
    url: Url = None,
    json: Json = False,
) -> None:
    """The letters still kept, newest last.

    Where the record lies, why it was put aside, and whether the state follower would apply it now.
    """
    session = session_of(context, url, json)
    found = run(_check(session, follower))
    if session.json:
        for one in found[-limit:]:
            say_json(_document(one))
        return
    if not found:
        say("no dead letters")
        return
    now = utc_now()
    rows = [
        (
            one.letter.info.id[:_SHOWN_ID],
            markup(one.letter.info.follower),
            markup(one.letter.position),
            markup(one.letter.info.reason, "red"),
            markup(one.letter.info.error),
            age(one.letter.last_at, now),
            markup("applies", "green") if one.refusal is None else markup(one.refusal),
        )
        for one in found[-limit:]
    ]
    table(("letter", "follower", "record", "reason", "error", "put aside", "now"), rows)
    counts = count_by_reason([one.letter for one in found])
    note("; ".join(f"{who}: {reason} × {number(count)}" for (who, reason), count in sorted(counts.items())))


@app.command(epilog=examples("tallyroll dlq show 3fa9c2d1", "tallyroll dlq show task-events/3/41 --raw"))
def show(  # one parameter per option
    context: typer.Context,
    which: Annotated[
        str, typer.Argument(metavar="LETTER|POSITION", help="The begin of a letter's id, or the record's topic/partition/offset.")
    ],
    *,
    raw: Annotated[bool, typer.Option("--raw", help="The record's value, byte for byte, and nothing else.")] = False,
    url: Url = None,
    json: Json = False,
) -> None:
    """One letter: what is known of it, and the record as it was."""
    session = session_of(context, url, json)
    matching = [one for one in run(_check(session, None)) if which == str(one.letter.position) or one.letter.info.id.startswith(which)]
    if not matching:
        raise CommandError(ExitCode.NOT_FOUND, f"no dead letter {plain(which)}", "'tallyroll dlq ls' lists those that are kept")
    if len(matching) > 1:
        raise _ambiguous(which, [one.letter for one in matching])
    one = matching[0]
    value = one.letter.value or b""
    if raw:
        typer.echo(value, nl=False)
    elif session.json:
        say_json({**_document(one), "value": value.decode(errors="replace")})
    else:
        spread((name, content) for name, content in _document(one).items() if content not in (None, "", []))
        say()
        say(f"{paint('value', 'dim')}  {number(len(value))} bytes")
        say(plain(value.decode(errors="replace")))


@app.command(epilog=examples("tallyroll dlq redrive      # says what would happen", "tallyroll dlq redrive --yes"))
def redrive(  # noqa: PLR0913  # one parameter per option
    context: typer.Context,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without it only a look.")] = False,
    wait: Annotated[float, typer.Option("--wait", min=0, metavar="S", help="How long to follow until the states are made anew.")] = 600.0,
    allow_truncated: AllowTruncated = False,
    url: Url = None,
    json: Json = False,
) -> None:
    """Bring records in that would be applied now.

    For instance after an upgrade.

    A state is only right when its records are applied in the order of the log. So nothing is published again: the stored
    states of the partitions concerned are made anew from the log. Dead letters stay where they are, as a record of what happened.
    """
    session = session_of(context, url, json)
    found = run(_check(session, STATE_FOLLOWER))
    ready = [one for one in found if one.refusal is None]
    partitions = sorted(partitions_of([one.letter for one in ready]))
    left = run(_rebuild(session, ready, wait_s=wait, allow_truncated=allow_truncated)) if yes and ready else None
    if session.json:
        say_json(
            {
                "letters": len(found),
                "would_apply": len(ready),
                "partitions": [str(one) for one in partitions],
                "done": left == 0,
                "behind": left,
            }
        )
    else:
        say(f"{counted(len(found), 'letter')} of the state follower, {number(len(ready))} of them would be applied now")
        for partition in partitions:
            say(f"  {partition}: its states {'are made' if yes else 'would be made'} anew from the log")
        if ready and not yes:
            note("nothing was done; add --yes")
        elif left == 0:
            say("done: the stored states contain these records")
    if left:
        raise CommandError(
            ExitCode.UNAVAILABLE,
            f"{number(left)} records are still to be applied",
            "another process holds their partitions: restart 'tallyroll run'",
        )


def _ambiguous(which: str, letters: Sequence[Letter]) -> CommandError:
    shown = ", ".join(f"{one.info.id[:_SHOWN_ID]} ({plain(one.info.follower)}, {one.position})" for one in letters[:_MOST_NAMED])
    left = f" and {number(len(letters) - _MOST_NAMED)} more" if len(letters) > _MOST_NAMED else ""
    what = f"{plain(which)} is ambiguous, it may be {counted(len(letters), 'letter')}: {shown}{left}"
    return CommandError(ExitCode.USAGE, what, "give more of the id of the one that you mean; 'tallyroll dlq ls' lists them")


async def _check(session: Session, follower: str | None) -> list[Checked]:
    async with session.roll() as roll:
        return [Checked(letter, _refusal(letter, roll.catalogue)) async for letter in roll.dead_letters(follower)]


def _refusal(letter: Letter, catalogue: Catalogue) -> str | None:
    """Why the state follower would put the record aside again; None if it would apply it."""
    if letter.info.follower != STATE_FOLLOWER:
        return "not the state follower's"
    topic = catalogue.named(letter.info.topic)
    if topic is None:
        return "its topic is not in the catalogue"
    if letter.info.reason.endswith("bytes_left_in_source"):
        return "too large for a letter; look at the record itself"
    fold = PartitionFold(FOLD, topic.name, topic.base, letter.info.partition)
    refused = [one.reason for one in fold.apply(letter.batch()).found if one.error]
    return refused[0] if refused else None


async def _rebuild(session: Session, ready: list[Checked], *, wait_s: float, allow_truncated: bool) -> int:
    """How many records are still to be applied at the end."""
    async with session.roll() as roll:
        await roll.rebuild_state(partitions_of([one.letter for one in ready]), allow_truncated=allow_truncated)
        return (await follow_until(roll, await behind(roll), wait_s)).records


def _document(one: Checked) -> dict[str, Any]:
    info = one.letter.info
    return {
        "letter": info.id,
        "follower": info.follower,
        "record": str(one.letter.position),
        "reason": info.reason,
        "error": info.error,
        "attempts": info.attempts,
        "last_at": iso(one.letter.last_at),
        "version": info.version,
        "applies_now": one.refusal is None,
        "refusal_now": one.refusal,
    }

"""``tallyroll replay step|diff|find|what-if``: how one state came to be, event by event."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import msgspec
import typer

from tallyroll.cli.event_lines import facts
from tallyroll.cli.exits import CommandError, ExitCode
from tallyroll.cli.printing import counted, markup, note, number, paint, plain, say, say_json, table
from tallyroll.cli.replay.asking import AllowTruncated, AsOf, At, Kind, Owner, moment_or_offsets, target_of, view_named
from tallyroll.cli.replay.changed import both_shown, path_shown, value_shown
from tallyroll.cli.session import Json, Session, Url, examples, run, session_of
from tallyroll.errors import InvalidEvent
from tallyroll.events.event import iso
from tallyroll.events.recorded import RecordedEvent
from tallyroll.replay.differences import MISSING, Change
from tallyroll.replay.engine import ReplayEngine
from tallyroll.replay.fold import View
from tallyroll.replay.history import History
from tallyroll.replay.plan import AsOfEventTime, AsOfOffsets, Target
from tallyroll.replay.predicate import parse_predicate
from tallyroll.replay.steps import Step, explain, first_true, steps
from tallyroll.replay.whatif import Drop, Edit, Replace, what_if

_MAX_SHOWN = 4  # changes of a step on one line


def add_to(app: typer.Typer) -> None:
    """Adds the commands of this module to a collection."""
    app.command(epilog=_STEP)(step)
    app.command("diff", epilog=_DIFF)(diff_)
    app.command(epilog=_FIND)(find)
    app.command("what-if", epilog=_WHAT_IF)(what_if_)


_STEP = examples("tallyroll replay step task task-7", "tallyroll replay step agent coder-001 --last 20 --json")
_DIFF = examples(
    "tallyroll replay diff agent coder-001 --since 2h", "tallyroll replay diff task task-7 --since 2026-01-05T10:00:00Z --until 1h"
)
_FIND = examples(
    "tallyroll replay find task task-7 'status == \"failed\"'",
    "tallyroll replay find agent coder-001 'tokens > 100000' --monotone   # halves the search over snapshots",
)
_WHAT_IF = examples(
    "tallyroll replay what-if task task-7 --drop EVENT_ID", "tallyroll replay what-if task task-7 --set 'EVENT_ID={\"tokens\":0}'"
)


def step(  # noqa: PLR0913  # one parameter per option
    context: typer.Context,
    kind: Kind,
    owner: Owner,
    *,
    at: At = None,
    as_of: AsOf = None,
    last: Annotated[int | None, typer.Option(min=1, metavar="N", help="Only the newest N events.")] = None,
    allow_truncated: AllowTruncated = False,
    url: Url = None,
    json: Json = False,
) -> None:
    """Each event that counted, in the order of the fold, and what it changed; with --json also the state after it."""
    session, view = session_of(context, url, json), view_named(kind)
    found = run(_steps(session, view, owner, target_of(at, as_of), last, allow_truncated=allow_truncated))
    if not found:
        note(f"none of its events counts for a {view.name}; 'tallyroll replay state' says what is wrong with them")
    for one in found:
        if session.json:
            say_json({"number": one.number, **_event(one.event), "changes": _changes(one.changes), "state": one.state})
        else:
            say(f"{paint(f'{one.number:>6}', 'dim')}  {_line(one.event)}  {paint(_brief(one.changes), 'cyan')}")


async def _steps(  # noqa: PLR0913  # as above
    session: Session, view: View, owner: str, target: Target | None, last: int | None, *, allow_truncated: bool
) -> Sequence[Step]:
    async with session.roll() as roll:
        engine = await roll.replay_engine()
        found = await _history(engine, view, owner, target, allow_truncated=allow_truncated)
        return deque(steps(engine.reduction(view, owner), found.rows), maxlen=last)


def diff_(  # noqa: PLR0913  # one parameter per option
    context: typer.Context,
    kind: Kind,
    owner: Owner,
    *,
    since: Annotated[str, typer.Option("--since", metavar="WHEN", help="The earlier moment, or offsets as for --as-of.")],
    until: Annotated[str | None, typer.Option("--until", metavar="WHEN", help="The later one; now if not given.")] = None,
    allow_truncated: AllowTruncated = False,
    url: Url = None,
    json: Json = False,
) -> None:
    """What changed between two moments, and which events did it."""
    session, view = session_of(context, url, json), view_named(kind)
    found = run(_explained(session, view, owner, since, until, allow_truncated=allow_truncated))
    if session.json:
        for one in found:
            say_json({"path": one.path, "old": _value(one.old), "new": _value(one.new), "events": [_event(event) for event in one.events]})
        return
    if not found:
        say("nothing changed")
        return
    rows = []
    for one in found:
        old, new = both_shown(one.path, one.old, one.new)
        last = str(one.events[-1].position) if one.events else "-"
        rows.append((markup(path_shown(one.path), "bold"), markup(old, "red"), markup(new, "green"), number(len(one.events)), markup(last)))
    table(("what", "then", "later", "events", "the last one at"), rows, right=("events",))


async def _explained(  # noqa: PLR0913  # as above
    session: Session, view: View, owner: str, since: str, until: str | None, *, allow_truncated: bool
) -> Any:  # noqa: ANN401  # a list of Explained
    async with session.roll() as roll:
        engine = await roll.replay_engine()
        later = None if until is None else moment_or_offsets(until, "--until")
        found = await _history(engine, view, owner, later, allow_truncated=allow_truncated)
        earlier = moment_or_offsets(since, "--since")
        if later is not None and _is_after(earlier, later):
            raise CommandError(ExitCode.USAGE, "--since is later than --until", "give the earlier moment to --since")
        moment = earlier.ends if isinstance(earlier, AsOfOffsets) else earlier.moment
        return explain(engine.reduction(view, owner), found.rows, moment, found.as_of)


def _is_after(one: Target, other: Target) -> bool:
    """Whether a moment is known to be later than another; of a time and offsets nobody knows."""
    if isinstance(one, AsOfEventTime) and isinstance(other, AsOfEventTime):
        return one.moment > other.moment
    if isinstance(one, AsOfOffsets) and isinstance(other, AsOfOffsets):
        return any(end > other.ends.get(partition, 0) for partition, end in one.ends.items())
    return False


def find(  # noqa: PLR0913  # one parameter per option
    context: typer.Context,
    kind: Kind,
    owner: Owner,
    predicate: Annotated[str, typer.Argument(metavar="PREDICATE", help='Such as: status == "failed" and tokens > 1000')],
    *,
    monotone: Annotated[bool, typer.Option("--monotone", help="Once true it stays true: search the snapshots by halves first.")] = False,
    allow_truncated: AllowTruncated = False,
    url: Url = None,
    json: Json = False,
) -> None:
    """The first event after which something was true. Exit code 4 if it never was."""
    session, view = session_of(context, url, json), view_named(kind)
    try:
        asked = parse_predicate(predicate)
    except ValueError as error:
        raise CommandError(ExitCode.USAGE, str(error), "paths are those of 'tallyroll replay step … --json'") from None
    there = [*view.fields, "version", "last_updated_us"]
    if unknown := sorted(asked.members.difference(there)):
        raise CommandError(ExitCode.USAGE, f"states of this kind have no {plain(', '.join(unknown))}", f"they have {', '.join(there)}")

    async def look() -> Any:  # noqa: ANN401  # a FirstTrue
        async with session.roll() as roll:
            engine = await roll.replay_engine()
            found = await _history(engine, view, owner, None, allow_truncated=allow_truncated)
            boundaries = await engine.boundaries(view, owner, found) if monotone else []
            return first_true(asked, engine.reduction(view, owner), found.rows, monotone=monotone, boundaries=boundaries)

    result = run(look())
    if result.step is None:
        raise CommandError(
            ExitCode.NOT_FOUND, f"never true of this {view.name}, in {counted(result.evaluated, 'state')}", "see 'tallyroll replay step'"
        )
    if session.json:
        say_json({"number": result.step.number, **_event(result.step.event), "exact": result.exact, "evaluated": result.evaluated,
                  "changes": _changes(result.step.changes), "state": result.step.state})  # fmt: skip
        return
    how = "every state looked at" if result.exact else "searched by halves, exact only if it never turned false again"
    say(f"{paint(f'{result.step.number:>6}', 'dim')}  {_line(result.step.event)}  {paint(_brief(result.step.changes), 'cyan')}")
    say(paint(f"{how}; {counted(result.evaluated, 'state')} evaluated; at {result.step.event.position}", "dim"))


def what_if_(  # noqa: PLR0913  # one parameter per option
    context: typer.Context,
    kind: Kind,
    owner: Owner,
    *,
    drop: Annotated[
        list[str] | None, typer.Option("--drop", metavar="EVENT_ID", help="As if it had not been published. Repeatable.")
    ] = None,
    replace: Annotated[
        list[str] | None, typer.Option("--set", metavar="EVENT_ID=JSON", help="As if its payload had been this. Repeatable.")
    ] = None,
    allow_truncated: AllowTruncated = False,
    url: Url = None,
    json: Json = False,
) -> None:
    """The state as it would be with events dropped or changed; in memory only, nothing is published or stored."""
    session, view = session_of(context, url, json), view_named(kind)
    edits: list[Edit] = [*(Drop(one) for one in drop or ()), *(_replacement(one) for one in replace or ())]
    if not edits:
        raise CommandError(ExitCode.USAGE, "nothing is edited", "give --drop EVENT_ID or --set EVENT_ID=JSON")

    async def imagine() -> Any:  # noqa: ANN401  # a Hypothesis
        async with session.roll() as roll:
            engine = await roll.replay_engine()
            found = await _history(engine, view, owner, None, allow_truncated=allow_truncated)
            return what_if(engine.reduction(view, owner), found.rows, edits)

    try:
        found = run(imagine())
    except (ValueError, InvalidEvent) as error:
        raise CommandError(ExitCode.USAGE, str(error), "'tallyroll replay step … --json' shows the ids") from None
    if session.json:
        say_json({"hypothetical": True, "changes": _changes(found.changes), "state": found.state, "truth": found.truth})
        return
    say(paint("hypothetical; nothing was changed", "yellow"))
    rows = []
    for one in found.changes:
        truth, imagined = both_shown(one.path, one.old, one.new)
        rows.append((markup(path_shown(one.path), "bold"), markup(truth), markup(imagined, "yellow")))
    table(("what", "truth", "as it would be"), rows)


async def _history(engine: ReplayEngine, view: View, owner: str, target: Any, *, allow_truncated: bool) -> History:  # noqa: ANN401  # a Target
    return await engine.history(view, owner, target, allow_truncated=allow_truncated)


def _replacement(text: str) -> Replace:
    event_id, equals, payload = text.partition("=")
    try:
        if not equals:
            raise ValueError("no =")  # noqa: TRY301  # told below
        return Replace(event_id, payload=msgspec.json.decode(payload, type=dict[str, Any]))
    except (ValueError, msgspec.MsgspecError):
        raise CommandError(
            ExitCode.USAGE, "--set: expected EVENT_ID=JSON with a JSON object", "write --set 'EVENT_ID={\"tokens\":0}'"
        ) from None


def _event(event: RecordedEvent) -> dict[str, Any]:
    return {
        "position": str(event.position),
        "event_id": event.event_id,
        "event_type": str(event.event_type),
        "timestamp": iso(event.timestamp),
    }


def _line(event: RecordedEvent) -> str:
    said = " · ".join(facts(event.event))
    return f"{iso(event.timestamp)[:23]}Z  {plain(event.event_type):<19}  {plain(event.aggregate_id)}  {said}"


def _brief(changes: Iterable[Change]) -> str:
    shown = [
        f"{path_shown(one.path)}={value_shown(one.path, one.new)}" for one in changes if one.path not in ("version", "last_updated_us")
    ]
    return " ".join(shown[:_MAX_SHOWN]) + (f" +{len(shown) - _MAX_SHOWN}" if len(shown) > _MAX_SHOWN else "")


def _changes(changes: Iterable[Change]) -> list[dict[str, Any]]:
    return [{"path": one.path, "old": _value(one.old), "new": _value(one.new)} for one in changes]


def _value(value: Any) -> Any:  # noqa: ANN401  # any value of a state, or that there is none
    return None if value is MISSING else value

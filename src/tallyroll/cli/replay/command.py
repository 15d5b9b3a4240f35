"""``tallyroll replay``: states made from the history alone, and questions about how they came to be."""

from __future__ import annotations

from typing import Annotated, Any, get_args

import typer

from tallyroll.cli.exits import CommandError, ExitCode
from tallyroll.cli.freshness import catch_up
from tallyroll.cli.printing import counted, markup, number, paint, plain, say, say_json, spread, table
from tallyroll.cli.progress import Progress
from tallyroll.cli.replay import asked, proving, restoring
from tallyroll.cli.replay.asking import (
    AllowTruncated,
    AsOf,
    At,
    Kind,
    Owner,
    Policies,
    Strict,
    footing,
    policy_of,
    target_of,
    view_named,
)
from tallyroll.cli.session import Json, Session, Url, examples, group_of, moment_of, run, session_of, verbs
from tallyroll.cli.states import readable, status_style
from tallyroll.replay.differences import MISSING, Difference
from tallyroll.replay.engine import answer
from tallyroll.replay.fold import View, state_hash
from tallyroll.replay.kinds import StateType
from tallyroll.replay.plan import ReplayFilter, ReplayMode, Target
from tallyroll.replay.policy import Validation
from tallyroll.replay.replayed import Progress as Told
from tallyroll.replay.replayed import Replayed
from tallyroll.replay.replayer import Ask, Source

app = verbs()
group_of(
    app,
    "States from the history alone, at any moment, and how they came to be. Nothing here writes or publishes anything.",
    "tallyroll replay run agent --mode incremental",
    "tallyroll replay state agent coder-001 --at 2h",
    "tallyroll replay find task task-7 'status == \"failed\"'",
)

_HASH_SHOWN = 16
_CATCH_UP_S = 10.0  # on the embedded log, where nobody may have followed yet


@app.command(
    "run",
    epilog=examples(
        "tallyroll replay run agent",
        "tallyroll replay run task --mode parallel --workers 2 --columnar",
        "tallyroll replay run agent --at 2026-01-05T10:00:00Z --states --json",
        "tallyroll replay run task --type task.failed --since 1d   # only these events",
    ),
)
def run_(  # noqa: PLR0913  # one parameter per option
    context: typer.Context,
    kind: Kind,
    *,
    mode: Annotated[str | None, typer.Option(help=f"One of {', '.join(ReplayMode)}; chosen by the other options if not given.")] = None,
    at: At = None,
    as_of: AsOf = None,
    types: Annotated[list[str] | None, typer.Option("--type", metavar="TYPE", help="Only events of this type. Repeatable.")] = None,
    aggregates: Annotated[
        list[str] | None, typer.Option("--aggregate", metavar="TYPE:ID", help="Only events of this aggregate. Repeatable.")
    ] = None,
    users: Annotated[list[str] | None, typer.Option("--user", metavar="ID", help="Only events of this user. Repeatable.")] = None,
    correlations: Annotated[list[str] | None, typer.Option("--correlation", metavar="ID", help="Only these. Repeatable.")] = None,
    since: Annotated[str | None, typer.Option("--since", metavar="WHEN", help="Only events from that time on.")] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="WHEN", help="Only events up to that time.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, max=64, help="In so many processes, this one among them.")] = None,
    columnar: Annotated[bool, typer.Option("--columnar", help="Fold archived segments as columns; the same states, faster.")] = False,
    validate: Annotated[str, typer.Option(help=f"What is checked on the way: {', '.join(get_args(Validation))}.")] = "sequence",
    source: Annotated[str, typer.Option(help=f"Where to read: {', '.join(get_args(Source))}.")] = "both",
    policy: Policies = None,
    strict: Strict = False,
    states: Annotated[bool, typer.Option("--states", help="Show every state, not only how many there are.")] = False,
    allow_truncated: AllowTruncated = False,
    url: Url = None,
    json: Json = False,
) -> None:
    """Make everybody's state from the history, and say what it rests on.

    full reads everything and trusts no snapshot; incremental starts from the newest ones; point_in_time stops at --at or
    --as-of; selective reads what the filters let through; parallel is full in several processes. The hash is the same
    whenever the same events were read.
    """
    session = session_of(context, url, json)
    wanted = _filter(types, aggregates, users, correlations, since, until)
    target = target_of(at, as_of)
    try:
        ask = Ask(
            view_named(kind), mode=_mode(mode, wanted, target, workers), target=target, only=wanted, workers=workers, columnar=columnar,
            validate=_one_of(validate, get_args(Validation), "--validate"), source=_one_of(source, get_args(Source), "--source"),
            policy=policy_of(policy, strict=strict), allow_truncated=allow_truncated,
        )  # fmt: skip
    except ValueError as error:
        raise CommandError(ExitCode.USAGE, str(error), "see 'tallyroll replay run --help'") from None
    found = run(_replay(session, ask))
    if session.json:
        document = answer("", StateType(f"{ask.view.name}_state"), found)
        if not states:
            document["reconstructed_states"] = {}
        say_json({**document, "finding_list": [_finding(one) for one in found.findings]})
        return
    _show_run(found, target, states=states)


def _show_run(found: Replayed, target: Target | None, *, states: bool) -> None:
    say(f"{paint(counted(len(found.states), found.view.name), 'bold')}  hash {found.set_hash[:_HASH_SHOWN]}")
    if states:
        for owner in found.states:
            shown = found.shown(owner) or {}
            say()
            say(paint(plain(owner), "bold"))
            spread(readable(shown).items())
    seconds = max(found.duration_s, 1e-6)
    spread(
        [
            ("mode", f"{found.mode}" + (f" in {found.workers} processes" if found.workers > 1 else "")),
            (
                "events",
                f"{number(found.events_applied)} folded" + (f", {number(found.events_skipped)} left out" if found.partial_state else ""),
            ),
            ("speed", f"{found.records / seconds:,.0f} records/s"),
        ]
    )
    if found.findings:
        rows = [
            (markup(one.kind, "yellow"), markup(str(one.position)), markup(one.aggregate), markup(one.reason))
            for one in found.findings[:20]
        ]
        table(("finding", "at", "aggregate", "reason"), rows)
    footing(found, target)


@app.command(
    epilog=examples(
        "tallyroll replay state agent coder-001",
        "tallyroll replay state agent coder-001 --at 2026-01-05T10:00:00Z --json",
        "tallyroll replay state task task-7 --version 3       # after its third event",
        "tallyroll replay state agent coder-001 --live        # beside the stored one",
    )
)
def state(  # noqa: PLR0913  # one parameter per option
    context: typer.Context,
    kind: Kind,
    owner: Owner,
    *,
    at: At = None,
    as_of: AsOf = None,
    version: Annotated[int | None, typer.Option(min=1, metavar="N", help="After the first N events; where they have one order.")] = None,
    live: Annotated[bool, typer.Option("--live", help="Compare with the stored state; exit code 1 if they differ.")] = False,
    full: Annotated[bool, typer.Option("--full", help="From the first event, without snapshots.")] = False,
    source: Annotated[str, typer.Option(help=f"Where to read: {', '.join(get_args(Source))}.")] = "both",
    policy: Policies = None,
    strict: Strict = False,
    allow_truncated: AllowTruncated = False,
    url: Url = None,
    json: Json = False,
) -> None:
    """One state as the history has it, now or at any moment, and how complete it is.

    Starts from the newest valid snapshot at or below the moment, so it takes milliseconds where there is an archive.
    """
    session, view = session_of(context, url, json), view_named(kind)
    target = target_of(at, as_of)
    mode = ReplayMode.FULL if full else ReplayMode.INCREMENTAL if target is None else ReplayMode.POINT_IN_TIME
    ask = Ask(
        view, owner, mode, target, source=_one_of(source, get_args(Source), "--source"), policy=policy_of(policy, strict=strict),
        allow_truncated=allow_truncated,
    )  # fmt: skip
    if version is not None:
        if target is not None:
            raise CommandError(ExitCode.USAGE, "--version and a moment name two targets", "give one of them")
        run(_show_version(session, view, owner, version, allow_truncated=allow_truncated))
        return
    found, differences = run(_state(session, ask, live=live))
    shown = found.shown(owner)
    assert shown is not None  # noqa: S101  # else NoHistory was raised
    if session.json:
        more = {"differences": differences} if live else {}
        say_json({**shown, "final": found.final, "snapshot": found.snapshot, "state_hash": found.state_hash, **more})
    else:
        status = shown.get("status")
        say(paint(plain(owner), "bold") + (f"  {paint(str(status), status_style(status))}" if status else ""))
        say()
        spread((name, value) for name, value in readable(shown).items() if name not in ("status", f"{view.name}_id"))
        say()
        spread([("events", number(shown["events_applied"])), ("hash", found.state_hash[:_HASH_SHOWN])])
        if live:
            _show_live(differences)
        footing(found, target)
    if differences:
        raise typer.Exit(ExitCode.FINDINGS)


async def _replay(session: Session, ask: Ask) -> Replayed:
    async with session.roll() as roll:
        engine = await roll.replay_engine()
        with Progress("reading", None, silent=session.json) as bar:

            def tell(told: Told) -> None:
                bar.resize(told.total)
                bar.advance_to(told.done)

            engine.add_replay_callback(tell)
            return await engine.replay(ask)


async def _state(session: Session, ask: Ask, *, live: bool) -> tuple[Replayed, list[dict[str, Any]]]:
    async with session.roll() as roll:
        engine = await roll.replay_engine()
        if not live:
            return await engine.require_state(ask), []
        await catch_up(roll, _CATCH_UP_S)
        compared = await roll.compare_live(ask.view, ask.owner or "", allow_truncated=ask.allow_truncated)
        return compared.replayed, [_difference(one) for one in compared.differences]


async def _show_version(session: Session, view: View, owner: str, version: int, *, allow_truncated: bool) -> None:
    async with session.roll() as roll:
        engine = await roll.replay_engine()
        try:
            found = await engine.at_version(view, owner, version, allow_truncated=allow_truncated)
        except ValueError as error:
            raise CommandError(ExitCode.USAGE, str(error), "name a moment with --at, or offsets with --as-of") from None
    shown, step = found.shown(), found.step
    if session.json:
        say_json({**shown, "state_hash": state_hash(step.state)})
        return
    say(paint(plain(owner), "bold") + f"  after {counted(version, 'event')}, at {step.event.position}")
    say()
    spread(readable(shown).items())


def _difference(one: Difference) -> dict[str, Any]:
    return {"path": one.path, "ours": _plain(one.ours), "theirs": _plain(one.theirs)}


def _plain(value: Any) -> Any:  # noqa: ANN401  # any value of a state, or that there is none
    return None if value is MISSING else value


def _show_live(differences: list[dict[str, Any]]) -> None:
    if not differences:
        say(paint("the stored state is the same", "green"))
        return
    rows = [(markup(one["path"]), markup(str(one["ours"])), markup(str(one["theirs"]), "red")) for one in differences]
    table(("differs in", "replayed", "stored"), rows)


def _mode(given: str | None, wanted: ReplayFilter | None, target: Target | None, workers: int | None) -> ReplayMode:
    if given is not None:
        return ReplayMode(_one_of(given, tuple(ReplayMode), "--mode"))
    if wanted is not None:
        return ReplayMode.SELECTIVE
    if target is not None:
        return ReplayMode.POINT_IN_TIME
    return ReplayMode.PARALLEL if workers is not None and workers > 1 else ReplayMode.FULL


def _filter(  # noqa: PLR0913  # one per option
    types: list[str] | None,
    aggregates: list[str] | None,
    users: list[str] | None,
    correlations: list[str] | None,
    since: str | None,
    until: str | None,
) -> ReplayFilter | None:
    if not (types or aggregates or users or correlations or since or until):
        return None
    pairs = [one.partition(":") for one in aggregates or ()]
    if any(not colon or not kind or not ident for kind, colon, ident in pairs):
        raise CommandError(ExitCode.USAGE, "--aggregate: expected TYPE:ID", "write --aggregate task:task-7")
    if len({kind for kind, _, _ in pairs}) > 1:
        raise CommandError(ExitCode.USAGE, "--aggregate: aggregates of several types", "ask for one type at a time")
    return ReplayFilter(
        event_types=types, aggregate_types={kind for kind, _, _ in pairs}, aggregate_ids={ident for _, _, ident in pairs},
        start_time=moment_of(since, "--since"), end_time=moment_of(until, "--until"), user_ids=users, correlation_ids=correlations,
    )  # fmt: skip


def _one_of(given: str, accepted: tuple[str, ...], option: str) -> Any:  # noqa: ANN401  # one of the literals
    if given not in accepted:
        raise CommandError(ExitCode.USAGE, f"{option}: {plain(given)} is not known", f"write one of {', '.join(accepted)}")
    return given


def _finding(one: Any) -> dict[str, Any]:  # noqa: ANN401  # a Finding
    return {"kind": one.kind, "position": str(one.position), "reason": one.reason, "aggregate": one.aggregate, "missing": one.missing}


asked.add_to(app)
proving.add_to(app)
restoring.add_to(app)

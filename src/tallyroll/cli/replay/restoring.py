"""``tallyroll replay restore``: lost stores made anew, and shown to be what they were."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from tallyroll.cli.exits import CommandError, ExitCode
from tallyroll.cli.freshness import behind
from tallyroll.cli.printing import counted, markup, note, number, paint, say, say_json, table
from tallyroll.cli.progress import Progress
from tallyroll.cli.replay.asking import AllowTruncated
from tallyroll.cli.replay.recounting import recounting_bar
from tallyroll.cli.run.services import ALL, SERVICES, chosen
from tallyroll.cli.session import Json, Session, Url, examples, run, session_of
from tallyroll.errors import PositionConflict
from tallyroll.events.position import TopicPartition
from tallyroll.replay.restore import Fingerprint, replayed_fingerprint
from tallyroll.roll import ANALYTICS_FOLLOWER, AUDIT_FOLLOWER, STATE_FOLLOWER, Roll

if TYPE_CHECKING:
    from tallyroll.analytics.fingerprint import PanesFingerprint

_EXAMPLES = examples(
    "tallyroll replay restore",
    "tallyroll replay restore --expect before.json     # what 'replay verify --json' printed before the loss",
    "tallyroll replay restore --no-metrics             # states only",
)

_UNLESS = {AUDIT_FOLLOWER: ", unless the ledger is lost: then it stops, and says what to do"}


def add_to(app: typer.Typer) -> None:
    """Adds the command of this module to a collection."""
    app.command(epilog=_EXAMPLES)(restore)


@dataclass(slots=True)
class _Lost:
    """What ``--expect`` says was there: states, and metrics if any were counted."""

    states: Fingerprint
    metrics: PanesFingerprint | None


@dataclass(slots=True)
class _States:
    """The store as it was filled, a full replay to its offsets, and one to those of the lost store if they are known."""

    stored: Fingerprint
    again: Fingerprint
    before: Fingerprint | None
    lost: Fingerprint | None

    @property
    def equals_replay(self) -> bool:
        return self.stored.views == self.again.views

    @property
    def equals_lost(self) -> bool | None:
        if self.lost is None or self.before is None:
            return None
        return {name: self.before.views.get(name) for name in self.lost.views} == self.lost.views


@dataclass(slots=True)
class _Metrics:
    """The store as it was filled, and the same counted to the offsets of the lost one; that of other metrics cannot be compared."""

    stored: PanesFingerprint
    before: PanesFingerprint | None
    lost: PanesFingerprint | None

    @property
    def equals_lost(self) -> bool | None:
        if self.lost is None or self.before is None:
            return None
        return (self.before.panes, self.before.hash) == (self.lost.panes, self.lost.hash)


@dataclass(slots=True)
class _Restored:
    """What was made; None: the store was left alone, since it is not empty, or was not wanted."""

    indexes: int
    states: _States | None
    metrics: _Metrics | None
    behind: dict[str, int] = field(default_factory=dict)

    @property
    def equals_lost(self) -> bool | None:
        told = [one.equals_lost for one in (self.states, self.metrics) if one is not None and one.equals_lost is not None]
        return all(told) if told else None


def restore(  # noqa: PLR0913  # one parameter per option
    context: typer.Context,
    *,
    expect: Annotated[
        Path | None,
        typer.Option("--expect", metavar="FILE", help="What 'replay verify --json' said of the lost stores; compared at the same offsets."),
    ] = None,
    metrics: Annotated[bool, typer.Option("--metrics/--no-metrics", help="Count the metrics anew, too.")] = True,
    allow_truncated: AllowTruncated = False,
    url: Url = None,
    json: Json = False,
) -> None:
    """Rebuild the stores of an empty installation from archive and log, and show that they are right.

    Missing indexes of the archive are made from its segments first. Then the state store is filled, and its hashes are
    compared with a full replay to the same offsets; then the metrics are counted. With --expect both are compared with the
    lost ones. A store that is not empty is left alone. Exit code 1 if something differs. What other followers lack is said,
    and who makes it; a lost audit ledger nobody can make again.
    """
    session = session_of(context, url, json)
    lost = _expected(expect) if expect is not None else None
    restored = run(_restore(session, lost, metrics=metrics, allow_truncated=allow_truncated))
    if session.json:
        say_json(_told(restored))
    else:
        _say(restored)
    if restored.equals_lost is False or (restored.states is not None and not restored.states.equals_replay):
        raise typer.Exit(ExitCode.FINDINGS)


async def _restore(session: Session, lost: _Lost | None, *, metrics: bool, allow_truncated: bool) -> _Restored:
    async with session.roll() as roll:
        followers = chosen([ALL], roll.settings).names
        indexes = await roll.rebuild_lost_indexes()
        not_empty = await _fill(session, "states", roll.restore(allow_truncated=allow_truncated))
        states = None if not_empty else await _compared_states(roll, None if lost is None else lost.states)
        counts = None
        if (
            metrics
            and ANALYTICS_FOLLOWER in followers
            and not await _fill(session, "metrics", roll.restore_metrics(allow_truncated=allow_truncated))
        ):
            counts = await _compared_metrics(session, roll, None if lost is None else lost.metrics)
        if states is None and counts is None:
            what = f"nothing is lost: the state store is not empty ({not_empty}), and no metrics are to be restored"
            raise CommandError(ExitCode.USAGE, what, "move state.db or analytics.db away first, or use another data folder")
        # Not those whose stores lie elsewhere: they are not of this installation, and may be away.
        others = [name for name in followers if name != STATE_FOLLOWER and not SERVICES[name].bridge]
        lacking = {name: records for name in others if (records := (await behind(roll, name)).records)}
        return _Restored(indexes, states, counts, lacking)


async def _fill(session: Session, what: str, filling: AsyncGenerator[tuple[int, int], None]) -> str:
    """Fills a store; what it has already, if it is not empty."""
    with Progress(what, None, silent=session.json) as bar:
        try:
            async for done, total in filling:
                bar.resize(total)
                bar.advance_to(done)
        except PositionConflict as conflict:
            return conflict.where
    return ""


async def _compared_states(roll: Roll, lost: Fingerprint | None) -> _States:
    replayer = (await roll.replay_engine()).replayer
    stored = await roll.state_fingerprint()
    again = await replayed_fingerprint(replayer, _offsets(stored))
    before = None if lost is None else await replayed_fingerprint(replayer, _offsets(lost))
    return _States(stored, again, before, lost)


async def _compared_metrics(session: Session, roll: Roll, lost: PanesFingerprint | None) -> _Metrics | None:
    stored = await roll.metrics_fingerprint()
    if stored is None:
        return None
    if lost is None or (lost.as_of, lost.keep_s) == (stored.as_of, stored.keep_s):
        return _Metrics(stored, stored if lost is not None and lost.metrics == stored.metrics else None, lost)
    with recounting_bar(session) as tell:
        return _Metrics(stored, await roll.recounted_fingerprint(lost, tell), lost)


# What is said


def _told(restored: _Restored) -> dict[str, Any]:
    states, metrics = restored.states, restored.metrics
    return {
        "restored": [name for name, one in (("states", states), ("metrics", metrics)) if one is not None],
        "equals_full_replay": None if states is None else states.equals_replay,
        "equals_lost": restored.equals_lost,
        "coverage": None if states is None else states.again.coverage,
        "indexes_rebuilt": restored.indexes,
        "behind": restored.behind,
        "as_of": {} if states is None else states.stored.as_of,
        "views": {} if states is None else {name: {"owners": count, "hash": text} for name, (count, text) in states.stored.views.items()},
        "metrics": None if metrics is None else {**msgspec.to_builtins(metrics.stored), "equals_lost": metrics.equals_lost},
    }


def _say(restored: _Restored) -> None:
    if restored.states is None:
        note("the state store is not empty, and was left alone")
    else:
        _say_states(restored.states)
    if restored.metrics is not None:
        _say_metrics(restored.metrics)
    if restored.indexes:
        note(f"made anew from segments: the index of {counted(restored.indexes, 'partition')}")
    for name, records in restored.behind.items():
        note(f"{name} is {counted(records, 'record')} behind the log; 'tallyroll run {name}' makes it{_UNLESS.get(name, '')}")


def _say_states(states: _States) -> None:
    stored, again = states.stored, states.again
    rows = [(name, number(count), text[:16], _mark(again.views[name][1] == text)) for name, (count, text) in stored.views.items()]
    table(("view", "owners", "hash", "full replay"), rows, right=("owners",))
    say(_verdict("the restored store equals a full replay", "the restored store differs from a full replay", holds=states.equals_replay))
    if states.equals_lost is not None:
        say(_verdict("and it equals the lost one", "it does not equal the lost one", holds=states.equals_lost))
    if again.coverage != "complete":
        note(f"coverage {again.coverage}: what was pruned was compared with a replay from its snapshots, not from zero")


def _say_metrics(metrics: _Metrics) -> None:
    records = sum(following - first for first, following in metrics.stored.as_of.values())
    say(f"metrics: {counted(metrics.stored.panes, 'pane')} of {counted(records, 'record')}, {metrics.stored.hash[:16]}")
    if metrics.equals_lost is not None:
        say(_verdict("and they equal the lost ones", "they do not equal the lost ones", holds=metrics.equals_lost))
    elif metrics.lost is not None:
        note("the lost metrics were other ones than those of now, and cannot be compared")


def _verdict(good: str, bad: str, *, holds: bool) -> str:
    return paint(good, "green") if holds else paint(bad, "bold red")


def _mark(same: bool) -> str:  # noqa: FBT001  # a verdict
    return markup("the same", "green") if same else markup("another", "red")


# What was


class _Counted(msgspec.Struct):
    owners: int
    hash: str


class _Kept(msgspec.Struct):
    as_of: dict[str, int]
    views: dict[str, _Counted]
    metrics: dict[str, Any] | None = None


def _expected(path: Path) -> _Lost:
    from tallyroll.analytics.fingerprint import PanesFingerprint  # noqa: PLC0415  # as late as the rest of analytics

    try:
        read = msgspec.json.decode(path.read_bytes(), type=_Kept)
        metrics = None if read.metrics is None else msgspec.convert(read.metrics, PanesFingerprint)
    except (OSError, msgspec.MsgspecError):
        raise CommandError(ExitCode.USAGE, "--expect: not what 'replay verify --json' prints", "keep its output before the loss") from None
    return _Lost(Fingerprint(read.as_of, {name: (one.owners, one.hash) for name, one in read.views.items()}), metrics)


def _offsets(kept: Fingerprint) -> dict[TopicPartition, int]:
    return {TopicPartition.parse(where): end for where, end in kept.as_of.items()}

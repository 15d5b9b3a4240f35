"""``tallyroll archive prune``: what is old enough is let go, and snapshots stand for it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tallyroll.cli.exits import CommandError, ExitCode, explain
from tallyroll.cli.printing import counted, markup, note, number, paint, plain, say, say_json, table
from tallyroll.cli.progress import Progress
from tallyroll.cli.session import Json, Session, Url, confirm, examples, moment_of, run, session_of, span_of
from tallyroll.errors import SegmentDamaged, SnapshotMismatch, UnknownSchema
from tallyroll.events.event import iso
from tallyroll.events.ids import utc_now
from tallyroll.events.moments import moment_at, us_of

if TYPE_CHECKING:
    from tallyroll.archive.opening import OpenArchive
    from tallyroll.archive.pruning import Prunable


@dataclass(slots=True)
class _Pruning:
    """One partition: what would go, and why it does not, where it does not."""

    what: Prunable
    refused: str = ""
    done: bool = False

    def plain(self) -> dict[str, Any]:
        numbers = {name: getattr(self.what, name) for name in ("kept", "segments", "records", "file_bytes")}
        return {"partition": str(self.what.partition), **numbers, "last": self.last, "pruned": self.done, "refused": self.refused or None}

    @property
    def last(self) -> str | None:
        return None if self.what.last_us is None else iso(moment_at(self.what.last_us))


def add_to(app: typer.Typer) -> None:
    """Adds the command of this module to a collection."""
    app.command(epilog=_PRUNE)(prune)


_PRUNE = examples(
    "tallyroll archive prune --older-than 365d --dry-run     # what would go, and whether it may",
    "tallyroll archive prune --before 2026-01-01T00:00:00Z --yes",
    "tallyroll archive prune performance-events/0 --older-than 90d",
)


def prune(  # noqa: PLR0913  # one parameter per option
    context: typer.Context,
    partitions: Annotated[list[str] | None, typer.Argument(metavar="[PARTITION]…", help="All that are archived if none is named.")] = None,
    *,
    before: Annotated[
        str | None, typer.Option("--before", metavar="WHEN", help="Segments without an event of that time or later: ISO 8601 with a zone.")
    ] = None,
    older_than: Annotated[str | None, typer.Option("--older-than", metavar="SPAN", help="The same as an age: 365d.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go, and whether it may.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    url: Url = None,
    json: Json = False,
) -> None:
    """Remove old segments for good; snapshots of every built-in view stand for what they held.

    Everything that goes is read and folded once more, and refused where a snapshot is not what it comes to. Afterwards states
    now, and at moments behind it, are what they were; moments before it, and reducers of your own, get an error, or a
    truncated answer. Exit code 1 if a partition was refused.
    """
    session = session_of(context, url, json)
    moment = _moment(before, older_than)
    found = run(_prune(session, moment, partitions, dry_run=dry_run, yes=yes))
    if session.json:
        say_json({"before": iso(moment), "dry_run": dry_run, "partitions": [one.plain() for one in found]})
    else:
        _show(found, dry_run=dry_run)
    if any(one.refused for one in found):
        raise typer.Exit(ExitCode.FINDINGS)


def _moment(before: str | None, older_than: str | None) -> datetime:
    moment, span = moment_of(before, "--before"), span_of(older_than, "--older-than")
    if span is not None and moment is None:
        moment = utc_now() - span
    elif moment is None or span is not None:
        raise CommandError(ExitCode.USAGE, "how old is old? one of --before and --older-than is needed", "write --older-than 365d")
    return moment


async def _prune(session: Session, moment: datetime, names: list[str] | None, *, dry_run: bool, yes: bool) -> list[_Pruning]:
    async with session.roll() as roll:
        archive, wanted = roll.archive(), await roll.archived_partitions()
        if names is not None:
            if unknown := set(names) - {str(one) for one in wanted}:
                what = f"there is nothing archived of {plain(min(unknown))}"
                raise CommandError(ExitCode.NOT_FOUND, what, "see 'tallyroll archive status --all'")
            wanted = [one for one in wanted if str(one) in names]
        before_us = us_of(moment)
        looked = [await asyncio.to_thread(archive.pruner.look, partition, before_us) for partition in wanted]
        found = [_Pruning(one) for one in looked if one is not None]
        if found and not dry_run:
            segments, records = (sum(getattr(one.what, name) for one in found) for name in ("segments", "records"))
            confirm(f"remove {counted(segments, 'segment')} with {counted(records, 'record')} for good?", yes=yes)
        with Progress("partitions", len(found), silent=session.json) as bar:
            for at, one in enumerate(found, 1):
                await asyncio.to_thread(_try, archive, one, dry_run=dry_run)
                bar.advance_to(at)
        if not dry_run:
            for partition in wanted:  # what a crash has left of an earlier one
                await asyncio.to_thread(archive.pruner.finish, partition)
        return found


def _try(archive: OpenArchive, one: _Pruning, *, dry_run: bool) -> None:
    try:
        if dry_run:
            archive.pruner.check(one.what)
        else:
            archive.pruner.prune(one.what)
            one.done = True
    except (SnapshotMismatch, SegmentDamaged, UnknownSchema) as error:
        trouble = explain(error)
        one.refused = f"{trouble.what}; {trouble.next_step}"


def _show(found: list[_Pruning], *, dry_run: bool) -> None:
    if not found:
        say("no sealed segment is that old as a whole")
        return
    good = [one for one in found if not one.refused]
    segments, records, size = (sum(getattr(one.what, name) for one in good) for name in ("segments", "records", "file_bytes"))
    verb = "would be removed" if dry_run else "removed"
    say(f"{counted(segments, 'segment')} with {paint(counted(records, 'record'), 'bold')} {verb}; {size / 1e6:,.1f} MB")
    rows = [
        (
            markup(one.what.partition), number(one.what.segments), number(one.what.records), number(one.what.kept), markup(one.last or "-"),
            markup("refused", "bold red") if one.refused else markup("would go" if dry_run else "removed", "green"),
        )
        for one in found
    ]  # fmt: skip
    table(("partition", "segments", "records", "up to offset", "last event", "state"), rows, right=("segments", "records", "up to offset"))
    for one in found:
        if one.refused:
            note(f"{one.what.partition}: {one.refused}")
    if dry_run:
        note("nothing was done")

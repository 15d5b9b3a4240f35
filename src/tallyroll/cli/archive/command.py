"""``tallyroll archive``: what topics forget, kept for good."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tallyroll.cli.archive import pruning
from tallyroll.cli.exits import CommandError, ExitCode
from tallyroll.cli.moments import short_span
from tallyroll.cli.printing import counted, markup, note, number, paint, plain, say, say_json, table
from tallyroll.cli.progress import Progress
from tallyroll.cli.session import Json, Session, Url, examples, group_of, run, session_of, verbs
from tallyroll.events.position import Position
from tallyroll.roll import ARCHIVE_FOLLOWER, Roll

if TYPE_CHECKING:
    from tallyroll.archive.report import ArchiveReport

app = verbs()
group_of(
    app,
    "What topics forget, kept: status, seal, prune, rebuild, query.",
    "tallyroll run archive                  # keep it current",
    "tallyroll archive status",
    "tallyroll archive query 'SELECT type, count(*) FROM events GROUP BY type'",
)


@app.command(epilog=examples("tallyroll archive status", "tallyroll archive status --all --json"))
def status(
    context: typer.Context,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Every partition, not only the totals and what needs attention.")] = False,
    url: Url = None,
    json: Json = False,
) -> None:
    """How far the archive is, what it takes, and how long until a topic deletes what is not archived.

    Exit code 1 when that is soon, or has happened, when the log ends before what is archived of it, or when a file of the archive
    is missing or has another size. Files are not read; 'tallyroll replay verify' does.
    """
    session = session_of(context, url, json)
    found = run(_status(session))
    alarms = [one for one in found if one.alarm != "ok" or one.damaged]
    if session.json:
        say_json({"alarm": bool(alarms), "partitions": [one.plain() for one in found]})
    else:
        _show_status(found, everything=everything)
    if alarms:
        raise typer.Exit(ExitCode.FINDINGS)


def _show_status(found: list[ArchiveReport], *, everything: bool) -> None:
    records, raw, size = (sum(getattr(one, name) for one in found) for name in ("records", "raw_bytes", "file_bytes"))
    waiting, tails = sum(one.unarchived for one in found), sum(one.tail for one in found)
    pruned = sum(1 for one in found if one.kept)
    say(
        f"{paint(number(records), 'bold')} records archived in {counted(sum(one.segments for one in found), 'segment')}; "
        f"{size / 1e6:,.1f} MB for {raw / 1e6:,.1f} MB; {number(tails)} in the tails, {number(waiting)} not archived"
    )
    if pruned:
        say(f"the start of {counted(pruned, 'partition')} is pruned; snapshots stand for it")
    shown = [one for one in found if everything or one.alarm != "ok" or one.damaged]
    if shown:
        rows = [
            (
                markup(one.partition), number(one.records), number(one.segments), number(one.kept) if one.kept else "-",
                number(one.tail), number(one.unarchived),
                "-" if one.headroom_ms is None else short_span(max(one.headroom_ms, 0) / 1_000),
                _alarm(one),
            )
            for one in shown
        ]  # fmt: skip
        table(
            ("partition", "records", "segments", "pruned to", "tail", "not archived", "time left", "state"),
            rows,
            right=("records", "segments", "pruned to", "tail", "not archived"),
        )
    if any(one.alarm == "ahead" for one in found):
        note("the log is an older copy than the archive, or another log; 'tallyroll doctor' says what to do")
    if damaged := [(one.partition, each) for one in found for each in one.damaged]:
        table(("damaged", "file", "why"), [(markup(where), markup(each.segment), markup(each.reason, "red")) for where, each in damaged])
        note("replays that need a segment fail without it: put it back from a copy; an index is made anew with 'tallyroll archive rebuild'")
    elif not records:
        note("nothing is archived yet; 'tallyroll run archive' keeps it current, 'tallyroll archive seal' does it once")


def _alarm(one: ArchiveReport) -> str:
    if one.alarm == "ok" and one.damaged:
        return markup("damaged", "bold red")
    return markup(one.alarm, {"ok": "green", "warning": "yellow", "lost": "bold red", "ahead": "bold red"}[one.alarm])


@app.command(epilog=examples("tallyroll archive seal", "tallyroll archive seal --accept-hole task-events/3=1200   # after a loss"))
def seal(
    context: typer.Context,
    *,
    holes: Annotated[
        list[str] | None,
        typer.Option("--accept-hole", metavar="PARTITION=OFFSET", help="Go on behind what retention took, up to this offset. Repeatable."),
    ] = None,
    url: Url = None,
    json: Json = False,
) -> None:
    """Archive everything that is in the log now, and make segments of all tails, however small."""
    session = session_of(context, url, json)
    sealed, records = run(_seal(session, [_hole(one) for one in holes or ()]))
    if session.json:
        say_json({"archived": records, "sealed": {str(where): one.records for where, one in sealed.items()}})
    else:
        say(f"{number(records)} records archived, {counted(len(sealed), 'segment')} sealed")


@app.command(epilog=examples("tallyroll archive rebuild", "tallyroll archive rebuild task-events/3"))
def rebuild(
    context: typer.Context,
    partitions: Annotated[list[str] | None, typer.Argument(metavar="[PARTITION]…", help="All that have segments if none is named.")] = None,
    *,
    columns: Annotated[bool, typer.Option("--columns", help="Only write columns anew where the views changed; the records stay.")] = False,
    url: Url = None,
    json: Json = False,
) -> None:
    """Make manifest, locator and snapshots anew from the segments alone. Stop 'tallyroll run archive' before."""
    session = session_of(context, url, json)
    found = run(_rebuild(session, partitions, columns=columns))
    if session.json:
        say_json({"rebuilt": found})
    else:
        for where, count in found.items():
            say(f"{where}: {counted(count, 'segment')}")
        say(f"{counted(len(found), 'partition')} done")


@app.command(
    epilog=examples(
        "tallyroll archive query 'SELECT agent, count(*) AS n FROM events GROUP BY agent ORDER BY n DESC LIMIT 5'",
        "tallyroll archive query \"SELECT time, data->>'tool_name' FROM events WHERE type = 'tool.failed'\" --json",
    )
)
def query(
    context: typer.Context,
    sql: Annotated[str, typer.Argument(metavar="SQL", help="One SELECT over events (first copies) or records (everything).")],
    *,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="At most so many rows are shown; with --json all of them.")] = 100,
    url: Url = None,
    json: Json = False,
) -> None:
    """SQL over what is sealed, through DuckDB. Reads only.

    events has topic, partition, offset, time, type, agent, aggregate, event_id, data (JSON) and what the views take out of
    payloads; records has every record with its raw bytes, which --json shows as base64.
    """
    session = session_of(context, url, json)
    names, rows, more = run(_query(session, sql, None if session.json else limit))
    if session.json:
        for row in rows:
            say_json(dict(zip(names, map(_json_value, row), strict=True)))
        return
    table(names, [[markup("-" if value is None else value) for value in row] for row in rows])
    if more:
        note(f"the first {number(limit)} rows; --limit shows more, --json all")


async def _status(session: Session) -> list[ArchiveReport]:
    async with session.roll() as roll:
        return await roll.archive_report()


async def _seal(session: Session, holes: list[tuple[Any, int]]) -> tuple[Any, int]:
    async with session.roll() as roll:
        archive, partitions = roll.archive(), await roll.archive_partitions()
        for partition, until in holes:
            try:
                await asyncio.to_thread(archive.keeper.accept_hole, partition, until)
            except ValueError as error:
                raise CommandError(ExitCode.USAGE, f"--accept-hole: {error}", "see 'tallyroll archive status --all'") from None
        before = await asyncio.to_thread(archive.reader.marks, partitions)
        await _catch_up(session, roll)
        sealed = await asyncio.to_thread(archive.keeper.seal_all, partitions)
        after = await asyncio.to_thread(archive.reader.marks, partitions)
        return sealed, sum(mark.next - (before[where].next if where in before else mark.first) for where, mark in after.items())


async def _catch_up(session: Session, roll: Roll) -> None:
    ends = await roll.log.ends(sorted({one.topic for one in await roll.archive_partitions()}))
    loop = await roll.follow(ARCHIVE_FOLLOWER)
    with Progress("archiving", sum(ends.values()), silent=session.json) as bar:
        for partition, end in sorted(ends.items()):
            while end and not await loop.caught_up(Position(*partition, end - 1), 0.5):
                bar.advance_to(sum(min(done, ends.get(where, 0)) for where, done in loop.flushed.get(ARCHIVE_FOLLOWER, {}).items()))
    await loop.stop()


async def _rebuild(session: Session, names: list[str] | None, *, columns: bool) -> dict[str, int]:
    async with session.roll() as roll:
        keeper, wanted = roll.archive().keeper, await roll.archived_partitions()
        if names is not None:
            unknown = set(names) - {str(one) for one in wanted}
            if unknown:
                raise CommandError(
                    ExitCode.NOT_FOUND, f"there is nothing archived of {plain(min(unknown))}", "see 'tallyroll archive status --all'"
                )
            wanted = [one for one in wanted if str(one) in names]
        found = {}
        with Progress("partitions", len(wanted), silent=session.json) as bar:
            for at, partition in enumerate(wanted, 1):
                work = keeper.reproject if columns else keeper.rebuild
                found[str(partition)] = len(await asyncio.to_thread(work, partition))
                bar.advance_to(at)
        return found


async def _query(session: Session, sql: str, limit: int | None) -> tuple[list[str], list[Any], bool]:
    async with session.roll() as roll:
        files = await roll.archive_files()
        from tallyroll.adapters.duckdb.query import query as ask  # noqa: PLC0415  # needs the extra, which is there now

        if not files:
            raise CommandError(ExitCode.NOT_FOUND, "nothing is sealed yet", "'tallyroll archive seal' seals what is in the log now")

        def look() -> tuple[list[str], list[Any], bool]:
            answer = ask(files, sql)
            rows: list[Any] = []
            for row in answer.rows():
                if limit is not None and len(rows) == limit:
                    return answer.columns, rows, True
                rows.append(row)
            return answer.columns, rows, False

        try:
            return await asyncio.to_thread(look)
        except ValueError as error:
            raise CommandError(ExitCode.USAGE, plain(str(error)), "DESCRIBE events lists the columns") from None


def _hole(text: str) -> tuple[Any, int]:
    from tallyroll.events.position import TopicPartition  # noqa: PLC0415  # one use

    where, equals, offset = text.partition("=")
    topic, slash, partition = where.rpartition("/")
    if not equals or not slash or not offset.isdecimal() or not partition.isdecimal():
        raise CommandError(ExitCode.USAGE, "--accept-hole: expected PARTITION=OFFSET", "write --accept-hole task-events/3=1200")
    return TopicPartition(topic, int(partition)), int(offset)


def _json_value(value: Any) -> Any:  # noqa: ANN401  # whatever the database has
    if isinstance(value, bytes):
        return b64encode(value).decode()
    return value if value is None or isinstance(value, (str, int, float, bool, list, dict)) else str(value)


pruning.add_to(app)

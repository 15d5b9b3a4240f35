"""``tallyroll replay verify|restore``: what is derived, held against the history; and a lost store made anew."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from tallyroll.cli.exits import CommandError, ExitCode
from tallyroll.cli.freshness import behind
from tallyroll.cli.printing import counted, markup, note, number, paint, say, say_json, table
from tallyroll.cli.progress import Progress
from tallyroll.cli.replay.asking import AllowTruncated
from tallyroll.cli.run.services import ALL, SERVICES, chosen
from tallyroll.cli.session import Json, Session, Url, examples, run, session_of
from tallyroll.errors import PositionConflict
from tallyroll.events.position import TopicPartition
from tallyroll.replay.golden import differences, load
from tallyroll.replay.restore import Fingerprint, replayed_fingerprint
from tallyroll.replay.verify import Verified, Wrong, verify_heads, verify_sample
from tallyroll.roll import AUDIT_FOLLOWER, STATE_FOLLOWER, Roll

_VERIFY = examples(
    "tallyroll replay verify", "tallyroll replay verify --sample 100 --seed 7 --json", "tallyroll replay verify --golden histories/"
)
_RESTORE = examples(
    "tallyroll replay restore", "tallyroll replay restore --expect before.json     # what 'replay verify --json' printed before the loss"
)

_UNLESS = {AUDIT_FOLLOWER: ", unless the ledger is lost: then it stops, and says what to do"}


def add_to(app: typer.Typer) -> None:
    """Adds the commands of this module to a collection."""
    app.command(epilog=_VERIFY)(verify)
    app.command(epilog=_RESTORE)(restore)


def verify(  # noqa: PLR0913  # one parameter per option
    context: typer.Context,
    *,
    sample: Annotated[int, typer.Option(min=0, metavar="N", help="Owners of each kind to fold from zero and from snapshots.")] = 20,
    seed: Annotated[int, typer.Option(help="Which ones; the same number draws the same.")] = 0,
    golden: Annotated[Path | None, typer.Option(metavar="PATH", help="Golden histories too: a file, or a folder of *.jsonl.")] = None,
    digests: Annotated[bool, typer.Option("--digests/--no-digests", help="Read every archived record and check the digests.")] = True,
    heads: Annotated[bool, typer.Option("--heads/--no-heads", help="Compare the ends of the log with what followers have stored.")] = True,
    url: Url = None,
    json: Json = False,
) -> None:
    """Hold archive, snapshots and followers against the history. Exit code 1 if something is wrong.

    With --json it also says what the state store holds, as hashes: keep that for 'replay restore --expect'.
    """
    session = session_of(context, url, json)
    found, segments, histories, stored = run(_verify(session, sample, seed, golden, digests=digests, heads=heads))
    if session.json:
        say_json({
            "sound": not found.wrong, "segments": segments, "owners": found.owners, "snapshots": found.snapshots, "heads": found.heads,
            "pruned": found.pruned,
            "histories": histories, "wrong": [one._asdict() for one in found.wrong], "as_of": stored.as_of,
            "views": {name: {"owners": count, "hash": text} for name, (count, text) in stored.views.items()},
        })  # fmt: skip
    else:
        say(paint("sound", "bold green") if not found.wrong else paint(counted(len(found.wrong), "finding"), "bold red"))
        say(f"{counted(segments, 'segment')} against their digests, {counted(found.heads, 'head')} of the log")
        say(f"{counted(found.owners, 'owner')} from zero and from {counted(found.snapshots, 'snapshot')}")
        if found.pruned:
            note(f"{counted(found.pruned, 'owner')} cannot be folded from zero: the archive was pruned")
        if golden is not None:
            say("1 golden history" if histories == 1 else f"{histories} golden histories")
        if found.wrong:
            table(("what", "where", "why"), [(markup(one.kind, "red"), markup(one.where), markup(one.detail)) for one in found.wrong[:50]])
        if not segments and digests:
            note("nothing is sealed yet: 'tallyroll archive seal'")
    if found.wrong:
        raise typer.Exit(ExitCode.FINDINGS)


async def _verify(  # noqa: PLR0913  # one parameter per option
    session: Session, sample: int, seed: int, golden: Path | None, *, digests: bool, heads: bool
) -> tuple[Verified, int, int, Fingerprint]:
    verified, segments = Verified(), 0
    async with session.roll() as roll:
        replayer = (await roll.replay_engine()).replayer
        if digests and replayer.archive is not None:
            segments = await _digests(session, roll, verified)
        with Progress("owners", sample * len(replayer.fold.views), silent=session.json) as bar:
            async for done in verify_sample(replayer, verified, sample=sample, seed=seed):
                bar.advance_to(done)
        if heads:
            await verify_heads(replayer, verified, await roll.stored_heads())
        histories = await _golden(roll, verified, golden) if golden is not None else 0
        return verified, segments, histories, await roll.state_fingerprint()


async def _digests(session: Session, roll: Roll, verified: Verified) -> int:
    archive, partitions, segments = roll.archive(), await roll.archive_partitions(), 0
    with Progress("segments", len(partitions), silent=session.json) as bar:
        for at, partition in enumerate(partitions, 1):
            segments += len(await asyncio.to_thread(archive.reader.segments, partition))
            damaged = await asyncio.to_thread(archive.keeper.verify, partition)
            verified.wrong += [Wrong("segment_damaged", f"{partition}/{one.segment}", one.reason) for one in damaged]
            bar.advance_to(at)
    return segments


def _histories(golden: Path) -> list[Path]:
    paths = sorted(golden.glob("*.jsonl")) if golden.is_dir() else [golden]
    if not paths or not all(path.is_file() for path in paths):
        raise CommandError(ExitCode.USAGE, f"--golden: there is no history at {golden}", "name a file, or a folder of *.jsonl")
    return paths


async def _golden(roll: Roll, verified: Verified, golden: Path) -> int:
    paths = _histories(golden)
    for path in paths:
        verified.wrong += [Wrong("golden", path.name, one) for one in await differences(load(path), clock=roll.clock)]
    return len(paths)


def restore(
    context: typer.Context,
    *,
    expect: Annotated[
        Path | None,
        typer.Option("--expect", metavar="FILE", help="What 'replay verify --json' said of the lost store; compared at the same offsets."),
    ] = None,
    allow_truncated: AllowTruncated = False,
    url: Url = None,
    json: Json = False,
) -> None:
    """Rebuild the stores of an empty installation from archive and log, and show that they are right.

    Missing indexes of the archive are made from its segments first. Then the state store is filled, and its hashes are
    compared with a full replay to the same offsets, and with --expect. Exit code 1 if they differ. What other followers
    lack is said, and who makes it; a lost audit ledger nobody can make again.
    """
    session = session_of(context, url, json)
    lost = _expected(expect) if expect is not None else None
    rebuilt, stored, again, before, lacking = run(_restore(session, lost, allow_truncated=allow_truncated))
    same = stored.views == again.views
    as_before = lost is None or before is None or {name: before.views.get(name) for name in lost.views} == lost.views
    if session.json:
        views = {name: {"owners": count, "hash": text} for name, (count, text) in stored.views.items()}
        equals = {"equals_full_replay": same, "equals_lost": None if lost is None else as_before}
        about = {"coverage": again.coverage, "indexes_rebuilt": rebuilt, "behind": lacking, "as_of": stored.as_of}
        say_json({**equals, **about, "views": views})
    else:
        rows = [(name, number(count), text[:16], _mark(again.views[name][1] == text)) for name, (count, text) in stored.views.items()]
        table(("view", "owners", "hash", "full replay"), rows, right=("owners",))
        say(_verdict("the restored store equals a full replay", "the restored store differs from a full replay", holds=same))
        if lost is not None:
            say(_verdict("and it equals the lost one", "it does not equal the lost one", holds=as_before))
        if again.coverage != "complete":
            note(f"coverage {again.coverage}: what was pruned was compared with a replay from its snapshots, not from zero")
        if rebuilt:
            note(f"made anew from segments: the index of {counted(rebuilt, 'partition')}")
        for name, records in lacking.items():
            note(f"{name} is {counted(records, 'record')} behind the log; 'tallyroll run {name}' makes it{_UNLESS.get(name, '')}")
    if not (same and as_before):
        raise typer.Exit(ExitCode.FINDINGS)


def _verdict(good: str, bad: str, *, holds: bool) -> str:
    return paint(good, "green") if holds else paint(bad, "bold red")


async def _restore(
    session: Session, lost: Fingerprint | None, *, allow_truncated: bool
) -> tuple[int, Fingerprint, Fingerprint, Fingerprint | None, dict[str, int]]:
    """How many indexes were made; the store, a replay to where it is, and one to where the lost one was; what others lack."""
    async with session.roll() as roll:
        rebuilt = await roll.rebuild_lost_indexes()
        with Progress("offsets", None, silent=session.json) as bar:
            try:
                async for done, total in roll.restore(allow_truncated=allow_truncated):
                    bar.resize(total)
                    bar.advance_to(done)
            except PositionConflict as error:
                what = f"the state store is not empty ({error.where})"
                raise CommandError(ExitCode.USAGE, what, "move state.db away first, or use another data folder") from None
        replayer = (await roll.replay_engine()).replayer
        stored = await roll.state_fingerprint()
        again = await replayed_fingerprint(replayer, _offsets(stored))
        before = None if lost is None else await replayed_fingerprint(replayer, _offsets(lost))
        # Not those whose stores lie elsewhere: they are not of this installation, and may be away.
        others = [name for name in chosen([ALL], roll.settings).names if name != STATE_FOLLOWER and not SERVICES[name].bridge]
        lacking = {name: records for name in others if (records := (await behind(roll, name)).records)}
        return rebuilt, stored, again, before, lacking


class _Counted(msgspec.Struct):
    owners: int
    hash: str


class _Kept(msgspec.Struct):
    as_of: dict[str, int]
    views: dict[str, _Counted]


def _expected(path: Path) -> Fingerprint:
    try:
        read = msgspec.json.decode(path.read_bytes(), type=_Kept)
    except (OSError, msgspec.MsgspecError):
        raise CommandError(ExitCode.USAGE, "--expect: not what 'replay verify --json' prints", "keep its output before the loss") from None
    return Fingerprint(read.as_of, {name: (one.owners, one.hash) for name, one in read.views.items()})


def _offsets(kept: Fingerprint) -> dict[TopicPartition, int]:
    return {TopicPartition(where.rpartition("/")[0], int(where.rpartition("/")[2])): end for where, end in kept.as_of.items()}


def _mark(same: bool) -> str:  # noqa: FBT001  # a verdict
    return markup("the same", "green") if same else markup("another", "red")

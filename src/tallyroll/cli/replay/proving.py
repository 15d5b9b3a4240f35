"""``tallyroll replay verify``: what is derived, held against the history."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import msgspec
import typer

from tallyroll.cli.exits import CommandError, ExitCode
from tallyroll.cli.printing import counted, markup, note, paint, say, say_json, table
from tallyroll.cli.progress import Progress
from tallyroll.cli.replay.recounting import recounting_bar
from tallyroll.cli.run.services import ALL, chosen
from tallyroll.cli.session import Json, Session, Url, examples, run, session_of
from tallyroll.replay.golden import differences, load
from tallyroll.replay.restore import Fingerprint
from tallyroll.replay.verify import Verified, Wrong, verify_heads, verify_sample
from tallyroll.roll import ANALYTICS_FOLLOWER, Roll

if TYPE_CHECKING:
    from tallyroll.analytics.fingerprint import PanesFingerprint

_EXAMPLES = examples(
    "tallyroll replay verify",
    "tallyroll replay verify --sample 100 --seed 7 --json",
    "tallyroll replay verify --golden histories/",
    "tallyroll replay verify --metrics     # counts everything anew: some microseconds an event",
)


def add_to(app: typer.Typer) -> None:
    """Adds the command of this module to a collection."""
    app.command(epilog=_EXAMPLES)(verify)


def verify(  # noqa: PLR0913  # one parameter per option
    context: typer.Context,
    *,
    sample: Annotated[int, typer.Option(min=0, metavar="N", help="Owners of each kind to fold from zero and from snapshots.")] = 20,
    seed: Annotated[int, typer.Option(help="Which ones; the same number draws the same.")] = 0,
    golden: Annotated[Path | None, typer.Option(metavar="PATH", help="Golden histories too: a file, or a folder of *.jsonl.")] = None,
    digests: Annotated[bool, typer.Option("--digests/--no-digests", help="Read every archived record and check the digests.")] = True,
    heads: Annotated[bool, typer.Option("--heads/--no-heads", help="Compare the ends of the log with what followers have stored.")] = True,
    metrics: Annotated[
        bool | None,
        typer.Option(
            "--metrics/--no-metrics",
            help="Count the metrics anew from archive and log, and compare what is stored; or leave them out of --json as well.",
            show_default="neither: --json has their hash",
        ),
    ] = None,
    url: Url = None,
    json: Json = False,
) -> None:
    """Hold archive, snapshots, followers and metrics against the history. Exit code 1 if something is wrong.

    With --json it also says what the stores of states and of metrics hold, as hashes: keep that for 'replay restore --expect'.
    """
    session = session_of(context, url, json)
    asked = _Asked(sample, seed, golden, digests, heads, metrics)
    found, segments, histories, stored, counts = run(_verify(session, asked))
    if session.json:
        say_json({
            "sound": not found.wrong, "segments": segments, "owners": found.owners, "snapshots": found.snapshots, "heads": found.heads,
            "pruned": found.pruned,
            "histories": histories, "wrong": [one._asdict() for one in found.wrong], "as_of": stored.as_of,
            "views": {name: {"owners": count, "hash": text} for name, (count, text) in stored.views.items()},
            "metrics": None if counts is None else msgspec.to_builtins(counts),
        })  # fmt: skip
    else:
        say(paint("sound", "bold green") if not found.wrong else paint(counted(len(found.wrong), "finding"), "bold red"))
        say(f"{counted(segments, 'segment')} against their digests, {counted(found.heads, 'head')} of the log")
        say(f"{counted(found.owners, 'owner')} from zero and from {counted(found.snapshots, 'snapshot')}")
        if found.pruned:
            note(f"{counted(found.pruned, 'owner')} cannot be folded from zero: the archive was pruned")
        if metrics and counts is not None:
            say(f"{counted(counts.panes, 'pane')} of metrics against the records they were made of")
        if golden is not None:
            say("1 golden history" if histories == 1 else f"{histories} golden histories")
        if found.wrong:
            table(("what", "where", "why"), [(markup(one.kind, "red"), markup(one.where), markup(one.detail)) for one in found.wrong[:50]])
        if not segments and digests:
            note("nothing is sealed yet: 'tallyroll archive seal'")
    if found.wrong:
        raise typer.Exit(ExitCode.FINDINGS)


class _Asked(NamedTuple):
    sample: int
    seed: int
    golden: Path | None
    digests: bool
    heads: bool
    metrics: bool | None


async def _verify(session: Session, asked: _Asked) -> tuple[Verified, int, int, Fingerprint, PanesFingerprint | None]:
    verified, segments = Verified(), 0
    async with session.roll() as roll:
        replayer = (await roll.replay_engine()).replayer
        if asked.digests and replayer.archive is not None:
            segments = await _digests(session, roll, verified)
        with Progress("owners", asked.sample * len(replayer.fold.views), silent=session.json) as bar:
            async for done in verify_sample(replayer, verified, sample=asked.sample, seed=asked.seed):
                bar.advance_to(done)
        if asked.heads:
            await verify_heads(replayer, verified, await roll.stored_heads())
        histories = await _golden(roll, verified, asked.golden) if asked.golden is not None else 0
        counts = None
        if (session.json if asked.metrics is None else asked.metrics) and ANALYTICS_FOLLOWER in chosen([ALL], roll.settings).names:
            counts = await roll.metrics_fingerprint()
            if asked.metrics and counts is not None:
                await _metrics(session, roll, verified, counts)
        return verified, segments, histories, await roll.state_fingerprint(), counts


async def _metrics(session: Session, roll: Roll, verified: Verified, stored: PanesFingerprint) -> None:
    with recounting_bar(session) as tell:
        again = await roll.recounted_fingerprint(stored, tell)
    if again is not None and (again.panes, again.hash) != (stored.panes, stored.hash):
        detail = f"{stored.panes} panes are stored, {again.panes} come of the records, and they are not the same"
        verified.wrong.append(Wrong("metrics_differ", "analytics", detail))


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

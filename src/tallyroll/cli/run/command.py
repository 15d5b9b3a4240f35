"""``tallyroll run``: keep stores current, as a service."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Final

import typer

from tallyroll.adapters.system.clock import SystemClock
from tallyroll.adapters.system.core_dumps import forbid_core_dumps
from tallyroll.adapters.system.interpreter import serve_calmly
from tallyroll.cli.exits import CommandError, ExitCode, explain
from tallyroll.cli.freshness import behind
from tallyroll.cli.logs import service_log, service_logs
from tallyroll.cli.moments import short_span
from tallyroll.cli.printing import counted, number, say, say_json
from tallyroll.cli.run.services import WORDS, chosen
from tallyroll.cli.run.serving import OFF, Watch, address_of, check_ports, serving
from tallyroll.cli.run.spreading import SHARE, commands, run_spread, shares, stop_with_input
from tallyroll.cli.session import Json, Session, Url, examples, run, session_of, span_of, verbs
from tallyroll.errors import LogUnavailable, TallyrollError
from tallyroll.events.event import iso
from tallyroll.events.ids import utc_now
from tallyroll.follow.loop import FollowLoop
from tallyroll.roll import AUDIT_FOLLOWER, STATE_FOLLOWER, Lag, Roll
from tallyroll.settings import Settings
from tallyroll.telemetry import DEAD_LETTERS, FOLLOW_RETRIES, FOLLOWED, Counters

app = verbs()

_LOG_ANSWERS_S: Final = 5.0  # no line is worth a longer wait for the log
_LAST_ANSWER_S: Final = 1.0  # who stops the service waits for it


@app.command(
    "run",
    epilog=examples(
        "tallyroll run",
        "tallyroll run all               # whatever is configured and installed, with probes and metrics on port 8080",
        "tallyroll run all --processes 2 # the same, on two cores: probes and metrics on ports 8080 and 8081",
        "tallyroll run archive           # keep what topics forget",
        "tallyroll run state bridges     # and Redis and NATS, as far as configured",
        "tallyroll run state --http 127.0.0.1:8080",
        "tallyroll run --once      # until all that is there has been applied, then exit",
        "tallyroll run --interval 1m --json >> state.log",
    ),
)
def run_(  # noqa: PLR0913  # one parameter per option
    context: typer.Context,
    followers: Annotated[
        list[str] | None, typer.Argument(metavar="[FOLLOWER]…", help=f"Any of {', '.join(WORDS)}; {STATE_FOLLOWER} if none is named.")
    ] = None,
    *,
    interval: Annotated[str, typer.Option(metavar="SPAN", help="How often a line is printed.")] = "10s",
    http: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Serve /healthz, /readyz and /metrics there; port 0: any free one; off: nowhere."),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="End when the store has caught up with the log.")] = False,
    processes: Annotated[
        int, typer.Option(metavar="COUNT", min=1, help="Spread the followers over so many processes; each serves on a port of its own.")
    ] = 1,
    share: Annotated[bool, typer.Option(SHARE, hidden=True)] = False,
    url: Url = None,
    json: Json = False,
) -> None:
    """Follow the log and keep what is made of it current: states, the archive, until stopped.

    SIGTERM ends it with exit code 0, Ctrl-C with 130; both store first what has been applied. Several instances share the
    partitions; all of them need the same store. While the log, Redis or NATS cannot be reached it waits. A follower that
    cannot go on ends the whole process, with its reason: the others store what they have applied.
    """
    session = session_of(context, url, json)
    every = span_of(interval, "--interval")
    if every is None or every.total_seconds() <= 0:
        raise CommandError(ExitCode.USAGE, "--interval: expected more than 0", "write 10s or 1m")
    words = list(followers or [STATE_FOLLOWER])
    if once and http not in (None, OFF):
        raise CommandError(ExitCode.USAGE, "--once ends before anybody could ask", "leave out --http, or --once")
    settings = session.settings()
    names, left_out = chosen(words, settings)
    parts = shares(names, processes)
    if len(parts) > 1 and settings.in_memory:
        raise CommandError(ExitCode.USAGE, "--processes: a log in memory is one process's", "leave it out, or name another log")
    if AUDIT_FOLLOWER in names:  # it holds the ledger's keys
        forbid_core_dumps()
    with service_logs(settings), _errors_as_lines(session, settings):
        for name, lack in left_out.items():
            service_log.info("%s is left out; it needs %s", name, lack, extra={"follower": name})
        place = None if once else address_of(http, settings, [*words, *names])
        setting = "TALLYROLL_HTTP_PORT" if http is None else "--http"
        if len(parts) > 1:
            check_ports(place, len(parts), setting=setting)
            options = ["--interval", interval, *(["--once"] if once else []), *(["--json"] if session.json else [])]
            raise typer.Exit(run(run_spread(commands(parts, session.options, options, place), once=once)))
        if once:
            run(_once(session, settings, names, share=share))
        else:
            run(_serve(session, settings, names, every.total_seconds(), setting, place, share=share))


@contextmanager
def _errors_as_lines(session: Session, settings: Settings) -> Iterator[None]:
    """Where standard error holds one JSON object per line, what ends the service is one of them."""
    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        if settings.log_format != "json" or session.json:
            raise
        trouble = explain(error)
        service_log.error(trouble.what, extra={"error": trouble.type, "next": trouble.next_step})
        raise typer.Exit(trouble.code) from None


async def _once(session: Session, settings: Settings, names: Sequence[str], *, share: bool) -> None:
    """Follows until the stores have what is there. An error of the log ends it."""
    stop, counters = _told_to_stop(share=share), Counters()
    async with Roll.open(settings, telemetry=counters) as roll:
        serve_calmly()
        _introduce(settings, names)
        finished = asyncio.ensure_future(roll.run(*names))
        try:
            while (await behind(roll, *names)).records and not finished.done() and not stop.is_set():
                await asyncio.wait({finished}, timeout=0.1)
            if finished.done():
                finished.result()  # raises what ended the loop
        finally:
            finished.cancel()
        lags = await roll.lag(*names)
        _Lines(session, counters, names).line(sum(lag.records for lag in lags), None, ahead=_ahead(lags))
    service_log.info("%sstopped; all that was applied is stored", _whose(names, share=share))
    if ahead := _ahead(lags):
        _tell_ahead(ahead)
        raise typer.Exit(ExitCode.FINDINGS)


async def _serve(  # noqa: PLR0913  # what the options say
    session: Session,
    settings: Settings,
    names: Sequence[str],
    every_s: float,
    setting: str,
    place: tuple[str, int] | None,
    *,
    share: bool,
) -> None:
    stop, counters = _told_to_stop(share=share), Counters()
    watch = Watch(SystemClock())
    async with AsyncExitStack() as stack:
        url = stack.enter_context(serving(place, watch, counters, setting=setting))
        if url is not None:  # before anything is opened, so that a taken port disturbs no group
            service_log.info("%sserving %s/healthz, /readyz and /metrics", _whose(names, share=share), url)
        beat = asyncio.create_task(watch.beat())
        stack.callback(beat.cancel)  # last of all: it beats while what was applied is being stored
        roll = await stack.enter_async_context(Roll.open(settings, telemetry=counters))
        loops = {name: await roll.follow(name) for name in names}
        watch.begin(loops)
        serve_calmly()
        _introduce(settings, names)
        watching: set[asyncio.Task[Any]] = {asyncio.create_task(roll.run(*names)), asyncio.create_task(stop.wait())}
        if url is not None:
            watching.add(asyncio.create_task(watch.look(roll)))
        try:
            await _report(roll, names, _Lines(session, counters, names), every_s, watching)
        finally:
            watch.stopping = True
            for task in watching:
                task.cancel()
            await _drain(loops)
    service_log.info("%sstopped; all that was applied is stored", _whose(names, share=share))


async def _drain(loops: Mapping[str, FollowLoop]) -> None:
    """All followers at once store what they have applied; says which of them had ended by itself."""
    for name, loop in loops.items():
        if loop.failure is not None:
            kind = type(loop.failure).__name__
            service_log.error(
                "%s has ended (%s); the others store what they have applied", name, kind, extra={"follower": name, "error": kind}
            )
    await asyncio.gather(*(loop.stop() for loop in loops.values()))


async def _report(roll: Roll, names: Sequence[str], lines: _Lines, every_s: float, until: set[asyncio.Task[Any]]) -> None:
    """A line each interval, the last one when one of the tasks has ended; raises what ended it."""
    ended: set[asyncio.Task[Any]] = set()
    told: Sequence[str] = ()
    since = roll.clock.monotonic()
    while not ended:
        ended, _ = await asyncio.wait(until, timeout=every_s, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            task.result()
        left: int | None = None
        ahead: Sequence[str] = ()
        unknown = "no answer yet how far behind"
        try:
            async with asyncio.timeout(_LAST_ANSWER_S if ended else _LOG_ANSWERS_S):
                lags = await roll.lag(*names)
            left, ahead = sum(lag.records for lag in lags), _ahead(lags)
        except TimeoutError:
            pass
        except TallyrollError as error:  # the loops wait for the log too
            if not error.retriable:
                raise
            unknown = "the log cannot be reached" if isinstance(error, LogUnavailable) else "a store cannot be reached"
        if left is not None and ahead != told:
            told = ahead
            if ahead:
                _tell_ahead(ahead)
        now = roll.clock.monotonic()  # the last line comes early, and one for which the log had to be waited for comes late
        lines.line(left, now - since, unknown, ahead)
        since = now


def _ahead(lags: Sequence[Lag]) -> Sequence[str]:
    return sorted({lag.follower for lag in lags if lag.ahead})


def _tell_ahead(followers: Sequence[str]) -> None:
    """Being up to date with such a log is no good news."""
    text = "what %s has stored is ahead of the log: that is an older copy, or another, and what it gets next would be passed over"
    who = ", ".join(followers)
    service_log.error(f"{text}; 'tallyroll doctor' says what to do", who, extra={"follower": who})


def _introduce(settings: Settings, names: Sequence[str]) -> None:
    groups = ", ".join(map(settings.group, names))
    service_log.info("following %s as %s; store in %s", settings.url, groups, settings.data_dir)


def _whose(names: Sequence[str], *, share: bool) -> str:
    """What a line begins with where several processes write theirs: the followers that it is about."""
    return f"{', '.join(names)}: " if share else ""


def _told_to_stop(*, share: bool) -> asyncio.Event:
    """Set by SIGTERM from here on, for a share also by the end of standard input."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    if share:
        stop_with_input(stop)
    return stop


@dataclass(slots=True)
class _Lines:
    """A line per interval: who has applied how much since the one before, and what is left."""

    session: Session
    counters: Counters
    names: Sequence[str]
    _before: float = 0.0

    def line(self, left: int | None, passed_s: float | None, unknown: str = "", ahead: Sequence[str] = ()) -> None:
        applied = self.counters.value(FOLLOWED)
        fresh, self._before = applied - self._before, applied
        letters, retries = int(self.counters.value(DEAD_LETTERS)), int(self.counters.value(FOLLOW_RETRIES))
        if self.session.json:
            line = {"time": iso(utc_now()), "followers": [*self.names], "applied": int(fresh), "behind": left}
            say_json({**line, "ahead": [*ahead], "dead_letters": letters, "retries": retries})
        else:
            speed = "" if passed_s is None else f" in {short_span(passed_s)}"
            trouble = "".join(f", {counted(count, what)}" for count, what in ((letters, "dead letter"), (retries, "retry")) if count)
            rest = unknown if left is None else f"{number(left)} behind"
            rest += f", {' and '.join(ahead)} ahead of the log" if ahead else ""
            say(f"{iso(utc_now())[:19]}Z  {', '.join(self.names)}: {number(int(fresh))} applied{speed}, {rest}{trouble}")
        sys.stdout.flush()

"""What the commands about metrics share: options, the engine at a moment, values in words."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from decimal import Decimal
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tallyroll.cli.exits import CommandError, ExitCode
from tallyroll.cli.freshness import catch_up
from tallyroll.cli.moments import short_span
from tallyroll.cli.printing import counted, number, plain
from tallyroll.cli.session import Session, moment_of

if TYPE_CHECKING:
    from tallyroll.analytics.query import AnalyticsEngine

NEWEST: Final = "newest"

Window = Annotated[str | None, typer.Option("--window", metavar="NAME", help="1min, 5min, 15min, 1hour or 1day.")]
At = Annotated[
    str | None,
    typer.Option("--at", metavar="WHEN", help="End there instead of now: ISO 8601 with a zone, 10m, 2h, 1d ago, or newest (event)."),
]
By = Annotated[str, typer.Option("--by", metavar="METRIC", help="Which metric; 'tallyroll analytics metrics' lists them.")]
Function = Annotated[
    str | None,
    typer.Option("--function", metavar="NAME", help="sum avg min max count median p95 p99 stddev or rate; else the metric's usual one."),
]
Dimension = Annotated[str, typer.Option("--dimension", metavar="NAME", help="fleet, agent, task_type, tool, model, tenant or an own one.")]
Key = Annotated[str, typer.Option("--key", metavar="KEY", help="Which agent, tool, …; the fleet has none.")]
Wait = Annotated[float, typer.Option("--wait", min=0, metavar="S", help="How long to let the panes catch up first, in seconds.")]


_LISTED_BY: Final = {"agent": "tallyroll agents ls"}


async def unknown(engine: AnalyticsEngine, dimension: str, key: str) -> str:
    """What to say of a key that has no values in a window: whether it has any at all, and which ones are spelt alike."""
    known = await engine.known(dimension)
    name, kind = plain(key), dimension.replace("_", " ")
    if key in known:
        return f"nothing of {name} in that time; --at newest looks at the newest events, --window 1day at more of them"
    close = ", ".join(map(plain, get_close_matches(key, known, n=3)))
    listed = _LISTED_BY.get(dimension, f"tallyroll analytics top --dimension {dimension} --window 1day")
    return f"no {kind} {name} is known: no event that is counted names it" + (
        f"; did you mean {close}?" if close else f"; '{listed}' lists those that are"
    )


def left_out_in_words(left_out: Mapping[str, int]) -> str:
    """What is in no number, in a few words; empty if there is nothing."""
    words = {"too_old": "too old for the panes that are kept", "unreadable": "unreadable"}
    told = [f"{counted(count, 'event')} {words.get(reason, reason)}" for reason, count in left_out.items()]
    return f"left out: {', '.join(told)}" if told else ""


def usage(what: str, next_step: str) -> CommandError:
    """A wrong word on the command line."""
    return CommandError(ExitCode.USAGE, what, next_step)


@asynccontextmanager
async def engine_at(session: Session, at: str | None, wait_s: float) -> AsyncIterator[tuple[AnalyticsEngine, datetime | None]]:
    """The engine over what is stored, brought up to date where that disturbs nobody, and the moment that was asked for."""
    moment = None if at in (None, NEWEST) else moment_of(at, "--at")
    async with session.roll() as roll:
        await catch_up(roll, wait_s, "analytics")
        engine = await roll.analytics(follow=False)
        if at == NEWEST:
            moment = await engine.newest()
            if moment is None:
                raise CommandError(ExitCode.NOT_FOUND, "no event is counted yet", "'tallyroll run analytics' counts them")
        yield engine, moment


def in_words(found: Mapping[str, Any]) -> dict[str, str]:
    """Values as text with their units; what is unknown is left out."""
    return {
        name.removesuffix("_percent").replace("_", " "): _word(name, value) for name, value in found.items() if value not in (None, {}, [])
    }


def _word(name: str, value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_word(str(key), one)}" for key, one in value.items())
    if isinstance(value, Decimal):
        return f"{value:,.4f}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return _measure(name, value)


def _measure(name: str, value: float) -> str:
    if name.startswith(("response_time", "latency", "tool_latency")):
        seconds = value / 1_000
        return f"{seconds:.0f} s" if 60 <= seconds < 600 else short_span(seconds)  # noqa: PLR2004  # whole minutes say too little here
    if name.endswith(("_rate", "_percent")):
        return f"{value:.1f} %"
    if name == "throughput":
        return f"{value:,.2f} a minute"
    return number(value) if isinstance(value, int) else f"{value:,.6g}"

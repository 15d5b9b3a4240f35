"""``tallyroll analytics top``: a ranking that is drawn anew while one looks."""

from __future__ import annotations

import sys
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

from tallyroll.cli.analytics.asking import engine_at, usage
from tallyroll.cli.analytics.chart import sparkline
from tallyroll.cli.printing import console, markup, name_width, note, say_json, width
from tallyroll.cli.session import Session
from tallyroll.errors import SettingsError

if TYPE_CHECKING:
    from rich.table import Table

    from tallyroll.analytics.query import AnalyticsEngine, Ranked

_EVERY_S: Final = 1.0
_NOTHING: Final = "nothing in that window; '--at newest' looks at the newest events, 'tallyroll run analytics' counts them"
_TREND: Final = timedelta(minutes=20)  # a column for each minute of it


class Ranking(NamedTuple):
    """What is ranked, by what."""

    metric: str
    function: str | None
    dimension: str
    window: str
    limit: int
    lowest: bool


async def top(session: Session, ranking: Ranking, at: str | None, wait_s: float, *, live: bool) -> None:
    """Shows the ranking once, or until it is interrupted."""
    async with engine_at(session, at, wait_s) as (engine, moment):
        if session.json:
            for place, one in enumerate(await _ranked(engine, ranking, moment), 1):
                say_json({"rank": place, ranking.dimension: one.key, "value": one.value, "unit": _unit(engine, ranking)})
        elif not (live and sys.stdout.isatty()):
            await _once(engine, ranking, moment)
        else:
            await _live(engine, ranking)


async def _once(engine: AnalyticsEngine, ranking: Ranking, moment: datetime | None) -> None:
    found = await _ranked(engine, ranking, moment)
    if not found:
        note(_NOTHING)
        return
    console().print(await _table(engine, ranking, found, moment))


async def _live(engine: AnalyticsEngine, ranking: Ranking) -> None:
    from rich.live import Live  # noqa: PLC0415  # 50 ms that most commands need not spend

    with Live(console=console(), screen=True, auto_refresh=False) as screen:
        while True:
            screen.update(await _table(engine, ranking, await _ranked(engine, ranking, None), None), refresh=True)
            await engine.changed(_EVERY_S)


async def _ranked(engine: AnalyticsEngine, ranking: Ranking, moment: datetime | None) -> list[Ranked]:
    try:
        return await engine.top(
            ranking.metric, ranking.function, ranking.dimension, ranking.window, limit=ranking.limit, lowest=ranking.lowest, at=moment
        )
    except SettingsError:
        raise  # of the window, and says which there are
    except ValueError as error:
        raise usage(str(error), "'tallyroll analytics metrics' lists what there is") from None


async def _table(engine: AnalyticsEngine, ranking: Ranking, found: list[Ranked], moment: datetime | None) -> Table:
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415  # as above
    from rich.table import Table  # noqa: PLC0415  # as above

    end = moment or engine.now()
    unit = _unit(engine, ranking)
    name = f"{ranking.metric} {ranking.function or ''}".strip()
    about = f"trend over {_TREND.seconds // 60} minutes" if found else _NOTHING
    made = Table(
        box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="dim", caption_style="dim", caption_justify="left",
        caption=f"{ranking.window} up to {end:%Y-%m-%d %H:%M:%S} UTC; {about}",
    )  # fmt: skip
    names = name_width(markup(one.key) for one in found)
    made.add_column(ranking.dimension, min_width=names, no_wrap=names is not None)
    made.add_column(f"{name}, {unit}", justify="right", no_wrap=True)
    made.add_column("", no_wrap=True)
    made.add_column("trend", no_wrap=True)
    most = max((abs(one.value) for one in found), default=0.0) or 1.0
    bar = max(6, ((width() or 100) - 70) // 2)
    for one in found:
        points = await engine.series(ranking.metric, ranking.function, ranking.dimension, one.key, start=end - _TREND, end=end, step="1min")
        made.add_row(
            markup(one.key, "bold"),
            f"{one.value:,.6g}" if one.value % 1 else f"{one.value:,.0f}",
            markup("━" * round(bar * abs(one.value) / most), "cyan"),
            sparkline([point.value for point in points]),
        )
    return made


def _unit(engine: AnalyticsEngine, ranking: Ranking) -> str:
    return engine.metrics.reading(ranking.metric, ranking.function, ranking.dimension).unit

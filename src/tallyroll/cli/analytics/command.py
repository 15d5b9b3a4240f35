"""``tallyroll analytics``: numbers of agents, tools, models and the fleet, now or at a moment, as tables and as pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any, Final

import typer

from tallyroll.analytics.query import AnalyticsEngine
from tallyroll.cli.analytics import alerts, watch
from tallyroll.cli.analytics.asking import (
    At,
    By,
    Dimension,
    Function,
    Key,
    Wait,
    Window,
    engine_at,
    in_words,
    left_out_in_words,
    unknown,
    usage,
)
from tallyroll.cli.analytics.chart import chart
from tallyroll.cli.exits import CommandError
from tallyroll.cli.moments import short_span
from tallyroll.cli.printing import markup, note, number, paint, plain, say, say_json, spread, table, width
from tallyroll.cli.session import Json, Session, Url, examples, group_of, moment_of, run, session_of, span_of, verbs
from tallyroll.events.event import iso

app = verbs()
group_of(app, "Live numbers of agents, tools, models and the fleet; anomalies and alerts.")
alerts.add_to(app)

_KINDS: Final = ("fleet", "agent", "task-type", "tool", "model", "tenant")
_ABOUT: Final = ("time_window", "window_start", "window_end", "watermark", "truncated", "coverage", "left_out", "as_of")
_SIGNS: Final = ("events_processed", "tasks_started", "tasks_completed", "tasks_failed", "calls", "tokens", "cost")
_HIGHEST_POINTS: Final = 240  # of a plot without --step: some for each column


@app.command(
    epilog=examples(
        "tallyroll analytics show",
        "tallyroll analytics show agent coder-001 --window 1day",
        "tallyroll analytics show tool web_search --at newest --json",
    )
)
def show(  # noqa: PLR0913  # one parameter per option
    context: typer.Context,
    kind: Annotated[str, typer.Argument(metavar="[KIND]", help=f"What it is about: {', '.join(_KINDS)}.")] = "fleet",
    key: Annotated[str, typer.Argument(metavar="[KEY]", help="Which agent, task type, tool, model or tenant.")] = "",
    *,
    window: Window = None,
    at: At = None,
    wait: Wait = 10.0,
    url: Url = None,
    json: Json = False,
) -> None:
    """All numbers of one agent, tool, model or of the fleet in a window: response times, success, throughput, tokens, cost.

    The window ends now, or with the minute of --at. What has no events is empty, never made up.
    """
    if kind not in _KINDS:
        raise usage(f"there is no {plain(kind)} to show", f"write one of {', '.join(_KINDS)}")
    if (kind == "fleet") == bool(key):
        raise usage(*(("the fleet has no key", "leave it out") if key else (f"which {kind}?", "'tallyroll analytics top' lists some")))
    session = session_of(context, url, json)
    found, hint = run(_performance(session, kind, key, window, at, wait))
    if session.json:
        say_json(found)
        return
    _say_performance(kind, key, found)
    if hint:
        note(hint)


async def _performance(  # noqa: PLR0913  # one per option
    session: Session, kind: str, key: str, window: str | None, at: str | None, wait_s: float
) -> tuple[Mapping[str, Any], str]:
    """The answer, and what to say where it is empty."""
    async with engine_at(session, at, wait_s) as (engine, moment):
        if kind == "fleet":
            return await engine.get_system_analytics(window, at=moment), ""
        asked = {
            "agent": engine.get_agent_analytics, "task-type": engine.get_task_analytics, "tool": engine.get_tool_analytics,
            "model": engine.get_model_analytics, "tenant": engine.get_tenant_analytics,
        }[kind]  # fmt: skip
        found: Mapping[str, Any] = await asked(key, window, at=moment)
        is_empty = not any(found.get(name) for name in _SIGNS) and not found["metrics"]
        return found, await unknown(engine, kind.replace("-", "_"), key) if is_empty else ""


def _say_performance(kind: str, key: str, found: Mapping[str, Any]) -> None:
    start, end = found["window_start"], found["window_end"]
    day = "" if end.date() == start.date() else f"{end:%Y-%m-%d} "
    span = f"{start:%Y-%m-%d %H:%M} to {day}{end:%H:%M} UTC"
    say(f"{paint(plain(key or kind), 'bold')}  {paint(span, 'dim')}")
    say()
    lists = {name: value for name, value in found.items() if isinstance(value, list)}
    spread(in_words({name: value for name, value in found.items() if name not in (*_ABOUT, *lists, "metrics")}).items())
    for name, functions in found.get("metrics", {}).items():
        spread([(name.replace("_", " "), ", ".join(f"{function} {value:,.6g}" for function, value in functions.items()))])
    for name, rows in lists.items():
        if rows:
            say()
            say(paint(name.replace("_", " "), "bold"))
            listed = [in_words(row) for row in rows]
            columns = list(dict.fromkeys(column for row in listed for column in row))
            table(columns, [[markup(row.get(column, "-")) for column in columns] for row in listed], right=columns[1:])
    say()
    said = "nothing is counted yet" if found["watermark"] is None else f"newest event {iso(found['watermark'])}"
    more = "; more keys than are kept: some events are under another name" if found["truncated"] else ""
    left_out = f"; {words}" if (words := left_out_in_words(found["left_out"])) else ""
    say(paint(f"{said}; {found['coverage']:.0%} of the window seen{more}{left_out}", "dim"))


@app.command(
    epilog=examples(
        "tallyroll analytics top                          # the busiest agents, drawn anew every second",
        "tallyroll analytics top --by response_time --function p95 --once",
        "tallyroll analytics top --dimension tool --by tool_latency --window 5min --json",
    )
)
def top(  # noqa: PLR0913  # one parameter per option
    context: typer.Context,
    *,
    by: By = "events_processed",
    function: Function = None,
    dimension: Dimension = "agent",
    window: Window = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
    lowest: Annotated[bool, typer.Option("--lowest", help="The lowest first.")] = False,
    once: Annotated[bool, typer.Option("--once", help="One table instead of one that changes.")] = False,
    at: At = None,
    wait: Wait = 10.0,
    url: Url = None,
    json: Json = False,
) -> None:
    """Who has the most of something: agents by events, tools by latency, models by cost; live in a terminal.

    Without a terminal, with --once, --at or --json: one table. Ctrl-C ends the live view.
    """
    session = session_of(context, url, json)
    ranking = watch.Ranking(by, function, dimension, window or session.settings().analytics_window, limit, lowest)
    run(watch.top(session, ranking, at, wait, live=not (once or json or session.json or at is not None)))


@app.command(
    epilog=examples(
        "tallyroll analytics series response_time --function p95",
        "tallyroll analytics series tokens --dimension agent --key coder-001 --since 6h --step 5m",
        "tallyroll analytics series error_rate --since 1d --json",
    )
)
def series(  # noqa: PLR0913  # one parameter per option
    context: typer.Context,
    metric: Annotated[str, typer.Argument(help="Which metric; 'tallyroll analytics metrics' lists them.")],
    *,
    function: Function = None,
    dimension: Dimension = "fleet",
    key: Key = "",
    since: Annotated[str, typer.Option(metavar="WHEN", help="From when on: ISO 8601 with a zone, or an age before the end.")] = "1h",
    at: At = None,
    step: Annotated[str | None, typer.Option(metavar="SPAN", help="Width of a point; fitting to the picture if not given.")] = None,
    wait: Wait = 10.0,
    url: Url = None,
    json: Json = False,
) -> None:
    """One metric over time, as a picture; with --json one point per line. A gap is time without events."""
    session = session_of(context, url, json)
    run(_series(session, metric, function, dimension, key, since, at, span_of(step, "--step"), wait))


async def _series(  # noqa: PLR0913  # one per option
    session: Session, metric: str, function: str | None, dimension: str, key: str, since: str, at: str | None,
    step: timedelta | None, wait_s: float,
) -> None:  # fmt: skip
    async with engine_at(session, at, wait_s) as (engine, moment):
        end = moment if moment is not None else engine.now()
        start = _since(since, end)
        width_s = _spec_width(engine, metric)
        chosen = step or timedelta(seconds=max(width_s, (round((end - start).total_seconds()) // _HIGHEST_POINTS // width_s + 1) * width_s))
        try:
            reading = engine.metrics.reading(metric, function, dimension)
            points = await engine.series(metric, function, dimension, key, start=start, end=end, step=chosen)
        except ValueError as error:
            raise usage(str(error), "'tallyroll analytics metrics' lists what there is") from None
        left_out = left_out_in_words(await engine.left_out(start=start, end=end))
        is_empty = not any(point.value for point in points)
        hint = (
            await unknown(engine, dimension, key) if key and is_empty else f"nothing of {plain(metric)} in that time; see --since and --at"
        )
    if left_out:
        note(left_out)
    if session.json:
        for point in points:
            say_json({"start": iso(point.start), "value": point.value, "unit": reading.unit})
        return
    if is_empty:
        note(hint)
        return
    name = f"{metric} {function or ''}".strip()
    say(paint(f"{plain(name)} of {plain(key or dimension)}, {reading.unit}, each {short_span(chosen.total_seconds())}", "bold"))
    for line in chart([point.value for point in points], [point.start for point in points], columns=width() or 100):
        say(line)


def _since(text: str, end: datetime) -> datetime:
    if (moment := moment_of(text, "--since")) is None:  # never: the option has a default
        return end
    try:
        age = span_of(text, "--since")
    except CommandError:
        return moment
    return end - (age or timedelta())


def _spec_width(engine: AnalyticsEngine, metric: str) -> int:
    try:
        return engine.metrics.reading(metric).spec.pane_s
    except ValueError as error:
        raise usage(str(error), "'tallyroll analytics metrics' lists what there is") from None


@app.command(epilog=examples("tallyroll analytics metrics", "tallyroll analytics metrics --json"))
def metrics(context: typer.Context, *, url: Url = None, json: Json = False) -> None:
    """Every metric: unit, what it counts, for which dimensions it is kept; those of TALLYROLL_METRICS_FILE as well."""
    import msgspec  # noqa: PLC0415  # only here

    from tallyroll.opening import metrics_of  # noqa: PLC0415  # a tenth of a second that --help need not spend

    session = session_of(context, url, json)
    specs = metrics_of(session.settings())
    if session.json:
        for spec in specs:
            say_json(msgspec.to_builtins(spec))
        return
    rows: Sequence[Sequence[str]] = [
        (markup(spec.name, "bold"), markup(spec.unit), markup(", ".join(spec.per)), markup(spec.help)) for spec in specs
    ]
    table(("metric", "unit", "kept per", "what"), rows)
    note(f"{number(len(specs))} metrics; success_rate and error_rate are read from success, and so are those of tools")


@app.command(
    epilog=examples(
        "tallyroll analytics rules > tallyroll.rules.yml", "tallyroll analytics rules --objective 99.5 --job my-agents > rules.yml"
    )
)
def rules(
    *,
    job: Annotated[str, typer.Option(help="The name of the scrape job in Prometheus.")] = "analytics-pipeline",
    objective: Annotated[float, typer.Option(min=50, max=99.999, help="Percent of tasks that shall end well.")] = 99.0,
    json: Json = False,
) -> None:
    """Alerting rules for Prometheus about this installation, as YAML: pass them through 'promtool check rules'."""
    from tallyroll.analytics.prometheus_rules import RuleOptions, rules_document, rules_file  # noqa: PLC0415  # only here

    options = RuleOptions(job=job, objective=objective / 100)
    if json:
        say_json(rules_document(options))
    else:
        say(rules_file(options).rstrip("\n"))

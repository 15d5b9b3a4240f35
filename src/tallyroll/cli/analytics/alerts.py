"""``tallyroll analytics anomalies|alerts|silence|correlate|backtest``: what is unusual, who was told, what goes together."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tallyroll.cli.analytics.asking import At, Dimension, Function, Key, Wait, engine_at, usage
from tallyroll.cli.exits import CommandError, ExitCode
from tallyroll.cli.moments import age, short_span
from tallyroll.cli.printing import counted, markup, note, number, paint, plain, say, say_json, table
from tallyroll.cli.session import Json, Session, Url, examples, moment_of, run, session_of, span_of
from tallyroll.events.event import AgentEvent, iso
from tallyroll.events.ids import new_id, utc_now
from tallyroll.events.moments import EPOCH
from tallyroll.opening import DETECTORS, new_detector
from tallyroll.ports import Detector

if TYPE_CHECKING:
    from tallyroll.analytics.alerts.lifecycle import Silence
    from tallyroll.analytics.spec import MetricSpec

_TOLD: Final = ("severity", "state", "message", "metric_name", "dimension", "key", "dedup_key")
_SEVERITY_STYLES: Final[Mapping[str, str]] = {"critical": "bold red", "high": "red", "medium": "yellow", "low": "dim"}

Since = Annotated[str, typer.Option("--since", metavar="WHEN", help="From when on: ISO 8601 with a zone, or an age such as 1h, 1d.")]


def add_to(app: typer.Typer) -> None:
    """Adds the commands of this module to a collection."""
    app.command(epilog=examples("tallyroll analytics anomalies", "tallyroll analytics anomalies --since 7d --severity high --json"))(
        anomalies
    )
    app.command(epilog=examples("tallyroll analytics alerts", "tallyroll analytics alerts --json"))(alerts)
    app.command(
        epilog=examples(
            "tallyroll analytics silence --metric response_time --for 2h --why 'load test'",
            "tallyroll analytics silence --key 'batch-*' --for 1d --why 'new fleet'",
            "tallyroll analytics silence --end 01a2…",
        )
    )(silence)
    app.command(
        epilog=examples(
            "tallyroll analytics correlate response_time",
            "tallyroll analytics correlate tool_error_rate --since 1d --dimension tool --json",
        )
    )(correlate)
    app.command(
        epilog=examples(
            "tallyroll analytics backtest response_time",
            "tallyroll analytics backtest tool_latency --dimension tool --key web_search --since 7d",
            "tallyroll analytics backtest response_time --labels incidents.json --threshold 0.85 --json",
            "tallyroll analytics backtest response_time --detector moving-average",
        )
    )(backtest)


def anomalies(  # noqa: PLR0913  # one parameter per option
    context: typer.Context,
    *,
    since: Since = "1d",
    severity: Annotated[str | None, typer.Option(help="At least: low, medium, high or critical.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest.")] = 50,
    url: Url = None,
    json: Json = False,
) -> None:
    """What was reported as unusual, as the log has it: when, how bad, what, and which events show it."""
    session, begin = session_of(context, url, json), moment_of(since, "--since")
    if severity is not None and severity not in _SEVERITY_STYLES:
        raise usage(f"--severity: {plain(severity)} is none", f"write one of {', '.join(_SEVERITY_STYLES)}")
    found = run(_anomalies(session, begin))
    ranks = list(_SEVERITY_STYLES)
    if severity is not None:
        found = [one for one in found if one["severity"] in ranks[: ranks.index(severity) + 1]]
    if session.json:
        for one in found[-limit:]:
            say_json(one)
        return
    if not found:
        note("nothing unusual was reported in that time; 'tallyroll run analytics' looks out for it")
        return
    rows = [
        (
            markup(one["time"][:19]),
            markup(one["severity"], _SEVERITY_STYLES.get(one["severity"], "")),
            markup(one["state"], "bold" if one["state"] == "firing" else "dim"),
            markup(one["message"]),
            markup(next((shown["position"] for shown in one["evidence"]), "")),
        )
        for one in found[-limit:]
    ]
    table(("since (UTC)", "severity", "state", "what", "first event"), rows)


async def _anomalies(session: Session, since: datetime | None) -> list[dict[str, Any]]:
    found = []
    async with session.roll() as roll:
        async for seen in roll.tail(since=since):
            if isinstance(seen.event, AgentEvent) and seen.event.event_type == "anomaly.detected":
                payload = seen.event.payload
                told = {name: payload.get(name) for name in _TOLD}
                evidence = payload.get("evidence") or []
                found.append({"time": iso(seen.event.timestamp), "id": seen.event.event_id, **told, "evidence": evidence})
    return found


def alerts(context: typer.Context, *, url: Url = None, json: Json = False) -> None:
    """Alerts that are pending or firing now, and the silences in force, as the store has them."""
    session = session_of(context, url, json)
    run(_alerts(session))


async def _alerts(session: Session) -> None:
    async with session.roll() as roll:
        found, silences = await roll.open_alerts()
    now = utc_now()
    if session.json:
        for alert in found:
            say_json({"kind": "alert", **alert})
        for one in silences:
            say_json({"kind": "silence", **one})
        return
    if not found:
        note("no alert is open")
    rows = [
        (
            markup(one["severity"], _SEVERITY_STYLES.get(one["severity"], "")),
            markup(one["state"], "bold" if one["state"] == "firing" else "dim"),
            markup(one["detector"]),
            markup(one["summary"]),
            markup(age(one["since"], now)),
        )
        for one in found
    ]
    if rows:
        table(("severity", "state", "found by", "what", "since"), rows)
    for one in silences:
        what = ", ".join(f"{name} {plain(one[name])}" for name in ("rule", "metric", "dimension", "key") if one[name] is not None)
        say(paint(f"silent until {one['end']:%Y-%m-%d %H:%M} UTC: {what or 'everything'} ({plain(one['why'])}); id {one['id']}", "dim"))


def silence(  # noqa: PLR0913  # one parameter per option
    context: typer.Context,
    *,
    metric: Annotated[str | None, typer.Option(help="Only of this metric.")] = None,
    dimension: Annotated[str | None, typer.Option(help="Only of this dimension.")] = None,
    key: Annotated[str | None, typer.Option(help="Only of this agent, tool, …; one that ends in * means all that begin so.")] = None,
    rule: Annotated[str | None, typer.Option(help="Only of this rule or detector.")] = None,
    length: Annotated[str, typer.Option("--for", metavar="SPAN", help="How long.")] = "1h",
    why: Annotated[str, typer.Option(help="For those who wonder, and kept with it; required, except with --end.")] = "",
    end: Annotated[str | None, typer.Option("--end", metavar="ID", help="Ends the silence with this id instead.")] = None,
    url: Url = None,
    json: Json = False,
) -> None:
    """Keep alerts quiet for a while: they are still found and shown here, but nobody is told. --end takes it back."""
    session = session_of(context, url, json)
    if end is not None:
        run(_end_silence(session, end))
        note("ended; what still fires is told with the next look")
        return
    lasts = span_of(length, "--for") or timedelta()
    if lasts < timedelta(seconds=1):
        raise usage("--for: expected at least a second", "write --for 2h")
    if not why:
        raise usage("--why: say why it is silent", "write --why 'load test until five'")
    from tallyroll.opening import metrics_of  # noqa: PLC0415  # a tenth of a second that --help need not spend

    specs = metrics_of(session.settings())
    names = [spec.name for spec in specs]
    if metric is not None and metric not in names:  # alerts carry these names; another one would keep nothing quiet
        raise usage(f"--metric: there is no {plain(metric)}", f"write one of {', '.join(names)}")
    from tallyroll.analytics.alerts.lifecycle import Silence  # noqa: PLC0415  # a tenth of a second that --help need not spend

    now = int(utc_now().timestamp())
    made = Silence(
        id=new_id(), start=now, end=now + int(lasts.total_seconds()), by="command line", why=why, rule=rule, metric=metric,
        dimension=dimension, key=key,
    )  # fmt: skip
    run(_silence(session, made, specs))
    if session.json:
        say_json({"id": made.id, "end": iso(datetime.fromtimestamp(made.end, UTC))})
    else:
        say(made.id)


async def _silence(session: Session, made: Silence, specs: Sequence[MetricSpec]) -> None:
    from tallyroll.analytics.alerts.rules import told_by  # noqa: PLC0415  # needs the extra
    from tallyroll.opening import alert_rules_of  # noqa: PLC0415  # as above

    async with session.roll() as roll:
        if made.rule is not None:
            known = told_by(alert_rules_of(session.settings(), specs))
            # What is open may be of a rule in a file that the service has, and this command has not.
            known += sorted({one["detector"] for one in (await roll.open_alerts())[0]} - set(known))
            if made.rule not in known:
                files = "rules of a file are known where TALLYROLL_ALERTS_FILE names it"
                raise usage(f"--rule: there is no {plain(made.rule)}; {files}", f"write one of {', '.join(map(plain, known))}")
        await roll.silence(made)


async def _end_silence(session: Session, silence_id: str) -> None:
    async with session.roll() as roll:
        _, silences = await roll.open_alerts()
        if silence_id not in {one["id"] for one in silences}:
            raise CommandError(ExitCode.NOT_FOUND, "no silence in force has this id", "'tallyroll analytics alerts' lists them")
        await roll.end_silence(silence_id)


def correlate(  # noqa: PLR0913  # one parameter per option
    context: typer.Context,
    metric: Annotated[str, typer.Argument(help="Which metric, for instance response_time or error_rate.")],
    *,
    function: Function = None,
    dimension: Dimension = "agent",
    since: Since = "3h",
    at: At = None,
    wait: Wait = 10.0,
    url: Url = None,
    json: Json = False,
) -> None:
    """Which agents (tools, models) move together, with coefficient, lag and false discovery rate. It says nothing of causes."""
    session = session_of(context, url, json)
    run(_correlate(session, metric, function, dimension, since, at, wait))


async def _correlate(  # noqa: PLR0913  # one per option
    session: Session, metric: str, function: str | None, dimension: str, since: str, at: str | None, wait_s: float
) -> None:
    async with engine_at(session, at, wait_s) as (engine, moment):
        end = moment if moment is not None else engine.now()
        begin = end - (span_of(since, "--since") or timedelta())
        try:
            found = await engine.correlate(metric, function, dimension, start=begin, end=end)
        except ValueError as error:
            raise usage(str(error), "'tallyroll analytics metrics' lists what there is") from None
    if session.json:
        for one in found.found:
            say_json({"a": one.a, "b": one.b, "coefficient": one.coefficient, "lag": one.lag, "n": one.n, "q": one.q})
    for one in found.found if not session.json else ():
        say(plain(one))
    left = f"; {number(found.left_out)} less busy ones were left out" if found.left_out else ""
    note(f"{counted(found.keys, 'key')} compared{left}; {number(len(found.found))} pairs move together")


def backtest(  # noqa: PLR0913  # one parameter per option
    context: typer.Context,
    metric: Annotated[str, typer.Argument(help="Which metric.")],
    *,
    dimension: Dimension = "fleet",
    key: Key = "",
    since: Annotated[str | None, typer.Option(metavar="WHEN", help="From when on, by the log's time; its start if not given.")] = None,
    labels: Annotated[Path | None, typer.Option(help="JSON: a list of [from, to], ISO 8601: when something was really wrong.")] = None,
    threshold: Annotated[float | None, typer.Option(min=0.01, max=0.999, help="Score from which on it is an alarm.")] = None,
    detector: Annotated[str, typer.Option(help=f"Which one: {', '.join(DETECTORS)}.")] = DETECTORS[0],
    url: Url = None,
    json: Json = False,
) -> None:
    """What detection would have said of the past: alarms, alarms per day, and with --labels how right and how quick it was.

    Counts that part of the log anew in memory; nothing that is stored is touched, and nobody is told.
    """
    session, begin = session_of(context, url, json), moment_of(since, "--since")
    if dimension != "fleet" and not key:
        raise usage(f"--key: which {plain(dimension)}?", f"'tallyroll analytics top --dimension {plain(dimension)}' lists some")
    windows = _labels(labels)
    try:
        chosen = new_detector(detector)
    except ValueError as error:
        raise usage(f"--detector: {error}", "see 'tallyroll analytics backtest --help'") from None
    run(_backtest(session, metric, dimension, key, begin, windows, chosen, threshold))


def _labels(path: Path | None) -> Sequence[tuple[datetime, datetime]] | None:
    if path is None:
        return None
    example = '[["2026-01-05T10:00:00Z", "2026-01-05T11:00:00Z"]]'
    wrong = usage(f"--labels: {path.name} is no list of pairs of moments with a zone", f"write {example}")
    try:
        found = [(datetime.fromisoformat(first), datetime.fromisoformat(last)) for first, last in jsonlib.loads(path.read_text("utf-8"))]
    except (ValueError, TypeError):
        raise wrong from None
    if any(one.utcoffset() is None for pair in found for one in pair):
        raise wrong
    return found


async def _backtest(  # noqa: PLR0913  # one per option
    session: Session, metric: str, dimension: str, key: str, since: datetime | None,
    labels: Sequence[tuple[datetime, datetime]] | None, detector: Detector, threshold: float | None,
) -> None:  # fmt: skip
    from tallyroll.analytics.anomalies.backtest import backtest as tried  # noqa: PLC0415  # needs the extra
    from tallyroll.analytics.anomalies.series import reading  # noqa: PLC0415  # as above

    async with session.roll() as roll, roll.recounted(since) as engine:
        try:
            spec = engine.metrics.reading(metric, None, dimension).spec
            panes = await engine.panes(metric, dimension, [key], start=EPOCH, end=utc_now() + timedelta(days=1))
        except ValueError as error:
            raise usage(str(error), "'tallyroll analytics metrics' lists what there is") from None
    of_key = panes.get(key, {})
    if not of_key:
        note(f"nothing of {plain(metric)} of {plain(key or dimension)} in that part of the log")
        return
    first, last = min(of_key), max(of_key)
    values = [reading(spec, of_key.get(at)) for at in range(first, last + spec.pane_s, spec.pane_s)]
    places = None if labels is None else [tuple(int((one.timestamp() - first) // spec.pane_s) for one in pair) for pair in labels]
    judged = tried(
        values, detector, labels=None if places is None else [(pair[0], pair[1]) for pair in places], threshold=threshold,
        bad=spec.bad if spec.bad != "none" else "both", pane_s=spec.pane_s,
    )  # fmt: skip
    moments = [datetime.fromtimestamp(first + alarm.first * spec.pane_s, UTC) for alarm in judged.alarms]
    detection_s = None if judged.panes_to_detection is None else judged.panes_to_detection * spec.pane_s
    about = {"panes": len(values), "alarms_per_day": judged.alarms_per_day, "precision": judged.precision, "recall": judged.recall}
    if session.json:
        alarms = [
            {"at": iso(at), "score": alarm.peak, "panes": alarm.end - alarm.first} for at, alarm in zip(moments, judged.alarms, strict=True)
        ]
        say_json({**about, "seconds_to_detection": detection_s, "alarms": alarms})
        return
    for at, alarm in zip(moments, judged.alarms, strict=True):
        say(f"{at:%Y-%m-%d %H:%M}  score {alarm.peak:.2f}, {counted(alarm.end - alarm.first, 'pane')}")
    said = f"{counted(len(judged.alarms), 'alarm')} in {short_span(len(values) * spec.pane_s)}, {judged.alarms_per_day:.1f} a day"
    say(paint(said if judged.precision is None and judged.recall is None else f"{said}{_how_right(judged)}", "bold"))


def _how_right(judged: Any) -> str:  # noqa: ANN401  # a Judgement, imported when used
    precision = "no alarm" if judged.precision is None else f"{judged.precision:.0%} of them in a labelled time"
    recall = "" if judged.recall is None else f", {judged.recall:.0%} of the labelled times found"
    quick = "" if judged.panes_to_detection is None else f", after {judged.panes_to_detection:.1f} panes in the mean"
    return f"; {precision}{recall}{quick}"

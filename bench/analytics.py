"""Analytics: records to panes, on one core and from a broker, beside other engines; alerts, memory, error of percentiles.

Each step runs in a process of its own. CPU is what the process used with all its threads. The broker, where there is one, shares
the machine's cores.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from confluent_kafka.admin import AdminClient
from services.stack import Stack

from bench import analytics_alerts, analytics_kafka, analytics_steps
from bench.report import ROOT, save, table
from bench.workload import drop_topics
from tallyroll.adapters.system.interpreter import serve_calmly
from tallyroll.events.topics import catalogue_of
from tallyroll.settings import Settings

ALONE: Final[Mapping[str, tuple[str, Callable[[int], dict[str, Any]]]]] = {
    "panes": ("panes of a busy fleet", analytics_steps.panes),
    "python": ("the same without the compiled core", analytics_steps.in_python),
    "history": ("panes of a slow fleet's history", analytics_steps.history),
    "naive": ("json.loads and dictionaries", analytics_steps.naive),
    "late": ("1 % late beside none", analytics_steps.late),
    "imported": ("a history behind newer events", analytics_steps.imported),
    "keys": ("10,000 agents beside 1,000", analytics_steps.keys),
    "percentiles": ("error of percentiles", analytics_steps.percentiles),
    "day": ("a day of 10,000 agents", analytics_steps.day),
}
ON_KAFKA: Final = ("follow", "quix")


def _alone(step: str, count: int) -> dict[str, Any]:
    return _worker("--worker", step, "--count", str(count))


def _on_kafka(step: str, settings: Settings, count: int) -> dict[str, Any]:
    where = ("--url", settings.url, "--prefix", settings.topic_prefix, "--folder", str(settings.data_dir))
    return _worker("--worker", step, "--count", str(count), *where)


def _worker(*arguments: str) -> dict[str, Any]:
    print(" ".join(("step", *arguments[1:4])), file=sys.stderr)
    done = subprocess.run([sys.executable, "-m", "bench.analytics", *arguments], capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        raise SystemExit(f"{arguments[1]} failed:\n{done.stderr[-2_000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def _work(options: argparse.Namespace) -> dict[str, Any]:
    if options.worker in ALONE:
        serve_calmly()  # as every process that follows does
        return ALONE[options.worker][1](options.count)
    settings = Settings(url=options.url, topic_prefix=options.prefix, data_dir=Path(options.folder))
    if options.worker == "quix":
        return analytics_kafka.quix(settings)
    return asyncio.run(analytics_kafka.follow(settings, options.count))


def _kafka(bootstrap: str, options: argparse.Namespace) -> dict[str, Any]:
    figures: dict[str, Any] = {"rounds": {step: [] for step in ON_KAFKA}}
    with tempfile.TemporaryDirectory() as folder:
        prefix = f"bench-{time.time_ns() % 10**9}."
        filled = Settings(url=f"kafka://{bootstrap}", topic_prefix=prefix, data_dir=Path(folder))
        analytics_kafka.fill(filled, options.count)
        try:
            for number in range(options.rounds):
                own = Settings(url=filled.url, topic_prefix=prefix, group_prefix=f"bench{number}", data_dir=Path(folder) / str(number))
                figures["rounds"]["follow"].append(_on_kafka("follow", own, options.count))
                figures["rounds"]["quix"].append(_on_kafka("quix", own, options.count))
        finally:
            drop_topics(bootstrap, catalogue_of(filled))
            AdminClient({"bootstrap.servers": bootstrap}).delete_topics([f"{prefix}{analytics_kafka.KEYED}"])
        for step, runs in figures["rounds"].items():
            figures[step] = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        live = Settings(url=filled.url, topic_prefix=f"{prefix}live.", data_dir=Path(folder) / "live")
        print("step alerts", file=sys.stderr)
        try:
            figures["alerts"] = analytics_alerts.measure(live, options.rate, options.seconds, 5)
        finally:
            drop_topics(bootstrap, catalogue_of(live))
    return figures


def main(argv: list[str]) -> None:
    """Prints the tables and writes bench-results/analytics.json."""
    parser = argparse.ArgumentParser(prog="scripts/bench analytics", description=__doc__)
    parser.add_argument("--count", type=int, default=600_000, help="events of a step (default %(default)s)")
    parser.add_argument("--day", type=int, default=4_000_000, help="events of the day of 10,000 agents (default %(default)s)")
    parser.add_argument("--rate", type=int, default=10_000, help="events per second while alerts are timed (default %(default)s)")
    parser.add_argument("--seconds", type=int, default=60, help="how long alerts are timed (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds on the broker; the median counts (default %(default)s)")
    parser.add_argument("--bootstrap", help="a broker that is already running")
    for hidden in ("--worker", "--url", "--prefix", "--folder"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.worker:
        print(json.dumps(_work(options)))
        return
    (ROOT / ".bench-data").mkdir(exist_ok=True)
    counts = {"naive": options.count // 4, "percentiles": 1_000_000, "day": options.day}
    alone = {step: _alone(step, counts.get(step, options.count)) for step in ALONE}
    kafka = _kafka(options.bootstrap or Stack().up(1)["env"]["KAFKA_BOOTSTRAP_SERVERS"], options)
    ratios = _ratios(alone, kafka)
    _show(alone, kafka, ratios)
    where = save("analytics", {"alone": alone, "kafka": kafka, "ratios": ratios})
    print(f"\nwritten to {where.relative_to(ROOT)}")


def _ratios(alone: Mapping[str, Any], kafka: Mapping[str, Any]) -> dict[str, float]:
    recount_ms = alone["panes"]["cpu_us_per_event"] * kafka["follow"]["events"] / 1e3
    return {
        "panes to json.loads and dictionaries": alone["naive"]["cpu_us_per_event"] / alone["panes"]["cpu_us_per_event"],
        "panes without the compiled core to panes": alone["python"]["cpu_us_per_event"] / alone["panes"]["cpu_us_per_event"],
        "putting into panes to reading": alone["panes"]["update_to_read"],
        "1 % late to none": alone["late"]["ratio"],
        "a history of the same day behind newer events to one alone": alone["imported"]["hours_to_first"],
        "a history of days ago behind newer events to one alone": alone["imported"]["days_to_first"],
        "10,000 agents to 1,000": alone["keys"]["ratio"],
        "memory at the end of the day to a fifth of it": alone["day"]["end_to_a_fifth"],
        "an agent's hour out of panes to counting it anew": kafka["follow"]["query_p50_ms"] / recount_ms,
        "from Kafka into stored panes to quixstreams": kafka["follow"]["events_per_s"] / kafka["quix"]["events_per_s"],
    }


def _show(alone: Mapping[str, Any], kafka: Mapping[str, Any], ratios: Mapping[str, float]) -> None:
    core = [
        [ALONE[step][0], alone[step]["events_per_s_and_core"], alone[step]["cpu_us_per_event"]]
        for step in ("panes", "python", "history", "naive")
    ]
    print(table("\nIn memory, one core", ["step", "events/s", "CPU µs/event"], core))
    names = {"follow": "tallyroll: stored panes, anomalies, alerts", "quix": "quixstreams: five windows of one metric"}
    broker = [[names[step], kafka[step]["events_per_s"], kafka[step]["cpu_us_per_event"]] for step in ON_KAFKA]
    print(table("\nFrom a broker on the same cores", ["step", "events/s", "CPU µs/event"], broker))
    alerts, day = kafka["alerts"], alone["day"]
    rows: list[list[object]] = [
        [f"event to webhook at {alerts['rate_reached']:,.0f} events/s, p50", alerts["p50_ms"], "ms"],
        ["the same, p99", alerts["p99_ms"], "ms"],
        [f"alerts that came, of {alerts['outliers']}", alerts["alerts"], ""],
        ["an agent's hour, first asked, p50", kafka["follow"]["query_p50_ms"], "ms"],
        ["the same again, p50", kafka["follow"]["query_again_p50_ms"], "ms"],
        ["peak memory of a day of 10,000 agents", day["peak_mib"], "MiB"],
        ["largest error of a percentile", 100 * alone["percentiles"]["worst_relative_error"], "%"],
    ]
    print(table("\nOther", ["what", "measured", "unit"], rows))
    print(table("\nRatios", ["what", "ratio"], [[name, value] for name, value in ratios.items()]))


if __name__ == "__main__":
    main(sys.argv[1:])

"""Replays: events per second from the archive and from topics, lookups, what the archive costs, beside what people write."""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from services.stack import Stack

from bench.replay_access import NotMeasured
from bench.replay_data import AGENTS, Meta, prepared, produce
from bench.replay_site import Figures, Site
from bench.replay_steps import STEPS
from bench.report import ROOT, save, table
from bench.workload import drop_topics, make_topics
from tallyroll.events.topics import Catalogue

_ONCE: Final = ("moment", "sizes", "lookup-cold", "eventsourcing")  # told once or slow: the rounds would add nothing
_LOOK_S: Final = 0.02  # between two looks at the memory of a contender
_PAGE_MIB: Final = 4_096 / 1_048_576


class Bar(NamedTuple):
    """What was to be reached: at least ``least``, or at most ``most``."""

    name: str
    value: float | None
    unit: str = "x"
    least: float | None = None
    most: float | None = None

    @property
    def verdict(self) -> str:
        """Met, missed, or not measured."""
        if self.value is None:
            return "not measured"
        met = (self.least is None or self.value >= self.least) and (self.most is None or self.value <= self.most)
        return "met" if met else "MISSED"

    @property
    def bound(self) -> str:
        """In words."""
        return f"≥ {self.least:,}" if self.least is not None else f"≤ {self.most:,}"


class Runs:
    """What the contenders gave, round by round; medians of it, or None where nothing was measured."""

    def __init__(self) -> None:
        self.of: dict[str, list[Figures]] = {}
        self.reasons: dict[str, str] = {}
        self.hashes: dict[str, tuple[str, str]] = {}

    def add(self, name: str, figures: Figures) -> None:
        """Stops the benchmark when two contenders made different states of the same events."""
        if reason := figures.get("not_measured"):
            self.reasons[name] = reason
            return
        for what, value in figures.get("hashes", {}).items():
            who, known = self.hashes.setdefault(what, (name, value))
            if known != value:
                raise SystemExit(f"{what}: {name} made {value[:12]} of the events, {who} had made {known[:12]}")
        self.of.setdefault(name, []).append(figures)

    def get(self, name: str, key: str) -> float | None:
        """The median of one figure."""
        some = [figures[key] for figures in self.of.get(name, ()) if figures.get(key) is not None]
        return statistics.median(some) if some else None

    def rate(self, name: str) -> float | None:
        """Events per second."""
        return _over(self.get(name, "events"), self.get(name, "wall_s"))

    def ratio(self, one: str, other: str) -> float | None:
        """How much faster one contender is than another."""
        return _over(self.rate(one), self.rate(other))


def _over(one: float | None, other: float | None) -> float | None:
    return None if one is None or not other else one / other


def _rows(runs: Runs) -> list[list[object]]:
    rows: list[list[object]] = []
    for name, (source, _) in STEPS.items():
        if name in runs.of and runs.get(name, "wall_s"):
            cpu = _over(runs.get(name, "cpu_s"), runs.get(name, "events"))
            rows.append([name, source, *_told(runs, name), cpu * 1e6 if cpu else None, runs.get(name, "peak_mib")])
        elif name in runs.reasons:
            rows.append([name, source, None, None, None, None])
    return rows


def _told(runs: Runs, name: str) -> tuple[object, object]:
    events = runs.get(name, "events")
    return (int(events) if events is not None else None, runs.rate(name))


def bars(runs: Runs, meta: Meta) -> list[Bar]:
    """Every figure that something was asked of."""
    get, rate, ratio, full_s = runs.get, runs.rate, runs.ratio, runs.get("rows-1", "wall_s")
    cost = runs.of["sizes"][0]["bytes_per_event"] if "sizes" in runs.of else {}
    ours_us = _over(get("eventsourcing", "ours_one_by_one_s"), get("eventsourcing", "ours_events"))
    theirs_us = _over(get("eventsourcing", "wall_s"), get("eventsourcing", "events"))
    lookup_s = _over(get("lookups", "p50_ms"), 1_000)
    seal_rate, records = rate("seal"), get("seal", "events")
    return [
        Bar("rows from the archive, two processes", rate("rows-2"), "events/s", least=750_000),
        Bar("rows, two processes : one", ratio("rows-2", "rows-1"), least=1.6),
        Bar("a user's reducer, two processes : one", ratio("projector-2", "projector-1"), least=1.6),
        Bar("columns from the archive", rate("columns-1"), "events/s", least=3_000_000),
        Bar("columns : rows", ratio("columns-1", "rows-1"), least=4),
        Bar("from a topic, one process", rate("kafka-rows-1"), "events/s", least=250_000),
        Bar("from a topic, two processes", rate("kafka-rows-2"), "events/s", least=250_000),
        Bar("from a topic : consume alone", ratio("kafka-rows-1", "kafka-bare"), least=0.35),
        Bar("from a topic : json.loads and a dict", ratio("kafka-rows-1", "kafka-by-hand"), least=1),
        Bar("eventsourcing package, per event : ours, one agent at a time", _over(theirs_us, ours_us), least=1),
        Bar("eventsourcing package, per event : ours, all agents", _over(theirs_us, _over(full_s, get("rows-1", "events"))), least=1),
        Bar("one agent at one instant, p50, share of FULL", _percent(lookup_s, full_s), "%", most=1),
        Bar("the same : in an archive of half the size", _over(get("lookups", "p50_ms"), get("lookups-half", "p50_ms")), most=1.5),
        Bar("1,000 events of one aggregate", get("one-aggregate", "wall_s"), "s", most=0.1),
        Bar("INCREMENTAL, share of FULL", _percent(get("incremental", "wall_s"), full_s), "%", most=5),
        Bar("sequence validation : none", ratio("validate-sequence", "validate-off"), least=0.8),
        Bar("decode and fold : decode", ratio("decode-fold", "decode"), least=0.4),
        Bar("seal : row fold", ratio("seal", "rows-1"), least=0.35),
        Bar("memory, two processes : one", _over(get("rows-2", "peak_mib"), get("rows-1", "peak_mib")), most=3),
        Bar("one agent at one instant, p50", get("lookups", "p50_ms"), "ms", most=float("inf")),
        Bar("one agent at one instant, p99", get("lookups", "p99_ms"), "ms", most=float("inf")),
        Bar("one agent at one instant, cold", _times(get("lookup-cold", "wall_s"), 1_000), "ms", most=float("inf")),
        Bar("memory of lookups", get("lookups", "peak_mib"), "MiB", most=float("inf")),
        Bar("seal", seal_rate, "events/s", least=0),
        Bar("index made anew from segments", _over(records, get("seal", "rebuild_s")), "events/s", least=0),
        Bar("into the archive's tail", _over(records, get("seal", "append_s")), "events/s", least=0),
        Bar("segments", cost.get("segments"), "B/event", least=0),
        Bar("locator", cost.get("locator"), "B/event", least=0),
        Bar("snapshots", cost.get("snapshots"), "B/event", least=0),
        Bar("the rest of the indexes", cost.get("index, the rest"), "B/event", least=0),
        Bar("free pages of the indexes", cost.get("free pages"), "B/event", least=0),
        Bar("records as they were in the log", cost.get("raw"), "B/event", least=0),
        Bar("seals when the data was made", _over(meta.sealed, meta.seal_s), "events/s", least=0),
    ]


def _percent(one: float | None, other: float | None) -> float | None:
    return _times(_over(one, other), 100)


def _times(one: float | None, factor: float) -> float | None:
    return None if one is None else one * factor


# Contenders, each in a process of its own


def _worker(name: str, site: Site, options: argparse.Namespace) -> Figures:
    command = [
        sys.executable, "-m", "bench.replay", "--worker", name, "--data", str(options.data), "--count", str(options.count),
        "--agents", str(options.agents), "--lookups", str(options.lookups), "--bootstrap", site.bootstrap, "--prefix", site.prefix,
    ]  # fmt: skip
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process,
        _watched(process.pid) as memory,
    ):
        said, complained = process.communicate()
    if process.returncode:
        raise SystemExit(f"{name} failed:\n{complained[-3_000:]}")
    figures: Figures = json.loads(said.strip().splitlines()[-1])
    return {**figures, "peak_mib": memory[0]}


@contextmanager
def _watched(pid: int) -> Iterator[list[float]]:
    """The largest memory of a process and its children together, shared pages counted for each; first item, MiB."""
    peak, stop = [0.0], threading.Event()

    def look() -> None:
        while not stop.wait(_LOOK_S):
            peak[0] = max(peak[0], sum(map(_resident_mib, _family(pid))))

    watching = threading.Thread(target=look, daemon=True)
    watching.start()
    try:
        yield peak
    finally:
        stop.set()
        watching.join()


def _family(pid: int) -> list[int]:
    found = [pid]
    for one in found:
        with suppress(OSError):
            for task in Path(f"/proc/{one}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def _resident_mib(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_MIB
    except (OSError, IndexError):
        return 0.0


def _work(name: str, site: Site) -> Figures:
    try:
        return asyncio.run(STEPS[name][1](site))
    except NotMeasured as reason:
        return {"not_measured": str(reason)}


# The whole of it


def _site(options: argparse.Namespace) -> Site:
    folder = options.data / f"replay-{options.count}-{options.agents}"
    return Site(folder, prepared(folder, options.count, options.agents), options.bootstrap or "", options.prefix or "", options.lookups)


def _chosen(options: argparse.Namespace) -> list[str]:
    wanted = options.only.split(",") if options.only else list(STEPS)
    if unknown := sorted(set(wanted) - STEPS.keys()):
        raise SystemExit(f"no contender {', '.join(unknown)}; there are {', '.join(STEPS)}")
    return [name for name in STEPS if name in wanted and not (options.skip_kafka and STEPS[name][0] == "kafka")]


def _measure(names: Sequence[str], site: Site, options: argparse.Namespace) -> Runs:
    runs = Runs()
    for number in range(options.rounds):
        for name in names:
            if name in runs.reasons or (number and name in _ONCE):
                continue
            print(f"round {number + 1}: {name}", file=sys.stderr)
            runs.add(name, _worker(name, site, options))
    return runs


@contextmanager
def _topics(site: Site, options: argparse.Namespace, *, wanted: bool) -> Iterator[Site]:
    """The site with the first records in the topics of a broker, if some contender needs them."""
    if not wanted:
        yield site
        return
    bootstrap = options.bootstrap or Stack().up(1)["env"]["KAFKA_BOOTSTRAP_SERVERS"]
    catalogue = Catalogue(prefix=f"bench-replay-{time.time_ns() % 10**9}.")
    make_topics(bootstrap, catalogue)
    try:
        print(f"{options.kafka_count:,} records into topics", file=sys.stderr)
        produce(bootstrap, catalogue, options.kafka_count, options.agents)
        yield Site(site.folder, site.meta, bootstrap, catalogue.prefix, site.lookups)
    finally:
        drop_topics(bootstrap, catalogue)


def main(argv: list[str]) -> None:
    """Prints the tables and writes bench-results/replay.json."""
    parser = argparse.ArgumentParser(prog="scripts/bench replay", description=__doc__)
    parser.add_argument("--count", type=int, default=3_000_000, help="events in the archive (default %(default)s)")
    parser.add_argument("--kafka-count", type=int, default=600_000, help="events in the topics (default %(default)s)")
    parser.add_argument("--agents", type=int, default=AGENTS, help="agents of the fleet (default %(default)s)")
    parser.add_argument("--lookups", type=int, default=1_000, help="lookups of one agent at one instant (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; the median counts (default %(default)s)")
    parser.add_argument("--only", help="some contenders, comma-separated")
    parser.add_argument("--data", type=Path, default=ROOT / ".bench-data", help="where the data is kept (default %(default)s)")
    parser.add_argument("--skip-kafka", action="store_true", help="without a broker")
    parser.add_argument("--bootstrap", help="a broker that is already running")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--prefix", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    options.data = options.data.resolve()
    if options.worker:
        print(json.dumps(_work(options.worker, _site(options))))
        return
    names = _chosen(options)
    print(f"{options.count:,} records of the history below {options.data}", file=sys.stderr)
    site = _site(options)
    with _topics(site, options, wanted=any(STEPS[name][0] == "kafka" for name in names)) as ready:
        runs = _measure(names, ready, options)
    _tell(runs, site.meta, options)


def _tell(runs: Runs, meta: Meta, options: argparse.Namespace) -> None:
    columns = ["contender", "from", "events", "events/s", "CPU µs/event", "peak MiB"]
    topics = f"; {options.kafka_count:,} in topics" if "agents in the topics" in runs.hashes else ""
    print(table(f"\n{meta.count:,} events of {meta.agents:,} agents{topics}", columns, _rows(runs)))
    # Of a chosen few, what is not among them is no news.
    judged = [bar for bar in bars(runs, meta) if bar.value is not None or not options.only]
    asked = [bar for bar in judged if bar.least or bar.most not in (None, float("inf"))]
    plain = [bar for bar in judged if bar not in asked]
    print(table("\nbars", ["figure", "value", "unit", "bar", "verdict"], [[b.name, b.value, b.unit, b.bound, b.verdict] for b in asked]))
    print(table("\nfigures without a bar", ["figure", "value", "unit"], [[bar.name, bar.value, bar.unit] for bar in plain]))
    for name, reason in runs.reasons.items():
        print(f"{name}: {reason}")
    saved: Mapping[str, Any] = {
        "events": meta.count,
        "agents": meta.agents,
        "kafka_events": options.kafka_count,
        "hashes": {what: value for what, (_, value) in runs.hashes.items()},
        "bars": [{"figure": b.name, "value": b.value, "unit": b.unit, "bar": b.bound, "verdict": b.verdict} for b in asked],
        "figures": [{"figure": bar.name, "value": bar.value, "unit": bar.unit} for bar in plain],
        "not_measured": runs.reasons,
        "rounds": runs.of,
    }
    where = save("replay", saved)
    print(f"\nwritten to {where.relative_to(ROOT)}")


if __name__ == "__main__":
    main(sys.argv[1:])

"""Folding: columns beside rows, for one partition of task events of a simulated fleet, and what each field costs. No server."""

from __future__ import annotations

import argparse
import gc
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from bench.report import ROOT, save, table
from tallyroll.events.rows import Columns, Rows, Subject
from tallyroll.events.types import TASK_TOPIC, type_info
from tallyroll.replay.columnar import TWINS, ColumnarFold, Plan, Twin, project, step_rows
from tallyroll.replay.fields import Field, Slots
from tallyroll.replay.fold import Part
from tallyroll.replay.owned_rows import OwnedRows
from tallyroll.replay.partition import PartitionFold
from tallyroll.replay.views import AGENT, FOLD, TASK
from tallyroll.simulate import Fleet

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def rows_of_fleet(count: int, agents: int) -> Rows:
    """The first task events of a fleet, as one partition holds them."""
    subjects: dict[str, Subject] = {}
    kept: list[tuple[Any, ...]] = []
    for event in Fleet(seed=7, agents=agents).run():
        info = type_info(event.event_type)
        if info is None or info.topic != TASK_TOPIC:
            continue
        subject = subjects.setdefault(event.key, Subject(event.aggregate_type, event.aggregate_id))
        time_us = (event.timestamp - _EPOCH) // timedelta(microseconds=1)
        agent = event.payload.get("agent_id")
        kept.append((len(kept), time_us, str(event.event_type), event.schema_version, subject, msgspec.json.encode(event.payload), agent))
        if len(kept) == count:
            break
    return Rows(TASK_TOPIC, 0, *zip(*kept, strict=True))


def best_s(rounds: int, work: Callable[[], object]) -> float:
    """The shortest of several runs."""
    walls = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        walls.append(time.perf_counter() - started)
    return min(walls)


def dumps(parts: Mapping[str, Part]) -> dict[str, Any]:
    """What the parts say, to be compared."""
    return {owner: msgspec.json.decode(part.dump()) for owner, part in parts.items()}


def fields_s(view: str, columns: Columns) -> dict[str, float]:
    """Seconds per field of a view, by name; the rest is sorting, making parts and putting their slots back."""
    names = {id(field): name for name, field in FOLD.views[FOLD.index(view)].fields.items()}
    spent: dict[str, float] = defaultdict(float)

    def timed(kind: type[Field]) -> Twin:
        twin: Twin = TWINS.get(kind, step_rows)

        def run(plan: Plan, owned: OwnedRows, slots: Slots) -> None:
            started = time.perf_counter()
            twin(plan, owned, slots)
            spent[names[id(plan.field)]] += time.perf_counter() - started

        return run

    kinds = {type(field) for field in FOLD.views[FOLD.index(view)].fields.values()}
    folding = ColumnarFold(FOLD, view, twins={kind: timed(kind) for kind in kinds})
    started = time.perf_counter()
    folding.apply(columns, {})
    return {**spent, "(rest)": time.perf_counter() - started - sum(spent.values())}


def main(argv: list[str]) -> None:
    """Prints the tables and writes bench-results/columns.json."""
    parser = argparse.ArgumentParser(prog="scripts/bench columns", description=__doc__)
    parser.add_argument("--count", type=int, default=262_144, help="rows in the segment (default %(default)s)")
    parser.add_argument("--agents", type=int, default=500, help="agents of the fleet (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds; the shortest counts (default %(default)s)")
    options = parser.parse_args(argv)
    rows = rows_of_fleet(options.count, options.agents)
    columns = project(FOLD, TASK_TOPIC, rows)
    assert columns is not None
    gc.collect()
    gc.freeze()
    figures: dict[str, Any] = {}
    lines: list[list[object]] = []
    for view in (AGENT.name, TASK.name):
        number, folding = FOLD.index(view), ColumnarFold(FOLD, view)
        by_row, parts = PartitionFold(FOLD, TASK_TOPIC, TASK_TOPIC, 0, view=number), dict[str, Part]()
        by_row.apply_rows(rows)
        folding.apply(columns, parts)
        assert dumps(by_row.parts(number)) == dumps(parts)

        def fold_rows(number: int = number) -> None:
            PartitionFold(FOLD, TASK_TOPIC, TASK_TOPIC, 0, view=number).apply_rows(rows)

        def fold_columns(folding: ColumnarFold = folding) -> None:
            folding.apply(columns, {})

        rows_s, columns_s = best_s(options.rounds, fold_rows), best_s(options.rounds, fold_columns)
        lines.append([view, len(parts), rows_s / len(rows) * 1e6, columns_s / len(rows) * 1e6, len(rows) / columns_s, rows_s / columns_s])
        fields = {name: wall_s / len(rows) * 1e6 for name, wall_s in fields_s(view, columns).items()}
        figures[view] = {"owners": len(parts), "rows_s": rows_s, "columns_s": columns_s, "fields_us_per_event": fields}
        costly = sorted(((name, spent * 1e3) for name, spent in fields.items()), key=lambda pair: -pair[1])[:10]
        print(table(f"\n{view}, the costly fields", ["field", "ns/event"], costly))
    titles = ["view", "owners", "rows µs/event", "columns µs/event", "events/s", "x rows"]
    print(table(f"\n{len(rows):,} events, equal parts", titles, lines))
    where = save("columns", {"events": len(rows), "views": figures})
    print(f"\nwritten to {where.relative_to(ROOT)}")

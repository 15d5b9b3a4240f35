"""Folding columns gives the parts that folding rows gives: slots, order and version, for every view."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from random import Random
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.replay_histories import Row, first_copies, random_log, rows_of

from tallyroll.errors import UnknownSchema
from tallyroll.events.names import OTHER_NAME
from tallyroll.events.position import TopicPartition
from tallyroll.events.rows import Columns, Rows, Subject
from tallyroll.events.schema import SCHEMAS
from tallyroll.replay import fields, open_set
from tallyroll.replay.applied import Cut
from tallyroll.replay.by_name import CountBy
from tallyroll.replay.columnar import TWINS, ColumnarFold, project
from tallyroll.replay.fields import Count, First, Last, Max, Min, Sum, Value, constant
from tallyroll.replay.fold import Fold, Part, View
from tallyroll.replay.open_set import OpenSet
from tallyroll.replay.owned_rows import by_owner, runs_of
from tallyroll.replay.partition import PartitionFold
from tallyroll.replay.projection import Projection
from tallyroll.replay.values import AGENT_ID, COST, DURATION, ERROR, EVENT_TIME, TASK_ID, text
from tallyroll.replay.views import FOLD, VIEWS

PLACE = TopicPartition("task-events", 0)
BIG = Value("big", (("big", int | None),), lambda facts, _of, _time_us: facts.big, column="big", whole=True)
TASKS = ("task.created", "task.started", "task.progressed", "task.completed", "task.failed", "tool.invoked")


class Longest(Last):
    """A kind that the twins have not heard of: it changes events in its own way."""

    kind = "longest"

    def step(self, event_type: str) -> tuple | None:
        value = self.values.get(event_type)
        return None if value is None else (value, self.keep)

    @staticmethod
    def keep(slots: list, index: int, value: Any, order_us: int, offset: int) -> None:
        if value is not None and (slots[index] is None or len(value) >= len(slots[index][2])):
            slots[index] = (order_us, offset, value)


# What the built-in views leave out: every kind over every sort of value, several values in one field, a kind of one's own.
ODD = View(
    "odd",
    version=1,
    owner="agent",
    topics=("agent-events", "task-events", "workflow-events"),
    types=(*TASKS, "agent.started", "agent.failed", "workflow.started"),
    fields={
        "least": Min(TASKS, COST),
        "most": Max(TASKS, COST),
        "earliest": Min(TASKS, EVENT_TIME),
        "constant_least": Min(TASKS, constant(3)),
        "constant_sum": Sum(TASKS, constant(3)),
        "time_sum": Sum(TASKS, EVENT_TIME),
        "agents": CountBy(TASKS, AGENT_ID),
        "constants": CountBy(TASKS, constant("x")),
        "tasks": OpenSet(TASK_ID, opens=("task.started",), closes=("task.completed", "task.failed")),
        "mixed_last": Last({"task.created": "new", "task.started": EVENT_TIME, "task.completed": DURATION, "task.failed": ERROR}),
        "mixed_first": First({"task.started": TASK_ID, "task.completed": DURATION, "agent.started": "up", "task.failed": AGENT_ID}),
        "longest": Longest({"tool.invoked": text("tool_name"), "task.failed": ERROR, "agent.failed": "agent"}),
        "never": Count(()),
        "nothing": Last({}),
    },
)
# Fields of no kind at all, and an owner that is rare.
BARE = View("bare", version=1, owner="agent", topics=("task-events",), types=TASKS, fields={})
ALL = Fold((*VIEWS, ODD, BARE), SCHEMAS)


def task_fold(field: fields.Field, *, owner: str = "task") -> Fold:
    return Fold([View("one", 1, owner, ("task-events",), TASKS, {"field": field})], SCHEMAS)


def row(number: int, kind: str, aggregate: str = "task:t", *, at_us: int | None = None, **payload: Any) -> Row:
    aggregate_type, _, aggregate_id = aggregate.partition(":")
    subject = Subject(aggregate_type, aggregate_id)
    return number, number if at_us is None else at_us, kind, "1.0.0", subject, msgspec.json.encode(payload), payload.get("agent_id")


def told(view: View, parts: Mapping[str, Part]) -> dict[str, list]:
    """Everything that a part says; the order of what is in an open set counts, that of names does not."""
    return {
        owner: [
            part.version,
            part.order_us,
            {
                name: msgspec.json.encode(slot, order="sorted" if isinstance(field, CountBy) else None)
                for (name, field), slot in zip(view.fields.items(), part.slots, strict=True)
            },
        ]
        for owner, part in parts.items()
        if part.version
    }


def by_rows(fold: Fold, view: View, place: TopicPartition, kept: Sequence[Row], until_us: int | None = None) -> tuple[dict, int]:
    cut = None if until_us is None else Cut(until_us, 0)
    number = fold.index(view.name)
    folded = PartitionFold(fold, place.topic, place.topic, place.partition, view=number, cut=cut)
    changed = folded.apply_rows(rows_of(place, kept)).changed
    return told(view, folded.parts(number)), changed


class Piece(NamedTuple):
    """A segment: its rows, and their columns if there can be any. One for all views, as in an archive."""

    rows: Rows
    columns: Columns | None


def pieces_of(fold: Fold, place: TopicPartition, segments: Sequence[Sequence[Row]]) -> list[Piece]:
    every = [rows_of(place, kept) for kept in segments]
    return [Piece(rows, project(fold, place.topic, rows)) for rows in every]


def by_columns(  # noqa: PLR0913  # a history, and how it is folded
    fold: Fold,
    view: View,
    place: TopicPartition,
    pieces: Sequence[Piece],
    until_us: int | None = None,
    *,
    twins: Mapping | None = None,
) -> tuple[dict, int]:
    """Segment by segment; one that has no columns goes row by row, on what the segments before it have left in a store."""
    number = fold.index(view.name)
    folding = ColumnarFold(fold, view.name, twins=twins)
    parts: dict[str, Part] = {}
    changed = 0
    for rows, columns in pieces:
        if columns is not None:
            changed += folding.apply(columns, parts, until_us=until_us)
            continue
        cut = None if until_us is None else Cut(until_us, 0)
        folded = PartitionFold(fold, place.topic, place.topic, place.partition, view=number, cut=cut)
        for owner, part in parts.items():
            folded.restore(number, owner, part.dump())
        changed += folded.apply_rows(rows).changed
        parts = dict(folded.parts(number))
    return told(view, parts), changed


def segments_of(rng: Random, kept: Sequence[Row]) -> list[Sequence[Row]]:
    edges = sorted({0, len(kept), *(rng.randrange(len(kept)) for _ in range(rng.randrange(4)))})
    return [kept[start:stop] for start, stop in pairwise(edges)]


def histories(rng: Random, count: int, *, foldable: bool) -> dict[TopicPartition, list[Row]]:
    """First copies per partition; only those that have columns, or all."""
    result = {}
    for place, values in random_log(rng, count).items():
        kept = first_copies(place, values)
        if foldable:
            take = Projection(ALL, place.topic).take
            kept = [one for one in kept if take(one[2], one[3], one[5], one[4], one[1]) is not None]
        if kept:
            result[place] = kept
    return result


@pytest.mark.slow
@settings(max_examples=60)
@given(rng=st.randoms(use_true_random=False), count=st.integers(1, 160), foldable=st.booleans())
def test_columns_fold_as_rows_do_however_they_are_cut(rng: Random, count: int, *, foldable: bool) -> None:
    for place, kept in histories(rng, count, foldable=foldable).items():
        pieces = pieces_of(ALL, place, segments_of(rng, kept))
        until_us = rng.choice(kept)[1] - rng.randrange(2)
        for view in ALL.views:
            if place.topic in view.topics:
                assert by_columns(ALL, view, place, pieces) == by_rows(ALL, view, place, kept)
                assert by_columns(ALL, view, place, pieces, until_us) == by_rows(ALL, view, place, kept, until_us)


def by_event_time(plan: Any, owned: Any, slots: list) -> None:
    """Wrong: orders by an event's own time in place of the largest time so far."""
    owned.order_us = owned.times_us
    TWINS[type(plan.field)](plan, owned, slots)


def newest_time_wins(plan: Any, owned: Any, slots: list) -> None:
    """Wrong: the newest event time wins, wherever it stands in the log."""
    rows = owned.present(plan.sources)
    rows = rows[np.lexsort((owned.times_us[rows], owned.owners[rows]))]
    runs = runs_of(owned.owners[rows])
    for owner, mark in zip(runs.numbers, owned.marks(plan.sources, rows[runs.lasts]), strict=True):
        slots[owner] = mark


def float_sum(plan: Any, owned: Any, slots: list) -> None:
    """Wrong: adds in floating point."""
    rows = owned.present(plan.sources)
    totals = np.bincount(owned.owners[rows], owned.numbers(plan.sources[0].value, rows), len(slots))
    slots[:] = [slot + int(total) for slot, total in zip(slots, totals.tolist(), strict=True)]


def wrapping_sum(plan: Any, owned: Any, slots: list) -> None:
    """Wrong: adds in 64 bits."""
    rows = owned.present(plan.sources)
    totals = np.zeros(len(slots), np.int64)
    np.add.at(totals, owned.owners[rows], owned.numbers(plan.sources[0].value, rows))
    slots[:] = [slot + total for slot, total in zip(slots, totals.tolist(), strict=True)]


def unbounded_names(plan: Any, owned: Any, slots: list) -> None:
    """Wrong: has no bound of names."""
    rows = owned.present(plan.sources)
    for owner, name in zip(owned.owners[rows].tolist(), owned.values(plan.sources, rows), strict=True):
        slots[owner][name] = slots[owner].get(name, 0) + 1


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [by_event_time, newest_time_wins])
def test_a_wrong_order_is_caught_by_the_same_comparison(wrong: Any) -> None:
    caught, view = 0, FOLD.views[FOLD.index("task")]
    for seed in range(10):
        for place, kept in histories(Random(seed), 150, foldable=True).items():  # noqa: S311  # a fixed history
            if place.topic in view.topics:
                right = by_rows(FOLD, view, place, kept)
                pieces = pieces_of(FOLD, place, [kept])
                assert by_columns(FOLD, view, place, pieces) == right
                caught += by_columns(FOLD, view, place, pieces, twins={**TWINS, Last: wrong}) != right
    assert caught


def compared(fold: Fold, segments: Sequence[Sequence[Row]], twins: Mapping | None = None) -> tuple[dict, dict]:
    kept = [one for segment in segments for one in segment]
    assert project(fold, PLACE.topic, rows_of(PLACE, kept)) is not None
    columnar = by_columns(fold, fold.views[0], PLACE, pieces_of(fold, PLACE, segments), twins=twins)[0]
    return columnar, by_rows(fold, fold.views[0], PLACE, kept)[0]


EDGES = (
    st.sampled_from([-(2**63), -(2**63) + 1, -1, 0, 1, 2**53, 2**53 + 1, 2**62, 2**63 - 1]) | st.integers(-(2**63), 2**63 - 1) | st.none()
)
BIG_FOLDS = [
    task_fold(field)
    for field in (Sum(TASKS, BIG), Min(TASKS, BIG), Max(TASKS, BIG), Last({"task.progressed": BIG}), First({"task.progressed": BIG}))
]


@settings(max_examples=80)
@given(numbers=st.lists(st.tuples(st.sampled_from("ab"), EDGES), min_size=1, max_size=12), cut=st.integers(0, 12))
def test_numbers_at_the_edges_of_64_bits_never_wrap(numbers: list, cut: int) -> None:
    kept = [row(number, "task.progressed", f"task:{owner}", big=big) for number, (owner, big) in enumerate(numbers)]
    segments = [segment for segment in (kept[:cut], kept[cut:]) if segment]
    for fold in BIG_FOLDS:
        columnar, rowwise = compared(fold, segments)
        assert columnar == rowwise


def test_a_sum_that_leaves_64_bits_or_floats_is_caught() -> None:
    fold = task_fold(Sum(TASKS, BIG))
    beyond = [[row(number, "task.progressed", big=2**62) for number in range(3)]]
    odd = [[row(number, "task.progressed", big=2**53 + 1) for number in range(3)]]
    for segments, wrong in ((beyond, wrapping_sum), (odd, float_sum)):
        columnar, rowwise = compared(fold, segments)
        assert columnar == rowwise
        columnar, rowwise = compared(fold, segments, {Sum: wrong})
        assert columnar != rowwise


def test_an_integer_beyond_64_bits_has_no_column() -> None:
    fold = task_fold(Sum(TASKS, BIG))
    assert project(fold, PLACE.topic, rows_of(PLACE, [row(0, "task.created", big=2**63)])) is None


def test_names_beyond_the_bound_count_as_other_first_come() -> None:
    field = CountBy(("tool.invoked",), text("tool_name"))
    names = [f"n{number % 1_500}" for number in range(2_400)] + [OTHER_NAME, "n3", "n1400", "late"]
    kept = [row(number, "tool.invoked", f"task:{number % 7 == 0}", tool_name=name) for number, name in enumerate(names)]
    for edges in ([0], [0, 900], [0, 1_000, 1_001, 1_700]):
        segments = [kept[start:stop] for start, stop in zip(edges, [*edges[1:], len(kept)], strict=True)]
        columnar, rowwise = compared(task_fold(field), segments)
        assert columnar == rowwise
        columnar, rowwise = compared(task_fold(field), segments, {CountBy: unbounded_names})
        assert columnar != rowwise


@pytest.mark.slow
def test_an_open_set_forgets_the_same_ids() -> None:
    rng = Random(3)  # noqa: S311  # a fixed history
    field = OpenSet(text("id"), opens=("task.started",), closes=("task.completed",))
    kept = []
    for number in range(14_000):
        kind = "task.started" if rng.random() < 0.6 else "task.completed"
        kept.append(row(number, kind, at_us=number - rng.randrange(50), id=f"t{rng.randrange(9_000)}"))
    kept += [row(number, "task.completed", id=f"unknown{number}") for number in range(14_000, 14_005)]
    segments = [kept[start : start + 3_000] for start in range(0, len(kept), 3_000)]
    columnar, rowwise = compared(task_fold(field), segments)
    assert columnar == rowwise
    opened, here, elsewhere = msgspec.json.decode(columnar["t"][2]["field"])
    assert (len(opened), len(here), len(elsewhere)) == (open_set.MAX_OPEN, open_set.CLOSED_HERE, open_set.CLOSED_ELSEWHERE)


def test_times_of_many_owners_and_all_centuries_keep_their_order() -> None:
    first_us, last_us = -62_135_596_800_000_000, 253_402_300_799_999_999
    rng = Random(5)  # noqa: S311  # a fixed history
    kept = [
        row(number, "task.started", f"task:{rng.randrange(60)}", at_us=rng.choice((first_us, last_us, rng.randrange(first_us, last_us))))
        for number in range(400)
    ]
    columnar, rowwise = compared(task_fold(Last({"task.started": EVENT_TIME})), [kept[:150], kept[150:]])
    assert columnar == rowwise


@given(
    codes=st.lists(st.sampled_from([0, 1, 65_535, 65_536, 65_537, 131_072, 2**31 - 1]), min_size=1, max_size=30),
    how=st.sampled_from(["by offset", "by owner", "anyhow"]),
    seed=st.randoms(use_true_random=False),
)
def test_owners_beyond_16_bits_are_sorted_with_their_offsets_however_they_lie(codes: list[int], how: str, seed: object) -> None:
    lying = sorted(zip(codes, range(len(codes)), strict=True)) if how == "by owner" else list(zip(codes, range(len(codes)), strict=True))
    if how == "anyhow":
        seed.shuffle(lying)
    owners, offsets = np.array([code for code, _ in lying], np.int32), np.array([offset for _, offset in lying], np.int64)
    rows = by_owner(np.arange(len(codes)), owners, offsets)
    assert [lying[row] for row in rows] == sorted(lying)


def test_where_nothing_counts_nothing_changes() -> None:
    fold = task_fold(Count(TASKS))
    folding, parts = ColumnarFold(fold, "one"), {}
    kept = [row(5, "task.created", "agent:a"), row(6, "agent.started"), row(7, "task.created", "tasks:t"), row(8, "task.created", at_us=90)]
    columns = project(fold, PLACE.topic, rows_of(PLACE, kept))
    assert folding.apply(columns, parts, until_us=89) == 0
    assert parts == {}
    assert folding.apply(columns, parts, until_us=90) == 1
    assert parts["t"].dump() == b"[1,90,[1]]"


def test_new_parts_share_nothing() -> None:
    fold = task_fold(OpenSet(TASK_ID, opens=("task.started",), closes=()))
    parts: dict[str, Part] = {}
    columns = project(fold, PLACE.topic, rows_of(PLACE, [row(0, "task.started", "task:a"), row(1, "task.created", "task:b")]))
    ColumnarFold(fold, "one").apply(columns, parts)
    assert [part.dump() for part in parts.values()] == [b'[1,0,[[{"a":[0,0]},{},{}]]]', b"[1,1,[[{},{},{}]]]"]


def test_the_owner_may_be_the_whole_key_of_the_aggregate() -> None:
    kept = [row(number, "task.created", aggregate) for number, aggregate in enumerate(("task:t", "agent:a", "task:t", "task:u:v"))]
    fold = task_fold(Count(TASKS), owner="aggregate")
    counted = by_columns(fold, fold.views[0], PLACE, pieces_of(fold, PLACE, [kept]))[0]
    assert {owner: version for owner, (version, _, _) in counted.items()} == {"task:t": 2, "agent:a": 1, "task:u:v": 1}


def test_columns_of_another_projection_are_refused_before_anything_changes() -> None:
    columns = project(task_fold(Count(TASKS)), PLACE.topic, rows_of(PLACE, [row(0, "task.created", big=1)]))
    parts: dict[str, Part] = {}
    with pytest.raises(ValueError, match="lack big"):
        ColumnarFold(task_fold(Sum(TASKS, BIG)), "one").apply(columns, parts)
    assert parts == {}


def take(projection: Projection, one: Row, version: str = "1.0.0") -> tuple | None:
    _, time_us, kind, _, subject, data, _ = one
    return projection.take(kind, version, data, subject, time_us)


def test_every_topic_of_the_built_in_fold_has_a_projection() -> None:
    for topic in FOLD.topics:
        assert Projection(FOLD, topic).columns
    for topic in ("agent-events", "task-events", "workflow-events"):
        columns = Projection(FOLD, topic).columns
        assert (columns["tokens"], columns["cost_micro"], columns["error"]) == (True, True, False)


def test_a_projection_takes_agent_and_values_in_the_order_of_its_columns() -> None:
    projection = Projection(task_fold(Sum(("task.created",), BIG)), PLACE.topic)
    assert projection.columns == {"big": True}
    assert take(projection, row(0, "task.created", big=7, agent_id="a")) == ("a", 7)
    assert take(projection, row(0, "task.created", "agent:b", agent_id="a")) == ("b", None)
    assert take(projection, row(0, "task.started", big=7, agent_id="a")) == ("a", None)
    assert take(projection, row(0, "own.type", big="no number", agent_id="a")) == ("a", None)
    assert take(Projection(task_fold(Count(TASKS)), PLACE.topic), row(0, "task.created", agent_id="a")) == ("a",)


def test_what_columns_cannot_say_is_not_taken() -> None:
    projection = Projection(task_fold(Sum(TASKS, BIG)), PLACE.topic)
    assert take(projection, row(0, "task.created", big="no number")) is None
    assert take(projection, row(0, "task.created", big=1), "99.0.0") is None
    subject = Subject("task:x", "t")  # its key reads like a task's
    assert projection.take("task.created", "1.0.0", b"{}", subject, 0) is None
    assert projection.take("own.type", "1.0.0", b"[", Subject("task", "t"), 0) == (None, None)


class Lifted:
    """Schemas of which one lifts version 0.1.0 to as many payloads as it was told."""

    def __init__(self, count: int) -> None:
        self.count = count

    def current(self, event_type: str) -> str:  # noqa: ARG002  # Schemas
        return "1.0.0"

    def fingerprint(self, event_types: object = None) -> str:  # noqa: ARG002  # Schemas
        return str(self.count)

    def upcast(self, event_type: str, version: str, payload: dict) -> list[dict]:
        if version != "0.1.0":
            raise UnknownSchema(event_type, version, "1.0.0")
        return [{**payload, "big": 10 * payload["big"]}] * self.count


@pytest.mark.parametrize(("count", "taken"), [(0, None), (1, (None, 70)), (2, None)])
def test_an_old_payload_is_taken_when_it_amounts_to_one(count: int, taken: tuple | None) -> None:
    fold = Fold(task_fold(Sum(TASKS, BIG)).views, Lifted(count))
    assert take(Projection(fold, PLACE.topic), row(0, "task.created", big=7), "0.1.0") == taken


def test_another_meaning_has_another_id() -> None:
    def ident(value: Value = BIG, schemas: Any = SCHEMAS, types: tuple[str, ...] = TASKS) -> str:
        return Projection(Fold(task_fold(Sum(types, value)).views, schemas), PLACE.topic).id

    renamed = Value("bigger", BIG.reads, BIG.get, column="big", whole=True)
    moved = Value("big", BIG.reads, BIG.get, column="large", whole=True)
    assert ident() == ident()
    assert len({ident(), ident(renamed), ident(moved), ident(types=TASKS[:2]), ident(schemas=Lifted(1)), ident(schemas=Lifted(2))}) == 6


@pytest.mark.parametrize(
    "other",
    [
        Value("nowhere", (("big", int | None),), BIG.get),
        Value("same column", (("big", int | None),), BIG.get, column="big", whole=True),
    ],
    ids=["no column", "a column that is taken"],
)
def test_a_value_without_a_column_of_its_own_is_refused(other: Value) -> None:
    view = View("one", 1, "task", ("task-events",), TASKS, {"a": Sum(TASKS, BIG), "b": Sum(TASKS, other)})
    with pytest.raises(ValueError, match=other.name):
        Projection(Fold([view], SCHEMAS), PLACE.topic)


@pytest.mark.slow
def test_all_other_folding_works_without_numpy() -> None:
    script = "import sys; sys.modules['numpy'] = None; import tallyroll, tallyroll.replay.engine, tallyroll.replay.projection"
    subprocess.run([sys.executable, "-c", script], check=True)

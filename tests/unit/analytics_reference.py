"""What panes should hold, worked out event by event in plain Python, with no array and nothing of the kernel.

Only the definitions of metrics are shared: slow, and written from the rules in docs/explanation/analytics.md.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

from tallyroll.analytics.pane import LN_GAMMA, Pane
from tallyroll.analytics.spec import First, MetricSpec, One, Pair, Path, Success, Total, read_by
from tallyroll.events.schema import SCHEMAS

DAY = 86_400_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NAMED = {"task_type": "payload.task_type", "tool": "payload.tool_name", "model": "payload.model", "tenant": "tenantid"}
BAD = object()

Cell = tuple[str, str, int, int, str]
"""Dimension, key, width, start, metric."""


@dataclass
class Plain:
    """A pane as lists and sums that do not lose anything."""

    values: list[Fraction] = field(default_factory=list)
    ok: int = 0
    zero: int = 0
    over: int = 0
    neg: int = 0
    nan: int = 0
    bins: Counter[int] = field(default_factory=Counter)
    mirror: Counter[int] = field(default_factory=Counter)

    def equals(self, pane: Pane) -> bool:
        n = len(self.values)
        if (pane.n, pane.ok, pane.zero, pane.over, pane.neg, pane.nan) != (n, self.ok, self.zero, self.over, self.neg, self.nan):
            return False
        if bins_of(pane.index, pane.count) != self.bins or bins_of(pane.mirror_index, pane.mirror_count) != self.mirror:
            return False
        if not n:
            return (pane.sum, pane.min, pane.max) == (0, 0, 0)
        total = sum(self.values)
        mean = total / n
        m2 = sum((value - mean) ** 2 for value in self.values)
        largest = max(abs(value) for value in self.values)
        exact = not isinstance(pane.sum, int) or pane.sum == total
        return (
            exact
            and math.isclose(pane.sum, total, rel_tol=1e-9, abs_tol=float(largest) * 1e-9)
            and math.isclose(pane.m2, m2, rel_tol=1e-9, abs_tol=float(largest) ** 2 * n * 1e-12)
            and (pane.min, pane.max) == (float(min(self.values)), float(max(self.values)))
        )


def bins_of(index: bytes, count: bytes) -> Counter[int]:
    places = [int.from_bytes(index[at : at + 2], "little", signed=True) for at in range(0, len(index), 2)]
    counts = [int.from_bytes(count[at : at + 4], "little") for at in range(0, len(count), 4)]
    assert places == sorted(set(places)), "bins ascend"
    assert all(counts), "empty bins are not kept"
    return Counter(dict(zip(places, counts, strict=True)))


@dataclass
class Reference:
    """One partition: feed it records in order, then look at ``panes``."""

    specs: Sequence[MetricSpec]
    now_us: int
    panes: dict[Cell, Plain] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    watermark: int | None = None

    def __post_init__(self) -> None:
        self.met: dict[str, set[int]] = {}
        self.recent: list[str] = []
        self.keys: dict[tuple[str, int, int], dict[str, int]] = {}
        self.open: dict[tuple[Any, ...], dict[str, tuple[int, int]]] = {}
        self.left_out: Counter[str] = Counter()
        self.news: Counter[str] = Counter()  # values that came within the lateness of their metric

    def feed(self, records: Iterable[tuple[bytes | None, int]]) -> Reference:
        for value, timestamp_ms in records:
            self.record(value, timestamp_ms)
        return self

    def record(self, value: bytes | None, timestamp_ms: int) -> None:
        event = readable(value)
        if event is None:
            self.counts["undecodable"] += 1
        elif self.is_repeat(event):
            self.counts["duplicates"] += 1
        elif event["type"] in SCHEMAS.event_types() and event.get("schemaversion", "1.0.0") != "1.0.0":
            self.counts["unknown_schema"] += 1
        elif not isinstance(event.get("data", {}), dict):
            self.counts["undecodable"] += 1
        elif (time := micros(event.get("time", ""))) is None:
            self.counts["bad_time"] += 1
        else:
            latest = (min(timestamp_ms * 1_000, self.now_us) if timestamp_ms >= 0 else self.now_us) + 60_000_000
            if time > latest:
                self.counts["future"] += 1
                time = latest
            self.watermark = time if self.watermark is None else max(time, self.watermark)
            self.counts["events"] += 1
            self.count(event, time)

    def is_repeat(self, event: dict[str, Any]) -> bool:
        session, number = event.get("chainsession", ""), event.get("chainnumber", "")
        if session and number.isdecimal() and int(number):
            met = self.met.setdefault(session, set())
            if int(number) in met:
                return True
            met.add(int(number))
        if event["id"] in self.recent[-256:]:
            return True
        self.recent.append(event["id"])
        return False

    def count(self, event: dict[str, Any], time: int) -> None:
        assert self.watermark is not None
        took = self.pairs(event, time)
        places: dict[tuple[str, int, int], str | None] = {}
        too_old = False
        for spec in self.specs:
            if event["type"].startswith("anomaly.") or not ("*" in spec.event_types or event["type"] in spec.event_types):
                continue
            value = value_of(spec.value, spec, event, took, exact=spec.exact)
            if value is None:
                continue
            width = self.width(spec, time)
            if width is None:
                too_old = True
                continue
            end = (time // (spec.pane_s * 1_000_000) + 1) * spec.pane_s
            self.news[spec.name] += (end + spec.lateness_s) * 1_000_000 > self.watermark - spec.disorder_s * 1_000_000
            start = time // (width * 1_000_000) * width
            for dimension in spec.per:
                table = (dimension, spec.pane_s, spec.max_keys)
                if table not in places:
                    places[table] = self.place(table, event)
                key = places[table]
                if key is not None:
                    pane = self.panes.setdefault((dimension, key, width, start, spec.name), Plain())
                    add(pane, spec, value)
        self.left_out["too_old"] += too_old

    def width(self, spec: MetricSpec, time: int) -> int | None:
        """How wide the pane is that is kept of a moment: its own, the quarter hour that it went into, or none."""
        assert self.watermark is not None
        ages = {wide: self.watermark - (time // (wide * 1_000_000) + 1) * wide * 1_000_000 for wide in (spec.pane_s, 900)}
        if spec.pane_s >= 900:
            return spec.pane_s if ages[spec.pane_s] < 35 * DAY else None
        if 900 % spec.pane_s:
            return spec.pane_s if ages[spec.pane_s] < 2 * DAY else None
        if ages[900] < 2 * DAY:
            return spec.pane_s
        return 900 if ages[900] < 35 * DAY else None

    def place(self, table: tuple[str, int, int], event: dict[str, Any]) -> str | None:
        assert self.watermark is not None
        dimension, _, max_keys = table
        if dimension == "fleet":
            return ""
        parts = [text_at(event, NAMED.get(part, part)) for part in dimension.split("+")]
        if not all(parts):
            return None
        key, day = "\x1f".join(str(part) for part in parts), self.watermark // DAY
        seen = self.keys.setdefault(table, {})
        held = {one for one, last in seen.items() if last >= day - 1}
        if key == "__other__" or len(key) > 256 or (key not in held and len(held) >= max_keys):
            return "__other__"
        seen[key] = day
        return key

    def pairs(self, event: dict[str, Any], time: int) -> dict[tuple[Any, ...], int]:
        assert self.watermark is not None
        took = {}
        for spec in self.specs:
            for pair in read_by(spec.value):
                if not isinstance(pair, Pair):
                    continue
                kind = (pair.start, spec.event_types, pair.by)
                opened, name = self.open.setdefault(kind, {}), text_at(event, pair.by)
                if not name or len(name) > 256:
                    continue
                if event["type"] in spec.event_types and kind not in took:
                    started, since = opened.pop(name, (None, 0))
                    if started is not None and self.watermark - since <= DAY:
                        took[kind] = time - started
                if event["type"] == pair.start:
                    opened[name] = (time, self.watermark)
        return took


def readable(value: bytes | None) -> dict[str, Any] | None:
    try:
        event = json.loads(value or b"", parse_constant=lambda _: 1 / 0)
    except (ValueError, ZeroDivisionError, RecursionError):
        return None
    if not isinstance(event, dict) or event.get("specversion") != "1.0" or event.get("data_base64"):
        return None
    texts = ("id", "source", "type", "subject", "time", "aggregatetype", "aggregateid", "chainsession", "chainnumber")
    if not all(isinstance(event.get(name, ""), str) for name in texts) or not {"id", "source", "type"} <= event.keys():
        return None
    if not (event.get("aggregatetype") and event.get("aggregateid")):
        event["aggregatetype"], _, event["aggregateid"] = event.get("subject", "").partition(":")
        if not event["aggregateid"]:
            return None
    return event


def micros(text: str) -> int | None:
    try:
        moment = datetime.fromisoformat(text)
        return None if moment.tzinfo is None else (moment - EPOCH) // (EPOCH.resolution)
    except ValueError:
        return None


def at(event: dict[str, Any], path: str) -> Any:
    if not path.startswith("payload."):
        return event.get(path)
    found: Any = event.get("data", {})
    for member in path.removeprefix("payload.").split("."):
        found = found.get(member) if isinstance(found, dict) else None
    return found


def text_at(event: dict[str, Any], path: str) -> str | None:
    if path == "agent":
        return event["aggregateid"] if event["aggregatetype"] == "agent" else text_at(event, "payload.agent_id")
    found = at(event, path)
    return found if isinstance(found, str) else None


def value_of(value: Any, spec: MetricSpec, event: dict[str, Any], took: dict[tuple[Any, ...], int], *, exact: bool) -> Any:
    """A Fraction, True or False, BAD, or None where there is nothing."""
    if isinstance(value, One):
        return Fraction(1)
    if isinstance(value, Success):
        bad = {"failed", "error", "timeout"}
        failed = event["type"] in value.failed or at(event, "payload.success") is False
        return not (failed or any(text_at(event, path) in bad for path in ("payload.status", "payload.result.status")))
    if isinstance(value, Pair):
        us = took.get((value.start, spec.event_types, value.by))
        return None if us is None else Fraction(us / 1_000)
    if isinstance(value, First | Total):
        found = [one for one in (value_of(one, spec, event, took, exact=False) for one in value.of) if one is not None]
        if isinstance(value, First):
            chosen = next((one for one in found if one is not BAD), found[0] if found else None)
        else:
            chosen = BAD if BAD in found else Fraction(sum(map(float, found))) if found else None
        return whole(chosen) if exact and chosen is not None and chosen is not BAD else chosen
    return number(value, at(event, value.path), exact=exact)


def whole(value: Fraction) -> Any:
    return Fraction(round(value)) if abs(round(value)) <= 2**43 else BAD


FAR = Decimal("1e100")  # beyond every bound; to make a fraction of a million digits takes a tenth of a second


def number(value: Path, found: Any, *, exact: bool) -> Any:
    if found is None or isinstance(found, dict | list):
        return None if found is None else BAD
    try:
        if exact:
            if isinstance(found, str):
                whole = round(Fraction(max(-FAR, min(Decimal(found), FAR))) * Fraction(value.times))
            elif type(found) in (int, float):
                whole = round(Fraction(found * value.times) if type(found) is float else found * Fraction(value.times))
            else:
                return BAD
            return Fraction(whole) if abs(whole) <= 2**43 else BAD
        if type(found) not in (int, float) or not abs(float(found) * value.times) <= 1e100:
            return BAD
        return Fraction(float(found) * value.times)
    except (ValueError, ArithmeticError):
        return BAD


def add(pane: Plain, spec: MetricSpec, value: Any) -> None:
    if value is BAD:
        pane.nan += 1
        return
    if isinstance(value, bool):
        pane.ok += value
        value = Fraction(int(value))
    elif value < 0 and not spec.signed:
        pane.neg += 1
        return
    pane.values.append(value)
    if isinstance(spec.value, One | Success):
        return
    low, high = spec.domain
    if abs(value) < low:
        pane.zero += 1
    elif value > high:
        pane.over += 1
    elif spec.has_bins:
        place = math.ceil(math.log(min(abs(float(value)), high)) / LN_GAMMA)
        (pane.mirror if value < 0 else pane.bins)[place] += 1

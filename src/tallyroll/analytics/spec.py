"""What a metric is: one frozen, serialisable definition, from which kernel, query, documents and exports are made.

No callables: a definition travels as JSON or TOML, and other engines can be told the same. Paths name members of the event:
``payload.x`` is ``data.x`` on the wire, ``agent`` is whose deed the event was.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from enum import StrEnum
from hashlib import sha256
from typing import Final, Literal

import msgspec

from tallyroll.events.names import name_problem

Bad = Literal["up", "down", "both", "none"]
"""Which direction of a metric may alarm."""

FLEET: Final = "fleet"
"""The dimension with one key, the empty text: all events, also those that name no agent."""

_NEAR: Final = 0.85  # of difflib: a letter or two of a name; own names that differ in a word are below
_MAX_LATENESS_S: Final = 86_400
_HOUR_S: Final = 3_600
MINUTE_S: Final = 60


class AggregationFunction(StrEnum):
    """What can be read from a pane. MEDIAN, P95 and P99 are within 1 % of the value at their rank; STDDEV is the population form."""

    SUM = "sum"
    AVG = "avg"
    MIN = "min"
    MAX = "max"
    COUNT = "count"
    MEDIAN = "median"
    P95 = "p95"
    P99 = "p99"
    STDDEV = "stddev"


QUANTILES: Final[Mapping[AggregationFunction, float]] = {
    AggregationFunction.MEDIAN: 0.5,
    AggregationFunction.P95: 0.95,
    AggregationFunction.P99: 0.99,
}


class Path(msgspec.Struct, frozen=True, tag="path"):
    """A number at a path of the event, times a factor."""

    path: str
    times: float = 1


class Pair(msgspec.Struct, frozen=True, tag="pair"):
    """Milliseconds of event time from an event of type ``start`` to this one, joined by the id at ``by``.

    Both must lie in one partition: they do where both have the same aggregate. An end without its start has no value.
    """

    start: str
    by: str = "aggregateid"


class Total(msgspec.Struct, frozen=True, tag="total"):
    """The sum of those of several numbers that the event has; one that is no number spoils it."""

    of: tuple[Path, ...]


class First(msgspec.Struct, frozen=True, tag="first"):
    """The first of several values that the event has."""

    of: tuple[Path | Pair | Total, ...]


class One(msgspec.Struct, frozen=True, tag="one"):
    """1 for each event: for counting."""


class Success(msgspec.Struct, frozen=True, tag="success"):
    """Whether the work succeeded: it did unless the type is one of ``failed``, or the payload says otherwise.

    It says so by ``success`` false, or by ``status`` or ``result.status`` being ``failed``, ``error`` or ``timeout``.
    """

    failed: tuple[str, ...] = ()


Value = Path | Pair | Total | First | One | Success


def read_by(value: Value) -> Iterator[Path | Pair | One | Success]:
    """What a value is made of, down to what is read of an event."""
    if isinstance(value, First | Total):
        for one in value.of:
            yield from read_by(one)
    else:
        yield value


class MetricSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One metric.

    ``event_types`` are exact names, or ``*`` for all; ``per`` the dimensions whose keys get panes of their own: ``fleet``,
    ``agent``, ``task_type``, ``tool``, ``model``, ``tenant``, a path such as ``payload.region``, or several joined by ``+``.
    Panes are ``pane_s`` long and close when event time has passed them by ``disorder_s``. Late values revise them; those that
    come within another ``lateness_s`` are looked at by live rules and detectors, later ones are the past. Values outside
    ``domain`` are counted and keep only their order. ``exact`` values are whole numbers, summed without rounding; what is
    shown is divided by ``scale``. ``bad`` says which direction may alarm.
    """

    name: str
    unit: str
    help: str
    event_types: tuple[str, ...]
    value: Value
    per: tuple[str, ...] = (FLEET, "agent")
    functions: tuple[AggregationFunction, ...] = tuple(AggregationFunction)
    pane_s: int = MINUTE_S
    disorder_s: float = 10
    lateness_s: float = 120
    domain: tuple[float, float] = (1e-3, 1e10)
    signed: bool = False
    exact: bool = False
    scale: int = 1
    bad: Bad = "none"
    max_keys: int = 10_000

    def __post_init__(self) -> None:
        if not self.name or not all(c.isalnum() or c == "_" for c in self.name):
            raise ValueError(f"metric {self.name!r}: a name has letters, digits and underscores")
        if any(event_type.startswith("anomaly.") for event_type in self.event_types):
            raise ValueError(f"{self.name}: anomalies are not measured, or the alarms would feed on themselves")
        if not 1 <= self.pane_s <= _HOUR_S or _HOUR_S % self.pane_s:
            raise ValueError(f"{self.name}: pane_s is a divisor of {_HOUR_S}")
        if not 0 <= self.lateness_s <= _MAX_LATENESS_S or self.disorder_s < 0:
            raise ValueError(f"{self.name}: lateness_s is 0 to {_MAX_LATENESS_S}, disorder_s 0 or more")
        if not 0 < self.domain[0] < self.domain[1]:
            raise ValueError(f"{self.name}: domain is a smaller and a larger number above 0; 'signed' mirrors it")
        if not self.event_types or not self.per or self.max_keys < 1:
            raise ValueError(f"{self.name}: event_types, per and max_keys may not be empty")

    @property
    def has_bins(self) -> bool:
        """Whether a histogram is kept: only where a quantile is asked for."""
        return any(function in QUANTILES for function in self.functions)


_TASK_ENDS: Final = ("task.completed", "task.failed")
_TOOL_ENDS: Final = ("tool.completed", "tool.failed")
_TASK_DIMENSIONS: Final = (FLEET, "agent", "task_type", "model", "tenant")
_USE_DIMENSIONS: Final = (FLEET, "agent", "task_type", "tool", "model", "tenant")
_COUNTS: Final = (AggregationFunction.COUNT, AggregationFunction.SUM)
_F: Final = AggregationFunction


def _took(start: str, by: str) -> First:
    return First((Path("payload.duration_ms"), Path("payload.execution_time", 1_000), Pair(start, by)))


BUILT_IN: Final[tuple[MetricSpec, ...]] = (
    MetricSpec(
        name="response_time", unit="ms", help="From the start of a task to its end.", event_types=_TASK_ENDS,
        value=_took("task.started", "aggregateid"), per=_TASK_DIMENSIONS, bad="up",
    ),
    MetricSpec(
        name="success", unit="tasks", help="Ended tasks, and how many of them well.", event_types=_TASK_ENDS,
        value=Success(("task.failed",)), per=_TASK_DIMENSIONS, functions=_COUNTS, bad="down",
    ),
    MetricSpec(
        name="tasks_started", unit="tasks", help="Tasks begun.", event_types=("task.started",), value=One(),
        per=_TASK_DIMENSIONS, functions=_COUNTS,
    ),
    MetricSpec(
        name="throughput", unit="tasks", help="Tasks completed; read per minute.", event_types=("task.completed",), value=One(),
        per=_TASK_DIMENSIONS, functions=_COUNTS, bad="down",
    ),
    MetricSpec(
        name="queue_time", unit="ms", help="From the creation of a task to its start.", event_types=("task.started",),
        value=Pair("task.created"), per=(FLEET, "agent", "task_type"), bad="up",
    ),
    MetricSpec(
        name="tokens", unit="tokens", help="Tokens used: the total that the event has, else input and output together.", event_types=("*",),
        value=First((Path("payload.tokens"), Total((Path("payload.input_tokens"), Path("payload.output_tokens"))))), per=_USE_DIMENSIONS,
        functions=(_F.SUM, _F.AVG, _F.COUNT, _F.MIN, _F.MAX), exact=True, bad="up",
    ),
    MetricSpec(
        name="cost", unit="currency", help="Money spent, kept in millionths.", event_types=("*",), value=Path("payload.cost", 1_000_000),
        per=_USE_DIMENSIONS, functions=(_F.SUM, _F.AVG, _F.COUNT, _F.MIN, _F.MAX), exact=True, scale=1_000_000, bad="up",
    ),
    MetricSpec(
        name="tool_latency", unit="ms", help="From the call of a tool to its answer.", event_types=_TOOL_ENDS,
        value=_took("tool.invoked", "payload.invocation_id"), per=(FLEET, "agent", "tool", "tenant"), bad="up",
    ),
    MetricSpec(
        name="tool_success", unit="calls", help="Ended tool calls, and how many of them well.", event_types=_TOOL_ENDS,
        value=Success(("tool.failed",)), per=(FLEET, "agent", "tool", "tenant"), functions=_COUNTS, bad="down",
    ),
    MetricSpec(
        name="cpu_percent", unit="percent", help="Processor time in use, as heartbeats tell.", event_types=("agent.heartbeat",),
        value=Path("payload.cpu_percent"), per=(FLEET, "agent"), bad="up",
    ),
    MetricSpec(
        name="memory_bytes", unit="bytes", help="Memory in use, as heartbeats tell.", event_types=("agent.heartbeat",),
        value=Path("payload.memory_bytes"), per=(FLEET, "agent"), domain=(1, 1e13), bad="up",
    ),
    MetricSpec(
        name="events_processed", unit="events", help="Every event.", event_types=("*",), value=One(),
        per=(FLEET, "agent", "tenant"), functions=_COUNTS, bad="down",
    ),
)  # fmt: skip


def spec_id(specs: Iterable[MetricSpec]) -> str:
    """A hash of definitions: panes made by others are not mixed with theirs. ``help`` and ``functions`` beyond bins count too."""
    return sha256(msgspec.json.encode(sorted(specs, key=lambda spec: spec.name), order="deterministic")).hexdigest()[:32]


def unheard(specs: Iterable[MetricSpec], known: Sequence[str]) -> Iterator[str]:
    """A sentence for each event type of a metric that looks like a slip: no event can have that name, or it is near a ``known`` one.

    Own types of other processes are not known here: a name that is near none is taken for one of these.
    """
    for spec in specs:
        for name in spec.event_types:
            if name in known or name == "*":
                continue
            near, problem = get_close_matches(name, known, n=1, cutoff=_NEAR), name_problem(name)
            hint = f"; did you mean {near[0]}?" if near else ""
            if problem is not None:
                yield f"metric {spec.name} counts nothing of the event type {name}, since no event has it ({problem}){hint}"
            elif near:
                yield f"metric {spec.name} counts the event type {name}, which is not known here{hint}"


def specs_from_toml(text: str) -> Sequence[MetricSpec]:
    """The metrics of a TOML text: tables ``[[metric]]`` with the members of ``MetricSpec``. Raises ValueError saying which and why."""
    import tomllib  # noqa: PLC0415  # only where users declare metrics

    try:
        return msgspec.convert(tomllib.loads(text), type=_Declared).metric
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ValueError(f"metrics: {error}") from None


class _Declared(msgspec.Struct, forbid_unknown_fields=True):
    metric: list[MetricSpec] = []

"""What every format shares: the options, what was left out, stable ids, and the documents of a file.

Pure but for reading the named file: no clock and no randomness, and the context in force around the caller
(``event_context``) does not leak into what was recorded earlier.
"""

from __future__ import annotations

import hmac
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextvars import Context
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, TypeVar

import msgspec

from tallyroll.errors import InvalidEvent, SettingsError
from tallyroll.events.event import AgentEvent, EventMetadata
from tallyroll.events.ids import id_at
from tallyroll.events.moments import moment_at, us_of
from tallyroll.events.types import EventType

_Built = TypeVar("_Built")

Source: TypeAlias = str | os.PathLike[str] | bytes
"""A path, or the content itself as bytes."""

RECORDING_EPOCH: Final = datetime(2024, 1, 1, tzinfo=UTC)
"""Where the clock of a recording without times begins, unless ``CaptureOptions.start`` says otherwise."""

_MICROSECOND: Final = timedelta(microseconds=1)
_MILLIS_FROM: Final = 100_000_000_000  # as seconds this is the year 5138, so larger numbers are milliseconds
_LATEST_US: Final = 221_845_392_000_000_000  # the year 9000: room to add durations before datetime ends with 9999


@dataclass(frozen=True, slots=True)
class Skipped:
    """One item of a recording that became no event: where it stands and why. Neither field quotes the content.

    Not promised: that ``reason`` is stable text; it is for people. Count by ``where`` and read the reasons.
    """

    where: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureOptions:
    """How a recording is read. The same file with the same options gives equal events, ids included.

    ``content``: ``"digest"`` keeps sizes, tool names, the names of arguments, outcomes and tokens, and no text, no
    argument value, no result and no hash of any of these. ``"full"`` keeps the texts too: they are personal data as a
    rule, so publish them only where redaction or sealing is set up.
    ``namespace``: separates imports that must not share ids, and keys the digests that ids are made of. Ids of
    recordings without own ids are 74 bits of a keyed digest of the whole run: with a secret namespace nobody can test
    a guess of a run against its id.
    ``agent_id``: whose deeds these are, where the recording does not say. ``tenant_id`` goes into every event.
    ``start``, ``step_ms``, ``gap_ms``: the clock of recordings without times: the first message at ``start``, each further one
    ``step_ms`` later, the next run ``gap_ms`` after the end of the one before. They change no id.
    ``error_prefixes``: a tool result that begins so is a failure. ``success_reward``: a run with at least this reward
    is a success. Raises SettingsError for a value that is not accepted.

    Not promised: equal ids across different values of ``namespace``; anything about files that changed between reads.
    """

    content: Literal["digest", "full"] = "digest"
    namespace: str = ""
    agent_id: str | None = None
    tenant_id: str | None = None
    start: datetime = RECORDING_EPOCH
    step_ms: int = 1_000
    gap_ms: int = 60_000
    error_prefixes: tuple[str, ...] = ("Error:",)
    success_reward: float = 1.0

    def __post_init__(self) -> None:
        if self.content not in ("digest", "full"):
            raise SettingsError("content", "expected digest or full")
        if self.start.utcoffset() is None:
            raise SettingsError("start", "a datetime without a zone could mean any hour; make it aware")
        if self.step_ms < 1 or self.gap_ms < 0:
            raise SettingsError("step_ms", "expected at least 1, and gap_ms at least 0")

    @property
    def full(self) -> bool:
        """Whether texts are kept."""
        return self.content == "full"


DEFAULTS: Final = CaptureOptions()


@dataclass(frozen=True, slots=True)
class Run:
    """What all events of one recorded run share, and the one place where they are built."""

    options: CaptureOptions
    format: str
    correlation_id: str
    session_id: str | None

    def event(  # noqa: PLR0913  # one keyword per thing that differs between events of a run
        self,
        event_type: EventType,
        aggregate: tuple[str, str],
        payload: dict[str, Any],
        *,
        at_us: int,
        identity: tuple[object, ...],
        where: str,
        cause: str | None = None,
        id_us: int | None = None,
        traceparent: str | None = None,
        tracestate: str | None = None,
    ) -> AgentEvent | Skipped:
        """The event, or why there can be none (a payload above the limit, an id that is none).

        ``identity`` names the item for ever; with ``id_us`` (default ``at_us``) and the namespace it makes the event id.
        """
        moment = moment_at(at_us)
        event_id = id_at(at_us if id_us is None else id_us, digest(self.options, self.format, *identity, str(event_type)))

        def build() -> AgentEvent:
            metadata = EventMetadata(
                correlation_id=self.correlation_id,
                causation_id=cause,
                session_id=self.session_id,
                source=f"tallyroll/capture/{self.format}",
                created_at=moment,
                tenant_id=self.options.tenant_id,
                traceparent=traceparent,
                tracestate=tracestate,
            )
            return AgentEvent(event_type, aggregate[1], aggregate[0], payload, metadata, event_id, moment)

        try:
            return outside_context(build)
        except InvalidEvent as error:
            return Skipped(where, refusal(error))


def outside_context(build: Callable[[], _Built]) -> _Built:
    """The result of ``build()``, with no event context in force: a recording is not caused by who imports it."""
    return Context().run(build)


def refusal(error: InvalidEvent) -> str:
    """Why an event was refused, without the names of payload fields below the first level."""
    return f"not a valid event: {'.'.join(error.field.split('.')[:1])}"


def digest(options: CaptureOptions, *parts: object) -> bytes:
    """32 bytes that depend on the namespace and on each part; equal only for equal input."""
    return hmac.digest(options.namespace.encode(), json.dumps(parts, sort_keys=True, separators=(",", ":")).encode(), "sha256")


def recorded_us(value: object) -> int | None:
    """Microseconds since 1970 for ISO 8601 text with a zone or a Unix time in seconds or milliseconds, else None.

    Text without a zone could mean any hour, so it counts as no time at all; so do times before 1970 and after 9000.
    """
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            return None
        if moment.utcoffset() is None:
            return None
        micros = us_of(moment)
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < _LATEST_US:
        micros = round(value * (1_000 if value >= _MILLIS_FROM else 1_000_000))
    else:
        return None
    return micros if 0 < micros < _LATEST_US else None


def first_time(item: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    """The first of the named fields that holds a time, in microseconds since 1970."""
    for name in names:
        found = recorded_us(item.get(name))
        if found is not None:
            return found
    return None


def load(source: Source) -> bytes:
    """The bytes of the recording, without a byte order mark. Raises OSError as the file system does."""
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    return data.removeprefix(b"\xef\xbb\xbf")


def parse(data: bytes) -> Any:  # noqa: ANN401  # whatever JSON holds
    """One JSON value; raises ValueError and nothing else for bytes that are none."""
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ValueError("not JSON") from None


def documents(source: Source) -> Iterator[tuple[str, Any | Skipped]]:
    """Each document of a file with the place where it stands: the items of one JSON array, one object, or JSON lines.

    A broken line is one Skipped and the rest goes on; a file of which no line is JSON is one Skipped.
    """
    data = load(source)
    try:
        whole = parse(data)
    except ValueError:
        yield from _lines(data)
        return
    if isinstance(whole, list):
        yield from ((f"item {index}", item) for index, item in enumerate(whole))
    else:
        yield "file", whole


def _lines(data: bytes) -> Iterator[tuple[str, Any | Skipped]]:
    broken: list[Skipped] = []
    any_good = False
    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        where = f"line {number}"
        try:
            value = parse(line)
        except ValueError:
            skipped = Skipped(where, "not JSON")
            if any_good:
                yield where, skipped
            else:
                broken.append(skipped)
            continue
        if not any_good:
            any_good = True
            yield from ((skipped.where, skipped) for skipped in broken)
        yield where, value
    if not any_good:
        yield "file", Skipped("file", "not JSON" if broken else "empty")

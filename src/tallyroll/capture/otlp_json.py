"""Traces in OTLP/JSON whose spans follow the OpenTelemetry conventions for generative AI.

Accepted: one export request, an array of them, or JSON lines as the Collector's file exporter writes them; names in
camelCase or snake_case; ids in hex; 64-bit integers as numbers or text. Source: OTLP 1.x, JSON Protobuf Encoding;
OpenTelemetry semantic conventions for GenAI agent spans (in development there), with the older token names read too.

==============================================  =====================================================================
``gen_ai.operation.name``                       events
==============================================  =====================================================================
``create_agent``                                ``agent.created``, or ``agent.failed``
``invoke_agent``                                ``task.started``, then ``task.completed`` or ``task.failed``
``execute_tool``                                ``tool.invoked``, then ``tool.completed`` or ``tool.failed``
``invoke_workflow``                             ``workflow.started``, then ``workflow.completed`` or ``workflow.failed``
``chat``, ``generate_content``,                 ``message.sent`` at the end, with tokens, or ``message.failed``
``text_completion``
anything else, or none                          Skipped, with the operation
==============================================  =====================================================================

A span belongs to the agent it names (``gen_ai.agent.id``, else ``gen_ai.agent.name``), else to that of the nearest span above
it, else to ``CaptureOptions.agent_id``, else to the service. Its task is the nearest ``invoke_agent`` span at or above it,
else the trace. Each event carries the span's own trace context; ``correlation_id`` is the trace, ``session_id`` the
conversation. Events come in the order of time over the whole file. A span without an end gives only its start.

Messages of spans' status are not kept; they often quote what was asked. ``error.type`` is.

**Identity.** Trace id, span id, and start or end: never the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from tallyroll.capture.content import argument_content, count, message_content, result_content, word
from tallyroll.capture.recording import DEFAULTS, CaptureOptions, Run, Skipped, Source, documents, parse
from tallyroll.events.event import AgentEvent
from tallyroll.events.types import EventType

NAME: Final = "otlp-json"
_TRACE_ID: Final = re.compile(r"(?!0{32})[0-9a-f]{32}")
_SPAN_ID: Final = re.compile(r"(?!0{16})[0-9a-f]{16}")
_ERROR_STATUS: Final = (2, "2", "STATUS_CODE_ERROR")
_MAX_DEPTH: Final = 256  # spans above a span that are looked at; a cycle in broken data ends here
_LATEST_NS: Final = 221_845_392_000_000_000_000  # the year 9000

_MODEL: Final = frozenset({"chat", "generate_content", "text_completion"})
_ENDS: Final = {
    "invoke_agent": (EventType.TASK_STARTED, EventType.TASK_COMPLETED, EventType.TASK_FAILED),
    "execute_tool": (EventType.TOOL_INVOKED, EventType.TOOL_COMPLETED, EventType.TOOL_FAILED),
    "invoke_workflow": (EventType.WORKFLOW_STARTED, EventType.WORKFLOW_COMPLETED, EventType.WORKFLOW_FAILED),
    "create_agent": (None, EventType.AGENT_CREATED, EventType.AGENT_FAILED),
    **dict.fromkeys(_MODEL, (None, EventType.MESSAGE_SENT, EventType.MESSAGE_FAILED)),
}


def looks_right(item: object) -> bool:
    """Whether a document is an export request of traces."""
    return isinstance(item, dict) and ("resourceSpans" in item or "resource_spans" in item)


@dataclass(frozen=True, slots=True)
class _Span:
    where: str
    trace_id: str
    span_id: str
    parent_id: str
    operation: str
    start_us: int
    end_us: int | None
    failed: bool
    error_type: str | None
    flags: int
    tracestate: str | None
    attributes: dict[str, Any]
    service: str | None

    def text(self, *names: str) -> str | None:
        """The first of the attributes that is a text."""
        return next((value for name in names if isinstance(value := self.attributes.get(name), str) and value), None)


def read(source: Source, *, options: CaptureOptions = DEFAULTS) -> Iterator[AgentEvent | Skipped]:
    """What was left out, in the order of the file; then the events of all spans, in the order of time."""
    spans: dict[tuple[str, str], _Span] = {}
    for item in _spans(source):
        if isinstance(item, Skipped):
            yield item
        elif (item.trace_id, item.span_id) in spans:
            yield Skipped(item.where, "the same span again")
        else:
            spans[item.trace_id, item.span_id] = item
    told: list[_Span] = []
    for span in spans.values():
        if span.operation in _ENDS:
            told.append(span)
        else:
            named = f"the operation {span.operation} is no event" if span.operation else "not a span of generative AI"
            yield Skipped(span.where, named)
    yield from _Trace(spans, options).events(told)


def _spans(source: Source) -> Iterator[_Span | Skipped]:
    for where, document in documents(source):
        if isinstance(document, Skipped):
            yield document
        elif not looks_right(document):
            yield Skipped(where, "not an export of spans")
        else:
            yield from _of_request(document, where)


def _of_request(document: dict[str, Any], where: str) -> Iterator[_Span | Skipped]:
    number = 0
    for resource in _list(document, "resourceSpans"):
        about = _attributes(_field(_field(resource, "resource"), "attributes"))
        service = about.get("service.name")
        for scope in _list(resource, "scopeSpans") or _list(resource, "instrumentationLibrarySpans"):
            for span in _list(scope, "spans"):
                yield _span(span, f"{where} span {number}", service if isinstance(service, str) else None)
                number += 1


def _span(span: object, where: str, service: str | None) -> _Span | Skipped:
    trace_id, span_id = _id(span, "traceId"), _id(span, "spanId")
    if not _TRACE_ID.fullmatch(trace_id) or not _SPAN_ID.fullmatch(span_id):
        return Skipped(where, "trace id and span id are not 32 and 16 hex digits")
    start, end = _nanos(_field(span, "startTimeUnixNano")), _nanos(_field(span, "endTimeUnixNano"))
    if start is None:
        return Skipped(where, "no start time")
    if end is not None and end < start:
        return Skipped(where, "ends before it starts")
    attributes = _attributes(_field(span, "attributes"))
    status = _field(span, "status")
    error = attributes.get("error.type")
    flags, state = _field(span, "flags"), _field(span, "traceState")
    return _Span(
        where,
        trace_id,
        span_id,
        _id(span, "parentSpanId"),
        word(attributes.get("gen_ai.operation.name"), ""),
        start // 1_000,
        None if end is None else end // 1_000,
        _field(status, "code") in _ERROR_STATUS or error is not None,
        word(error) if error is not None else None,
        flags & 0xFF if isinstance(flags, int) and flags > 0 else 1,
        state if isinstance(state, str) and state else None,
        attributes,
        service,
    )


class _Trace:
    """Turns spans into events; knows which span is above which."""

    def __init__(self, spans: dict[tuple[str, str], _Span], options: CaptureOptions) -> None:
        self._spans = spans
        self._options = options
        self._started: dict[tuple[str, str], str] = {}

    def events(self, told: list[_Span]) -> Iterator[AgentEvent | Skipped]:
        """Start and end of each span by time; at one time starts come first, outer before inner, and ends inner first."""
        moments: list[tuple[int, int, int, int]] = []
        for index, span in enumerate(told):
            depth = sum(1 for _ in self._up(span))
            if _ENDS[span.operation][0] is not None:
                moments.append((span.start_us, 0, depth, index))
            if span.end_us is not None:
                moments.append((span.end_us, 1, -depth, index))
            elif _ENDS[span.operation][0] is None:
                yield Skipped(span.where, "no end time")
        for at_us, is_end, _, index in sorted(moments):
            yield self._ended(told[index], at_us) if is_end else self._begun(told[index], at_us)

    def _up(self, span: _Span) -> Iterator[_Span]:
        """The span, its parent, and so on."""
        at: _Span | None = span
        for _ in range(_MAX_DEPTH):
            if at is None:
                return
            yield at
            at = self._spans.get((at.trace_id, at.parent_id))

    def _agent(self, span: _Span) -> str:
        for above in self._up(span):
            if named := above.text("gen_ai.agent.id", "gen_ai.agent.name"):
                return named
        return self._options.agent_id or span.service or "unnamed-agent"

    def _task(self, span: _Span) -> str:
        inner = next((above for above in self._up(span) if above.operation == "invoke_agent"), None)
        return f"task-{inner.trace_id}-{inner.span_id}" if inner else f"trace-{span.trace_id}"

    def _build(  # noqa: PLR0913  # one per thing that differs
        self, span: _Span, kind: EventType, payload: dict[str, Any], *, at_us: int, edge: str, cause: str | None
    ) -> AgentEvent | Skipped:
        agent, task = self._agent(span), self._task(span)
        if span.operation == "create_agent":
            aggregate, named = ("agent", agent), {"agent_type": span.text("gen_ai.agent.name") or agent}
        elif span.operation == "invoke_workflow":
            aggregate = ("workflow", f"{span.trace_id}-{span.span_id}")
            named = {"workflow_name": span.text("gen_ai.workflow.name") or "unnamed"}
        else:
            aggregate, named = ("task", task), {"agent_id": agent, "task_id": task}
        session = next((found for above in self._up(span) if (found := above.text("gen_ai.conversation.id"))), None)
        return Run(self._options, NAME, span.trace_id, session).event(
            kind,
            aggregate,
            {**named, **payload},
            at_us=at_us,
            identity=(span.trace_id, span.span_id, edge),
            where=span.where,
            cause=cause,
            traceparent=f"00-{span.trace_id}-{span.span_id}-{span.flags:02x}",
            tracestate=span.tracestate,
        )

    def _cause(self, span: _Span) -> str | None:
        above = list(self._up(span))[1:]
        return next((found for outer in above if (found := self._started.get((outer.trace_id, outer.span_id)))), None)

    def _begun(self, span: _Span, at_us: int) -> AgentEvent | Skipped:
        kind = _ENDS[span.operation][0] or EventType.TASK_STARTED
        event = self._build(span, kind, self._about(span, start=True), at_us=at_us, edge="start", cause=self._cause(span))
        if isinstance(event, AgentEvent):
            self._started[span.trace_id, span.span_id] = event.event_id
        return event

    def _ended(self, span: _Span, at_us: int) -> AgentEvent | Skipped:
        payload = self._about(span, start=False) | {"duration_ms": (at_us - span.start_us) // 1_000}
        payload |= {"error_type": span.error_type or "error"} if span.failed else {"status": "ok"}
        kind = _ENDS[span.operation][2 if span.failed else 1]
        own = self._started.get((span.trace_id, span.span_id))
        return self._build(span, kind or EventType.TASK_COMPLETED, payload, at_us=at_us, edge="end", cause=own or self._cause(span))

    def _about(self, span: _Span, *, start: bool) -> dict[str, Any]:
        """What the attributes say of a tool call or a model call."""
        if span.operation == "execute_tool":
            about: dict[str, Any] = {
                "tool_name": span.text("gen_ai.tool.name") or "unknown",
                "invocation_id": span.text("gen_ai.tool.call.id") or span.span_id,
            }
            arguments, result = span.attributes.get("gen_ai.tool.call.arguments"), span.attributes.get("gen_ai.tool.call.result")
            if start and arguments is not None:
                about |= argument_content(arguments, full=self._options.full)
            if not start and result is not None:
                about |= result_content(result, full=self._options.full)
            return about
        if span.operation in _MODEL:
            return _model_call(span, full=self._options.full)
        return {"task_type": "invoke_agent"} if span.operation == "invoke_agent" and start else {}


def _model_call(span: _Span, *, full: bool) -> dict[str, Any]:
    sent = count(span.attributes.get("gen_ai.usage.input_tokens", span.attributes.get("gen_ai.usage.prompt_tokens")))
    received = count(span.attributes.get("gen_ai.usage.output_tokens", span.attributes.get("gen_ai.usage.completion_tokens")))
    about: dict[str, Any] = {"role": "assistant", "input_tokens": sent, "output_tokens": received, "tokens": sent + received}
    if model := span.text("gen_ai.response.model", "gen_ai.request.model"):
        about["model"] = model[:100]
    if provider := span.text("gen_ai.provider.name", "gen_ai.system"):
        about["provider"] = word(provider)
    output = span.attributes.get("gen_ai.output.messages")
    if output is not None:
        about |= message_content(_parts(output), full=full)
    return about


def _parts(output: object) -> object:
    """The parts of recorded output messages, which arrive as JSON text or as structured values."""
    if isinstance(output, str):
        try:
            output = parse(output.encode(errors="replace"))
        except ValueError:
            return output
    messages = output if isinstance(output, list) else [output]
    parts = [
        part for message in messages if isinstance(message, dict) and isinstance(message.get("parts"), list) for part in message["parts"]
    ]
    return [
        {**part, "text": part["content"]} if isinstance(part, dict) and isinstance(part.get("content"), str) else part for part in parts
    ]


def _field(item: object, name: str) -> Any:  # noqa: ANN401  # whatever the document holds there
    """A field by its camelCase name or by the snake_case form of it."""
    if not isinstance(item, dict):
        return None
    return item[name] if name in item else item.get(_snake(name))


@cache
def _snake(name: str) -> str:
    return re.sub(r"([A-Z])", lambda found: f"_{found[1].lower()}", name)


def _list(item: object, name: str) -> list[Any]:
    found = _field(item, name)
    return found if isinstance(found, list) else []


def _id(span: object, name: str) -> str:
    found = _field(span, name)
    return found.lower() if isinstance(found, str) else ""


def _nanos(value: object) -> int | None:
    if isinstance(value, str) and value.isdecimal():
        value = int(value[:20])
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < _LATEST_NS else None


def _attributes(listed: object) -> dict[str, Any]:
    if not isinstance(listed, list):
        return {}
    return {pair["key"]: _value(pair.get("value")) for pair in listed if isinstance(pair, dict) and isinstance(pair.get("key"), str)}


def _value(value: object) -> Any:  # noqa: ANN401  # an AnyValue holds anything
    if isinstance(array := _field(value, "arrayValue"), dict):
        return [_value(item) for item in _list(array, "values")]
    if isinstance(pairs := _field(value, "kvlistValue"), dict):
        return _attributes(_field(pairs, "values"))
    if (integer := _field(value, "intValue")) is not None:
        return int(integer) if isinstance(integer, str) and re.fullmatch(r"-?\d{1,19}", integer) else integer
    return next((found for name in ("stringValue", "boolValue", "doubleValue") if (found := _field(value, name)) is not None), None)

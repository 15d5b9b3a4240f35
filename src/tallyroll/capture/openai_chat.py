"""Runs recorded as chat messages in the form of the OpenAI chat API.

Accepted: a JSON array of runs, JSON lines with one run each, or one run. A run is an object with ``traj`` or
``messages``, or the plain list of messages; a file that is one list of messages is one run. Messages have ``role``,
``content`` (text, null or parts), ``tool_calls``, ``tool_call_id``, ``name``, or the older ``function_call`` and role
``function``. Source: OpenAI API reference, Chat Completions; ``traj`` and ``reward`` as tau-bench writes them.

One run gives, in this order: ``agent.started``, ``task.created``, ``task.started``; per message one ``message.received``
(user, system, developer) or ``message.sent`` (assistant), or for an answer of a tool ``tool.completed`` / ``tool.failed``; after
an assistant's message one ``tool.invoked`` per call; at the end ``task.completed`` or ``task.failed`` and ``agent.stopped``.
``payload.message_index`` says which message an event stands for. Each event names the one before it as its cause, a tool's
answer its call. Task, tool and message events belong to the aggregate ``task:{task_id}``, so that one run has one key and
keeps its order in each topic.

A call without an answer becomes ``tool.failed`` with ``error_type`` ``unanswered`` at the end of the run, so that nothing stays
open for ever. An answer without a call is kept, with ``matched`` false.

**Identity.** A run is known by a keyed digest of all it holds: the same run in another file or place gives the same ids,
two runs that share a beginning, or the ids of their calls, do not. Twice the same run in one file is two runs. A run
that has grown since the last import is another run.

**Time.** From ``timestamp``, ``created_at`` or ``created`` of a message, and ``started_at`` or ``created_at`` of a run, where they
are; else from ``CaptureOptions.start``, and ``payload.clock`` of the ends says ``synthetic``: such durations only keep order.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from tallyroll.capture.content import argument_content, count, message_content, result_content, text_of, word
from tallyroll.capture.recording import (
    DEFAULTS,
    RECORDING_EPOCH,
    CaptureOptions,
    Run,
    Skipped,
    Source,
    digest,
    documents,
    first_time,
)
from tallyroll.events.event import AgentEvent
from tallyroll.events.moments import us_of
from tallyroll.events.types import EventType

NAME: Final = "openai-chat"
DEFAULT_AGENT: Final = "chat-agent"

_RUN_TIMES: Final = ("started_at", "start_time", "created_at", "created", "timestamp")
_MESSAGE_TIMES: Final = ("timestamp", "created_at", "created")
_EPOCH_US: Final = us_of(RECORDING_EPOCH)
# No sets: what is looked for may be any JSON, also a list.
_RECEIVED: Final = ("user", "system", "developer")
_ANSWERS: Final = ("tool", "function")
_FAILED: Final = ("error", "failed", "failure", "timeout")
_CUT_SHORT: Final = ("length", "content_filter")


def is_message(item: object) -> bool:
    """Whether a document is a single chat message and not a run."""
    return isinstance(item, dict) and "role" in item and "messages" not in item and "traj" not in item


def looks_right(item: object) -> bool:
    """Whether a document is a run or a message of this format."""
    if isinstance(item, dict):
        return is_message(item) or isinstance(item.get("messages", item.get("traj", item.get("runs"))), list)
    return isinstance(item, list) and bool(item) and is_message(item[0])


def read(source: Source, *, options: CaptureOptions = DEFAULTS) -> Iterator[AgentEvent | Skipped]:
    """The events of every run, run after run, each in its own order; what cannot be read as Skipped in its place."""
    clock_us = us_of(options.start)
    seen: Counter[bytes] = Counter()
    for where, run in _runs(source):
        if isinstance(run, Skipped):
            yield run
            continue
        messages = run if isinstance(run, list) else run.get("messages", run.get("traj"))
        if not isinstance(messages, list) or not messages:
            yield Skipped(where, "neither a list of messages nor an object with messages or traj, or none in it")
            continue
        try:
            key = digest(options, NAME, run)
        except RecursionError:
            yield Skipped(where, "nested too deeply")
            continue
        telling = _Telling(run if isinstance(run, dict) else {}, where, options, digest(options, key.hex(), seen[key]), clock_us)
        seen[key] += 1
        yield from telling.events(messages)
        clock_us = max(clock_us, telling.now_us) + options.gap_ms * 1_000


def _runs(source: Source) -> Iterator[tuple[str, Any]]:
    loose: list[Any] = []  # messages that stand alone make one run together
    number = 0
    for where, item in documents(source):
        inner = item.get("runs") if isinstance(item, dict) and where == "file" else None
        if is_message(item):
            loose.append(item)
        elif isinstance(item, Skipped):
            yield where, item
        else:
            for run in inner if isinstance(inner, list) else [item]:
                yield f"run {number}", run if isinstance(run, (dict, list)) else Skipped(f"run {number}", "not an object or a list")
                number += 1
    if loose:
        yield f"run {number}", loose


@dataclass(frozen=True, slots=True)
class _Call:
    tool: str
    invocation_id: str
    at_us: int
    event_id: str | None


class _Telling:
    """Tells one run as events. Holds where the story stands: the clock, the open calls, the last event."""

    def __init__(self, run: dict[str, Any], where: str, options: CaptureOptions, key: bytes, start_us: int) -> None:
        self._run = run
        self._where = where
        self._options = options
        self._key = key.hex()
        name = key[:8].hex()
        self._task = f"task-{name}"
        self._agent = options.agent_id or _text(run, "agent_id") or _text(run, "agent") or DEFAULT_AGENT
        self._thread = Run(options, NAME, f"run-{name}", f"run-{name}")
        recorded = first_time(run, _RUN_TIMES)
        self._synthetic = False
        self._first = True
        self.now_us = start_us if recorded is None else recorded
        self._started_us = self.now_us
        self._cause: str | None = None
        self._open: dict[str, deque[_Call]] = {}
        self._last_failure: str | None = None

    def events(self, messages: list[Any]) -> Iterator[AgentEvent | Skipped]:
        """The whole run."""
        self._advance(messages[0] if isinstance(messages[0], dict) else {})
        self._started_us = self.now_us
        yield from self._opening(len(messages))
        for index, message in enumerate(messages):
            if index and isinstance(message, dict):
                self._advance(message)
            yield from self._message(index, message)
        yield from self._closing(len(messages))

    def _advance(self, message: dict[str, Any]) -> None:
        recorded = first_time(message, _MESSAGE_TIMES)
        if recorded is None:
            self._synthetic = True
            self.now_us += 0 if self._first else self._options.step_ms * 1_000
        else:
            # A clock that runs backwards inside a run would put effects before causes.
            self.now_us = recorded if self._first else max(self.now_us, recorded)
        self._id_us = _EPOCH_US if recorded is None else recorded
        self._first = False

    def _event(
        self,
        kind: EventType,
        payload: dict[str, Any],
        *item: object,
        where: str = "",
        cause: str | None = None,
        agent: bool = False,
    ) -> AgentEvent | Skipped:
        aggregate = ("agent", self._agent) if agent else ("task", self._task)
        named = {"task_id": self._task} if agent else {"agent_id": self._agent, "task_id": self._task}
        event = self._thread.event(
            kind,
            aggregate,
            {**named, **payload},
            at_us=self.now_us,
            identity=(self._key, *item),
            where=where or self._where,
            cause=cause or self._cause,
            id_us=self._id_us,
        )
        if isinstance(event, AgentEvent):
            self._cause = event.event_id
        return event

    def _opening(self, messages: int) -> Iterator[AgentEvent | Skipped]:
        about: dict[str, Any] = {"recorded_as": NAME}
        if model := _text(self._run, "model"):
            about["model"] = model
        yield self._event(EventType.AGENT_STARTED, about, "run", agent=True)
        for kind in (EventType.TASK_CREATED, EventType.TASK_STARTED):
            payload: dict[str, Any] = {"task_type": "conversation", "messages": messages}
            for name in ("task_id", "trial"):
                if isinstance(self._run.get(name), (int, str)):
                    payload[f"recorded_{name}"] = self._run[name]
            yield self._event(kind, payload, "run")

    def _message(self, index: int, message: object) -> Iterator[AgentEvent | Skipped]:
        where = f"{self._where} message {index}"
        role = message.get("role") if isinstance(message, dict) else None
        if not isinstance(message, dict) or not isinstance(role, str):
            yield Skipped(where, "not a message with a role")
        elif role in _ANSWERS:
            yield self._answer(index, message, where)
        elif role == "assistant":
            yield from self._assistant(index, message, where)
        elif role in _RECEIVED:
            kept = message_content(message.get("content"), full=self._options.full)
            yield self._event(EventType.MESSAGE_RECEIVED, {"message_index": index, "role": role, **kept}, index, where=where)
        else:
            yield Skipped(where, "the role is none of user, assistant, tool, function, system, developer")

    def _assistant(self, index: int, message: dict[str, Any], where: str) -> Iterator[AgentEvent | Skipped]:
        calls = _calls(message)
        refused = _refused(message)
        payload = {
            "message_index": index,
            "role": "assistant",
            **message_content(
                message.get("refusal") if refused and not message.get("content") else message.get("content"), full=self._options.full
            ),
            "tool_calls": len(calls),
            **_usage(message),
        }
        if refused:
            payload["refused"] = True
        self._last_failure = "refusal" if refused else "cut_short" if message.get("finish_reason") in _CUT_SHORT else None
        yield self._event(EventType.MESSAGE_SENT, payload, index, where=where)
        cause = self._cause
        for number, (call_id, name, arguments) in enumerate(calls):
            invocation_id = f"{self._task}-{index}-{number}"
            payload = {
                "message_index": index,
                "tool_name": name,
                "invocation_id": invocation_id,
                **argument_content(arguments, full=self._options.full),
            }
            invoked = self._event(EventType.TOOL_INVOKED, payload, index, number, where=f"{where} call {number}", cause=cause)
            yield invoked
            event_id = invoked.event_id if isinstance(invoked, AgentEvent) else None
            self._open.setdefault(call_id, deque()).append(_Call(name, invocation_id, self.now_us, event_id))

    def _answer(self, index: int, message: dict[str, Any], where: str) -> AgentEvent | Skipped:
        call = self._take(message)
        content = message.get("content")
        failed = self._is_failure(message, text_of(content))
        payload: dict[str, Any] = {
            "message_index": index,
            "tool_name": call.tool if call else _text(message, "name") or "unknown",
            "invocation_id": call.invocation_id if call else f"{self._task}-{index}",
            "matched": call is not None,
            **result_content(content, full=self._options.full),
        }
        if call is not None:
            payload["duration_ms"] = (self.now_us - call.at_us) // 1_000
            payload["clock"] = self._clock
        payload.update({"error_type": "tool_error"} if failed else {"status": "ok"})
        self._last_failure = "tool_error" if failed else None
        kind = EventType.TOOL_FAILED if failed else EventType.TOOL_COMPLETED
        return self._event(kind, payload, index, where=where, cause=call.event_id if call else None)

    def _take(self, message: dict[str, Any]) -> _Call | None:
        key = _text(message, "tool_call_id") or f"function:{_text(message, 'name')}"
        waiting = self._open.get(key)
        return waiting.popleft() if waiting else None

    def _is_failure(self, message: dict[str, Any], text: str) -> bool:
        return message.get("is_error") is True or message.get("status") in _FAILED or text.lstrip().startswith(self._options.error_prefixes)

    @property
    def _clock(self) -> str:
        return "synthetic" if self._synthetic else "recorded"

    def _closing(self, messages: int) -> Iterator[AgentEvent | Skipped]:
        unanswered = sorted((call for calls in self._open.values() for call in calls), key=lambda call: call.invocation_id)
        for call in unanswered:
            payload = {
                "tool_name": call.tool,
                "invocation_id": call.invocation_id,
                "duration_ms": (self.now_us - call.at_us) // 1_000,
                "clock": self._clock,
                "error_type": "unanswered",
            }
            yield self._event(EventType.TOOL_FAILED, payload, "unanswered", call.invocation_id, cause=call.event_id)
        failure = self._outcome(unanswered=bool(unanswered))
        payload = {"duration_ms": (self.now_us - self._started_us) // 1_000, "clock": self._clock, "messages": messages}
        if isinstance(self._run.get("reward"), (int, float)):
            payload["reward"] = self._run["reward"]
        if failure:
            yield self._event(EventType.TASK_FAILED, {**payload, "error_type": failure}, "run")
        else:
            yield self._event(EventType.TASK_COMPLETED, {**payload, "status": "ok"}, "run")
        yield self._event(EventType.AGENT_STOPPED, {"reason": "end_of_run"}, "run", agent=True)

    def _outcome(self, *, unanswered: bool) -> str | None:
        """What went wrong, None for a success. A reward decides if there is one; else what is known of the end."""
        reward = self._run.get("reward")
        if isinstance(reward, (int, float)):
            return None if reward >= self._options.success_reward else "not_solved"
        if self._run.get("error") or self._run.get("status") in _FAILED:
            return "run_error"
        return "unanswered_call" if unanswered else self._last_failure


def _text(item: dict[str, Any], name: str) -> str | None:
    value = item.get(name)
    return value if isinstance(value, str) and value else None


def _calls(message: dict[str, Any]) -> list[tuple[str, str, object]]:
    """Id, tool and arguments of each call; the older form has no id, its answer is found by the name."""
    calls: list[tuple[str, str, object]] = []
    listed = message.get("tool_calls")
    for call in listed if isinstance(listed, list) else []:
        function = call.get("function", call.get("custom")) if isinstance(call, dict) else None
        if isinstance(function, dict):
            calls.append((_text(call, "id") or "", _text(function, "name") or "unknown", function.get("arguments", function.get("input"))))
        else:
            calls.append(("", "unknown", None))
    older = message.get("function_call")
    if isinstance(older, dict):
        name = _text(older, "name") or "unknown"
        calls.append((f"function:{name}", name, older.get("arguments")))
    return calls


def _refused(message: dict[str, Any]) -> bool:
    parts = message.get("content")
    return bool(message.get("refusal")) or (
        isinstance(parts, list) and any(isinstance(part, dict) and part.get("type") == "refusal" for part in parts)
    )


def _usage(message: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    if model := _text(message, "model"):
        kept["model"] = model
    if reason := message.get("finish_reason"):
        kept["finish_reason"] = word(reason)
    usage = message.get("usage")
    if isinstance(usage, dict):
        sent, received = count(usage.get("prompt_tokens")), count(usage.get("completion_tokens"))
        kept |= {"input_tokens": sent, "output_tokens": received, "tokens": count(usage.get("total_tokens")) or sent + received}
    return kept

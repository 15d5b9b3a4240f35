"""Session transcripts of Claude Code: the JSON lines under ``~/.claude/projects/<project>/<session>.jsonl``.

Lines of type ``user`` and ``assistant`` become events; ``system`` lines only when they tell of an API error. Summaries,
snapshots, progress and queue lines are Skipped with their type. The format has no published definition; the fields used
here (``uuid``, ``sessionId``, ``timestamp``, ``isSidechain``, ``agentId``, ``isMeta``, ``message.content`` with ``text``,
``thinking``, ``tool_use`` and ``tool_result`` parts, ``message.usage``) are those that its users have described for versions
1.0 to 2.1.

**Agents.** One per session, ``claude-code-{sessionId}``, and one per sidechain (a sub-agent) of it. ``agent.started`` stands at
the first line. A transcript does not say that a session has ended, so there is no ``agent.stopped``.

**Tasks.** A turn is a task: it starts with what the user types (for a sidechain: with its prompt) and ends with the last
answer before the next prompt or the end of the file. It is ``task.completed`` if that answer left no call open,
``task.cancelled`` after an interruption or when a new prompt came first, ``task.failed`` after an API error, and stays
open when the file ends inside it. What stands before the first prompt belongs to ``session-{sessionId}``.

**Tokens.** One answer of the model is written as several lines that repeat its usage; it is counted once, on the last of
them: ``tokens`` is the sum of input, output, cache creation and cache read.

**Identity.** The ``uuid`` of the line and the place inside it. A line that was copied into another file when a session was
resumed is the same event, and a transcript that has grown gives the old ids for the old lines.

**Order.** That of the file. The end of a turn is only known when the next one begins, so it is told then, with its own
earlier time. A call whose turn was cut off before the answer stays open: whether it ran is not known.

With ``content="digest"`` neither texts nor ``cwd`` and ``gitBranch`` are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from tallyroll.capture.content import argument_content, count, message_content, result_content, text_of, word
from tallyroll.capture.recording import DEFAULTS, CaptureOptions, Run, Skipped, Source, documents, recorded_us
from tallyroll.events.event import AgentEvent
from tallyroll.events.types import EventType

NAME: Final = "claude-code"
_USAGE: Final = ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
_INTERRUPTED: Final = "[Request interrupted by user"
_LOCAL_OUTPUT: Final = ("<local-command-", "<command-name>", "<bash-stdout>", "<bash-stderr>")
_CALLS: Final = ("tool_use", "server_tool_use", "mcp_tool_use")  # no set: what is looked for may be any JSON, also a list

Line = dict[str, Any]


def looks_right(item: object) -> bool:
    """Whether a document is a line of such a transcript."""
    return isinstance(item, dict) and "sessionId" in item and ("uuid" in item or item.get("type") == "queue-operation")


def read(source: Source, *, options: CaptureOptions = DEFAULTS) -> Iterator[AgentEvent | Skipped]:
    """The events of every line in the order of the file; lines that are no event as Skipped in their place."""
    lines = list(documents(source))
    usage = _usage_by_line(lines)
    threads: dict[tuple[str, str], _Thread] = {}
    seen: set[str] = set()
    for number, (where, line) in enumerate(lines):
        if isinstance(line, Skipped):
            yield line
            continue
        if problem := _problem(line, seen):
            yield Skipped(where, problem)
            continue
        seen.add(line["uuid"])
        key = (line["sessionId"], _agent_suffix(line))
        thread = threads.get(key)
        if thread is None:
            thread = threads[key] = _Thread(options, *key)
            yield thread.start(line, where)
        yield from thread.line(line, where, usage.get(number, {}))
    for thread in threads.values():
        yield from thread.end()


def _problem(line: object, seen: set[str]) -> str | None:
    """Why a line is no event; None if it is one."""
    if not isinstance(line, dict):
        return "not an object"
    kind = line.get("type")
    if kind == "system" and line.get("subtype") != "api_error":
        return f"system lines of subtype {word(line.get('subtype'), 'none')} are no events"
    if kind not in ("user", "assistant", "system"):
        return f"lines of type {word(kind, 'unknown')} are no events"
    lacks = [name for name in ("uuid", "sessionId") if not isinstance(line.get(name), str) or not line[name]]
    if recorded_us(line.get("timestamp")) is None:
        lacks.append("timestamp with a zone")
    if kind != "system" and not isinstance(line.get("message"), dict):
        lacks.append("message")
    if lacks:
        return f"no {' and no '.join(lacks)}"
    return "the same uuid again" if line["uuid"] in seen else None


def _agent_suffix(line: Line) -> str:
    if not line.get("isSidechain"):
        return ""
    agent = line.get("agentId")
    return agent if isinstance(agent, str) and agent else "sidechain"


def _usage_by_line(lines: list[tuple[str, Any]]) -> dict[int, dict[str, int]]:
    """Per line that closes an answer of the model, what that answer used: earlier lines of it hold partial counts."""
    totals: dict[str, dict[str, int]] = {}
    last: dict[str, int] = {}
    for number, (_, line) in enumerate(lines):
        message = line.get("message") if isinstance(line, dict) and line.get("type") == "assistant" else None
        usage = message.get("usage") if isinstance(message, dict) else None
        if not isinstance(message, dict) or not isinstance(usage, dict):
            continue
        key = str(message.get("id") or f"line-{number}")
        known = totals.setdefault(key, {})
        for name in _USAGE:
            known[name] = max(known.get(name, 0), count(usage.get(name)))
        last[key] = number
    return {number: {**totals[key], "tokens": sum(totals[key].values())} for key, number in last.items()}


@dataclass(frozen=True, slots=True)
class _Call:
    tool: str
    task_id: str
    at_us: int
    event_id: str | None


@dataclass(slots=True)
class _Turn:
    task_id: str
    prompt: str
    started_us: int
    last_us: int
    calls: set[str] = field(default_factory=set)
    answered: bool = False
    failed: bool = False


class _Thread:
    """One agent of one session: its open turn, its open calls, and the event before."""

    def __init__(self, options: CaptureOptions, session: str, suffix: str) -> None:
        self._options = options
        self._session = session
        self._suffix = suffix
        base = options.agent_id or f"claude-code-{session}"
        self._agent = f"{base}-{suffix}" if suffix else base
        self._run = Run(options, NAME, session, session)
        self._turn: _Turn | None = None
        self._calls: dict[str, _Call] = {}
        self._cause: str | None = None
        self._now_us = 0

    def start(self, line: Line, where: str) -> AgentEvent | Skipped:
        """``agent.started``, at the first line of the agent."""
        self._now_us = recorded_us(line["timestamp"]) or 0
        payload: dict[str, Any] = {"agent_type": "sub-agent" if self._suffix else NAME, "session_id": self._session}
        for name, kept in (("version", "client_version"), ("entrypoint", "entrypoint")):
            if name in line:
                payload[kept] = word(line[name]) if name == "entrypoint" else str(line[name])[:40]
        if self._options.full:
            payload |= {kept: line[name] for name, kept in (("cwd", "cwd"), ("gitBranch", "git_branch")) if isinstance(line.get(name), str)}
        return self._event(EventType.AGENT_STARTED, payload, where, "agent", self._session, self._suffix, aggregate=("agent", self._agent))

    def line(self, line: Line, where: str, usage: dict[str, int]) -> Iterator[AgentEvent | Skipped]:
        """The events of one line."""
        self._now_us = max(self._now_us, recorded_us(line["timestamp"]) or 0)
        if line["type"] == "system":
            if self._turn is not None:
                self._turn.failed = True
            yield self._event(EventType.MESSAGE_FAILED, {"error_type": "api_error"}, where, line["uuid"])
        elif line["type"] == "assistant":
            yield from self._assistant(line, where, usage)
        else:
            yield from self._user(line, where)

    def end(self) -> Iterator[AgentEvent | Skipped]:
        """The end of the turn if the file holds it."""
        if self._turn is not None and (self._turn.failed or (self._turn.answered and not self._turn.calls)):
            yield self._close(self._turn)

    def _event(  # noqa: PLR0913  # one per thing that differs
        self,
        kind: EventType,
        payload: dict[str, Any],
        where: str,
        *item: object,
        cause: str | None = None,
        aggregate: tuple[str, str] | None = None,
        task: str | None = None,
        at_us: int | None = None,
    ) -> AgentEvent | Skipped:
        if aggregate is None:
            aggregate = ("task", task or self._task)
            payload = {"agent_id": self._agent, "task_id": aggregate[1], **payload}
        event = self._run.event(
            kind,
            aggregate,
            payload,
            at_us=self._now_us if at_us is None else at_us,
            identity=item,
            where=where,
            cause=cause or self._cause,
        )
        if isinstance(event, AgentEvent):
            self._cause = event.event_id
        return event

    @property
    def _task(self) -> str:
        return self._turn.task_id if self._turn else f"session-{self._session}"

    def _user(self, line: Line, where: str) -> Iterator[AgentEvent | Skipped]:
        content = line["message"].get("content")
        parts = content if isinstance(content, list) else []
        results = [part for part in parts if isinstance(part, dict) and part.get("type") == "tool_result"]
        for number, part in enumerate(results):
            yield self._result(part, f"{where} result {number}", line["uuid"], number)
        if results and len(results) == len(parts):
            return
        rest = [part for part in parts if part not in results] if parts else content
        text = text_of(rest).lstrip()
        if text.startswith(_INTERRUPTED):
            yield self._interruption(where)
            return
        shown = line.get("isMeta") or line.get("isCompactSummary") or text.startswith(_LOCAL_OUTPUT) or results
        if not shown:
            if self._turn is not None:
                yield self._close(self._turn)
            self._turn = _Turn(f"turn-{line['uuid']}", line["uuid"], self._now_us, self._now_us)
            yield self._event(EventType.TASK_STARTED, {"task_type": "turn"}, where, line["uuid"])
        payload = {"role": "user", **message_content(rest, full=self._options.full)}
        yield self._event(EventType.MESSAGE_RECEIVED, payload, where, line["uuid"])

    def _interruption(self, where: str) -> AgentEvent | Skipped:
        if self._turn is None:
            return Skipped(where, "an interruption with no turn open")
        self._turn.last_us = self._now_us
        return self._finish(self._turn, EventType.TASK_CANCELLED, {"reason": "interrupted"}, where)

    def _close(self, turn: _Turn) -> AgentEvent | Skipped:
        if turn.failed:
            return self._finish(turn, EventType.TASK_FAILED, {"error_type": "api_error"}, "end of turn")
        if turn.answered and not turn.calls:
            return self._finish(turn, EventType.TASK_COMPLETED, {"status": "ok"}, "end of turn")
        return self._finish(turn, EventType.TASK_CANCELLED, {"reason": "superseded"}, "end of turn")

    def _finish(self, turn: _Turn, kind: EventType, payload: dict[str, Any], where: str) -> AgentEvent | Skipped:
        """The end of a turn, at the time of its last line: what the user thought about for an hour was not the agent's work."""
        payload = {"duration_ms": (turn.last_us - turn.started_us) // 1_000, **payload}
        event = self._event(kind, payload, where, "turn", turn.prompt, at_us=turn.last_us)
        self._turn = None
        return event

    def _assistant(self, line: Line, where: str, usage: dict[str, int]) -> Iterator[AgentEvent | Skipped]:
        message = line["message"]
        content = message.get("content")
        parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
        calls = [part for part in parts if part.get("type") in _CALLS]
        failed = bool(line.get("isApiErrorMessage"))
        said = [part for part in parts if part.get("type") != "thinking"] if isinstance(content, list) else content
        payload: dict[str, Any] = {
            "role": "assistant",
            **message_content(content, full=self._options.full),
            "tool_calls": len(calls),
            **usage,
        }
        for name in ("model", "stop_reason"):
            if isinstance(message.get(name), str):
                payload[name] = word(message[name])
        if failed:
            payload["error_type"] = "api_error"
        if self._turn is not None:
            self._turn.last_us = self._now_us
            self._turn.failed = failed
            self._turn.answered = self._turn.answered or bool(text_of(said))
        yield self._event(EventType.MESSAGE_FAILED if failed else EventType.MESSAGE_SENT, payload, where, line["uuid"])
        cause = self._cause
        for number, part in enumerate(calls):
            yield self._invoked(part, f"{where} call {number}", (line["uuid"], number), cause)
        for number, part in enumerate(parts):  # the answers of tools that ran at the provider stand in the same message
            if isinstance(part.get("tool_use_id"), str):
                yield self._result(part, f"{where} result {number}", line["uuid"], number)

    def _invoked(self, part: dict[str, Any], where: str, item: tuple[str, int], cause: str | None) -> AgentEvent | Skipped:
        call_id = part.get("id") if isinstance(part.get("id"), str) else f"{item[0]}-{item[1]}"
        tool = part.get("name") if isinstance(part.get("name"), str) else "unknown"
        payload = {"tool_name": tool, "invocation_id": call_id, **argument_content(part.get("input"), full=self._options.full)}
        event = self._event(EventType.TOOL_INVOKED, payload, where, *item, cause=cause)
        self._calls[str(call_id)] = _Call(str(tool), self._task, self._now_us, event.event_id if isinstance(event, AgentEvent) else None)
        if self._turn is not None:
            self._turn.calls.add(str(call_id))
            self._turn.answered = False
        return event

    def _result(self, part: dict[str, Any], where: str, uuid: str, number: int) -> AgentEvent | Skipped:
        call_id = str(part.get("tool_use_id"))
        call = self._calls.pop(call_id, None)
        if self._turn is not None:
            self._turn.last_us = self._now_us
            self._turn.calls.discard(call_id)
        failed = part.get("is_error") is True
        payload: dict[str, Any] = {
            "tool_name": call.tool if call else "unknown",
            "invocation_id": call_id,
            "matched": call is not None,
            **result_content(part.get("content"), full=self._options.full),
            **({"error_type": "tool_error"} if failed else {"status": "ok"}),
        }
        if call is not None:
            payload["duration_ms"] = (self._now_us - call.at_us) // 1_000
        kind = EventType.TOOL_FAILED if failed else EventType.TOOL_COMPLETED
        # An answer that comes after its turn was cut off still belongs to the task that asked.
        cause, task = (call.event_id, call.task_id) if call else (None, None)
        return self._event(kind, payload, where, uuid, "result", number, cause=cause, task=task)

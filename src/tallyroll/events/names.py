"""Whether an event's name and payload say what readers need: the rules behind registration and ``tallyroll events lint``.

Pure: text and mappings in, findings out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

_NAME: Final = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")
OTHER_NAME: Final = "__other__"
"""What names share that came when too many were kept apart already: keys of metrics, labels, names in a state."""

MAX_NAME_CHARS: Final = 100  # a name is repeated in every record and is a metric label

# Facts of the domain that English does not spell as a past tense, or that users know under these names.
_ACCEPTED_ENDINGS: Final = frozenset(
    {"success", "failure", "heartbeat", "metric", "retry", "sent", "begun", "built", "bought", "done", "drawn", "found",
     "given", "held", "hidden", "kept", "known", "left", "lost", "made", "met", "paid", "put", "read", "run", "seen", "set",
     "shown", "shut", "sold", "spent", "split", "taken", "told", "thrown", "understood", "won", "withdrawn", "written"}
)  # fmt: skip

_PRESENT_TENSE_ED: Final = frozenset({"need", "feed", "seed", "speed", "exceed", "proceed", "succeed", "embed", "bleed", "breed", "shed"})

COMPLETION_ENDINGS: Final = frozenset({"completed", "failed", "cancelled"})


class Finding(NamedTuple):
    """One thing that a reader of the event will miss: where, which rule, and what to do."""

    field: str
    rule: str
    advice: str


def name_problem(name: str) -> str | None:
    """What is wrong with an event name, in one sentence; None if nothing is.

    Dotted and lower-case with at least two parts, hierarchical from the general to the special, the last word a fact in
    the past tense (``task.completed``, not ``task.complete`` or ``completeTask``).
    """
    if len(name) > MAX_NAME_CHARS:
        return f"the name is longer than {MAX_NAME_CHARS} characters"
    if not _NAME.fullmatch(name):
        return "a name is two or more lower-case words joined by dots, such as task.completed"
    word = name.rpartition(".")[2].rpartition("_")[2]
    if word in _ACCEPTED_ENDINGS or (word.endswith("ed") and word not in _PRESENT_TENSE_ED and len(word) > 3):  # noqa: PLR2004  # "red", "led"
        return None
    return f"an event is a fact that has happened: the last word is in the past tense, and '{word}' is not"


def payload_findings(event_type: str, aggregate_type: str, payload: Mapping[str, object]) -> list[Finding]:
    """What the payload of an event leaves unsaid that its readers need; an empty list is a clean bill.

    Task and tool events name their agent, and their task if that is not the aggregate. Completions say how long it took
    (``duration_ms``, or ``execution_time`` in seconds) and how it ended (``result``, or ``error`` after a failure).
    """
    family, _, ending = event_type.partition(".")[0], "", event_type.rpartition(".")[2]
    findings: list[Finding] = []

    def lacks(*names: str) -> bool:
        return all(payload.get(name) in (None, "") for name in names)

    if family in ("task", "tool", "message"):
        if aggregate_type != "agent" and event_type != "task.created" and lacks("agent_id"):
            findings.append(Finding("payload.agent_id", "names-its-agent", "say which agent did it, or it counts for none"))
        if aggregate_type != "task" and lacks("task_id"):
            findings.append(Finding("payload.task_id", "names-its-task", "say for which task, or it cannot be joined to one"))
    if ending in COMPLETION_ENDINGS and family in ("task", "tool", "workflow"):
        if lacks("duration_ms", "execution_time"):
            findings.append(Finding("payload.duration_ms", "says-how-long", "give duration_ms, or execution_time in seconds"))
        if ending == "completed" and lacks("result", "output", "status"):
            findings.append(Finding("payload.result", "says-how-it-ended", "give the result, or a status"))
        if ending == "failed" and lacks("error", "error_type", "reason"):
            findings.append(Finding("payload.error", "says-why-it-failed", "give the error, or its type"))
    return findings

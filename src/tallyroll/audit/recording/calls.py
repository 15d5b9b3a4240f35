"""Calls of a recorder: what each wants recorded, and what it gets, which is as durable as its rules demand."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import force_setattr

from tallyroll.audit.compliance.rules import OnFailure
from tallyroll.audit.ledger.contents import AuditEntry
from tallyroll.audit.recording.drafting import Plan
from tallyroll.audit.recording.epochs import Placed
from tallyroll.errors import PublishUncertain, TallyrollError
from tallyroll.ports import Delivered, Outcome, Rejected


class Ready(msgspec.Struct, frozen=True, gc=False):
    """A plan with its id and env: all that can be said before it is sealed."""

    plan: Plan
    audit_id: str
    env: bytes
    size: int


class Handed(NamedTuple):
    """Entries that are sealed and on their way: what becomes of their bodies in the end, and how they stand once they are kept."""

    entries: Sequence[AuditEntry]
    placed: Sequence[Placed]
    settled: asyncio.Task[list[Outcome]]
    kept: asyncio.Task[list[Outcome] | None]


class Call(NamedTuple):
    """Entries that are recorded in one go, what their caller waits for, and what he gets."""

    ready: Sequence[Ready]
    policy: OnFailure
    made: asyncio.Future[list[AuditEntry]]


def answer(handed: Handed, calls: Sequence[Call]) -> None:
    """Gives each call its entries as soon as its policy is content; or what stands against it."""
    start = 0
    waiting: dict[OnFailure, list[tuple[Call, slice]]] = {}
    for call in calls:
        waiting.setdefault(call.policy, []).append((call, slice(start, start + len(call.ready))))
        start += len(call.ready)
    for policy, those in waiting.items():
        if policy == "count":
            _answer_now(handed, those, None)
        else:
            task: asyncio.Future[Any] = handed.settled if policy == "block" else handed.kept
            task.add_done_callback(partial(_answer_now, handed, those))


def _answer_now(handed: Handed, calls: Sequence[tuple[Call, slice]], task: asyncio.Future[Any] | None) -> None:
    if task is not None and task.cancelled():
        fail([call for call, _ in calls], asyncio.CancelledError())
        return
    error = None if task is None else task.exception()
    outcomes = None if task is None or error is not None else task.result()
    for call, part in calls:
        if error is not None:
            fail([call], error)
        elif outcomes is None:
            _give(call, handed.entries[part])
        else:
            pairs = zip(handed.entries[part], handed.placed[part], strict=True)
            try:
                made = [_at(entry, outcomes[where.slot], call.policy) for entry, where in pairs]
            except TallyrollError as refused:
                fail([call], refused)
            else:
                _give(call, made)


def _give(call: Call, made: Sequence[AuditEntry]) -> None:
    if not call.made.done():  # whoever called may be gone
        call.made.set_result([*made])


def fail(calls: Iterable[Call], error: BaseException) -> None:
    """Tells these calls what stands against them."""
    for call in calls:
        if call.made.done():
            continue
        if isinstance(error, asyncio.CancelledError):
            call.made.cancel()
        else:
            call.made.set_exception(error)


def _at(entry: AuditEntry, outcome: Outcome, policy: OnFailure) -> AuditEntry:
    """The entry at its position, as its caller gets it. Raises what the outcome means, if it is not good enough."""
    if isinstance(outcome, Delivered):
        there: AuditEntry = entry.__copy__()  # type: ignore[attr-defined]  # every Struct has it
        force_setattr(there, "position", str(outcome.position))
        return there
    if isinstance(outcome, Rejected):
        raise outcome.error
    if policy == "spill" and outcome.kept:
        return entry
    raise PublishUncertain(entry.audit_id, "no answer of the log", kept=True)

"""``tallyroll publish``: one event into the log."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import msgspec
import typer

from tallyroll.cli.exits import CommandError, ExitCode
from tallyroll.cli.printing import note, paint, say, say_json
from tallyroll.cli.session import Json, Session, Url, examples, run, session_of, verbs
from tallyroll.errors import PublishUncertain
from tallyroll.events.event import AgentEvent, EventMetadata
from tallyroll.events.names import payload_findings
from tallyroll.events.types import register_event_type
from tallyroll.publish.receipt import Receipt

if TYPE_CHECKING:
    from tallyroll.roll import Roll

app = verbs()

T = TypeVar("T")

_SOON_S: Final = 1.5  # a broker that is well answers within a tenth of that, and on a busy machine within all of it
_THEN: Final = "then it stays in the spool and goes out with the next event published from here"
_AGGREGATES: Final = {"task": "task", "tool": "task", "workflow": "workflow", "message": "workflow"}


@app.command(
    epilog=examples(
        "tallyroll publish agent.started coder-1",
        """tallyroll publish task.completed task-7 --agent coder-1 --payload '{"duration_ms": 5200, "status": "ok"}'""",
        "tallyroll publish tool.invoked task-7 --payload @call.json --json",
    )
)
def publish(  # noqa: PLR0913  # one parameter per option
    context: typer.Context,
    event_type: Annotated[str, typer.Argument(metavar="TYPE", help="Such as task.completed; see 'tallyroll events types'.")],
    aggregate: Annotated[str, typer.Argument(metavar="AGGREGATE", help="The id of what it is about: an agent, task or workflow.")],
    *,
    payload: Annotated[str, typer.Option(help="A JSON object, @FILE with one, or - for standard input.")] = "{}",
    agent: Annotated[str | None, typer.Option(help="Whose deed it is; becomes payload.agent_id.")] = None,
    task: Annotated[str | None, typer.Option(help="For which task; becomes payload.task_id.")] = None,
    aggregate_type: Annotated[str | None, typer.Option(help="What the aggregate is; follows from TYPE unless given.")] = None,
    correlation: Annotated[str | None, typer.Option(help="Joins events of one undertaking.")] = None,
    causation: Annotated[str | None, typer.Option(help="The id of the event that caused this one.")] = None,
    session_id: Annotated[str | None, typer.Option("--session", help="The session it belongs to.")] = None,
    user: Annotated[str | None, typer.Option(help="The user on whose behalf it happened.")] = None,
    tenant: Annotated[str | None, typer.Option(help="The tenant it belongs to.")] = None,
    topic: Annotated[str | None, typer.Option(help="For a type of your own: the topic that it belongs to.")] = None,
    url: Url = None,
    json: Json = False,
) -> None:
    """Put one event into the log, and print its id and position once the log has it."""
    session = session_of(context, url, json)
    if topic is not None:
        register_event_type(event_type, topic=topic)
    given = payload_of(payload) | {name: value for name, value in (("agent_id", agent), ("task_id", task)) if value is not None}
    metadata = EventMetadata(
        correlation_id=correlation, causation_id=causation, session_id=session_id, user_id=user, tenant_id=tenant, source="tallyroll/cli"
    )
    kind = aggregate_type or _AGGREGATES.get(event_type.partition(".")[0], "agent")
    event = AgentEvent(event_type, aggregate, kind, given, metadata)
    receipt = run(_publish(session, event))
    position = None if receipt.position is None else str(receipt.position)
    if session.json:
        say_json({"event_id": receipt.event_id, "position": position})
    else:
        say(f"{receipt.event_id}  {paint(position or 'in the spool, on its way', 'dim')}")
    for finding in payload_findings(event.event_type, event.aggregate_type, event.payload):
        note(f"hint: {finding.field}: {finding.advice}")


async def _publish(session: Session, event: AgentEvent) -> Receipt:
    async with session.roll() as roll:
        return await answered(roll, roll.publish(event))


async def answered(roll: Roll, work: Coroutine[Any, Any, T]) -> T:
    """What the work gives. Says what is waited for where the log does not answer soon, and leaves at once what stays in the spool."""
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=_SOON_S)
        if not done and roll.settings.is_kafka:
            wait_s = roll.settings.publish_deadline_ms / 1_000
            note(f"{roll.settings.url} has not answered yet; waiting for it up to {wait_s:g} s, {_THEN}")
        return await task
    except PublishUncertain as error:
        if error.kept:
            await roll.publisher.close(grace_s=0)
        raise
    finally:
        task.cancel()


def payload_of(given: str) -> dict[str, Any]:
    """The JSON object that an option gives: itself, of a file, or of standard input. Raises CommandError."""
    if given == "-":
        text = sys.stdin.read()
    elif given.startswith("@"):
        text = Path(given[1:]).read_text(encoding="utf-8")
    else:
        text = given
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise CommandError(
            ExitCode.USAGE, "--payload is not a JSON object", """write it as '{"duration_ms": 5200}', @FILE, or - for standard input"""
        )
    return value

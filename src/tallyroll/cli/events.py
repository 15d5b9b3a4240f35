"""``tallyroll events``: the types there are, checks of event files, and single records."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import typer

from tallyroll.capture.recording import Skipped, documents
from tallyroll.cli.event_lines import style_of
from tallyroll.cli.exits import CommandError, ExitCode
from tallyroll.cli.printing import counted, markup, note, number, paint, plain, say, say_json, spread, table
from tallyroll.cli.session import Json, Session, Url, examples, group_of, run, session_of, verbs
from tallyroll.errors import SpanGone, Undecodable
from tallyroll.events.batch import Batch
from tallyroll.events.names import name_problem, payload_findings
from tallyroll.events.position import Position, TopicPartition
from tallyroll.events.schema import SCHEMAS
from tallyroll.events.topics import catalogue_of
from tallyroll.events.types import known_types
from tallyroll.ports import Span

app = verbs()
group_of(app, "Event types, checks of event files, single events.")


@app.command(epilog=examples("tallyroll events types", "tallyroll events types --json"))
def types(context: typer.Context, *, url: Url = None, json: Json = False) -> None:
    """Every event type, its topic, its registered schema version."""
    session = session_of(context, url, json)
    catalogue = catalogue_of(session.settings())
    rows = [(info.name, catalogue.for_type(info.name).name, SCHEMAS.current(info.name)) for info in known_types()]
    if session.json:
        for name, topic, version in rows:
            say_json({"type": name, "topic": topic, "schema_version": version, "dataschema": f"urn:tallyroll:schema:{name}:{version}"})
        return
    table(("type", "topic", "schema"), [(markup(name, style_of(name)), markup(topic), version) for name, topic, version in rows])
    note(f"{number(len(rows))} types; own ones: register_event_type(), or 'tallyroll publish --topic'")


class Lint(NamedTuple):
    """One thing that a reader of an event file will miss."""

    where: str
    type: str
    field: str
    rule: str
    advice: str


@app.command(epilog=examples("tallyroll events lint dump.jsonl", "tallyroll tail --all --json | tallyroll events lint -"))
def lint(
    context: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="JSON lines of events or CloudEvents, or - for standard input.")],
    *,
    url: Url = None,
    json: Json = False,
) -> None:
    """Check that the events of a file say what readers need.

    Exit code 1 if one does not.

    Names are hierarchical facts in the past tense; task and tool events name agent and task; ends say how long and how.
    """
    session = session_of(context, url, json)
    source = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    checked, found = 0, 0
    for where, item in documents(source):
        checked += 1
        for one in _lint(where, item):
            found += 1
            if session.json:
                say_json(one._asdict())
            else:
                kind = paint(plain(one.type), style_of(one.type))
                say(f"{paint(one.where, 'dim')}  {kind}  {plain(one.field)}: {one.advice}  {paint(one.rule, 'dim')}")
    note(f"{counted(checked, 'event')}, {counted(found, 'finding')}")
    if found:
        raise typer.Exit(ExitCode.FINDINGS)


def _lint(where: str, item: object) -> Iterator[Lint]:
    if isinstance(item, Skipped) or not isinstance(item, dict):
        yield Lint(where, "?", "event", "is-an-event", item.reason if isinstance(item, Skipped) else "not an object")
        return
    is_cloud_event = "specversion" in item
    kind = item.get("type" if is_cloud_event else "event_type")
    aggregate = item.get("aggregatetype" if is_cloud_event else "aggregate_type")
    payload = item.get("data" if is_cloud_event else "payload")
    if not isinstance(kind, str):
        yield Lint(where, "?", "event_type", "is-an-event", "say what happened: the name of an event type")
        return
    if problem := name_problem(kind):
        yield Lint(where, kind, "event_type", "named-as-a-fact", problem)
    if not isinstance(aggregate, str):
        yield Lint(where, kind, "aggregate_type", "names-its-aggregate", "say what it is about: agent, task, workflow")
    if not isinstance(payload, dict):
        yield Lint(where, kind, "payload", "has-a-payload", "expected an object")
        return
    for finding in payload_findings(kind, aggregate if isinstance(aggregate, str) else "", payload):
        yield Lint(where, kind, finding.field, finding.rule, finding.advice)


@app.command(epilog=examples("tallyroll events show task-events/3/41", "tallyroll events show 01a209fd-46d9-74f8-823a-50a6f5f05f5c --json"))
def show(  # one parameter per option
    context: typer.Context,
    which: Annotated[str, typer.Argument(metavar="ID|POSITION", help="An event id (searches the log), or topic/partition/offset.")],
    *,
    raw: Annotated[bool, typer.Option("--raw", help="The bytes of the record's value as they lie in the log, and nothing else.")] = False,
    url: Url = None,
    json: Json = False,
) -> None:
    """One record: event, context, place, link in the chain."""
    session = session_of(context, url, json)
    batch = run(_find(session, which))
    if batch is None:
        raise CommandError(ExitCode.NOT_FOUND, f"no record {plain(which)} in the log", "'tallyroll tail --json' shows ids and positions")
    value = batch.values[0] or b""
    if raw:
        sys.stdout.buffer.write(value)
        sys.stdout.buffer.flush()
        return
    described = _describe(batch)
    if session.json:
        say_json(described)
    else:
        _show(described)


async def _find(session: Session, which: str) -> Batch | None:
    try:
        position = Position.parse(which)
    except ValueError:
        position = None
    async with session.roll() as roll:
        if position is not None and roll.catalogue.named(position.topic) is not None:
            end = (await roll.log.ends([position.topic])).get(position.topic_partition, 0)
            if not 0 <= position.offset < end:
                return None
            try:
                async for batch in roll.log.read([Span(position.topic, position.partition, position.offset, position.offset + 1)]):
                    return batch
            except SpanGone:
                return None
            return None
        topics = [topic.name for topic in roll.catalogue.topics if topic.user]
        starts, ends = await roll.log.starts(topics), await roll.log.ends(topics)
        spans = [Span(*partition, starts[TopicPartition(*partition)], end) for partition, end in ends.items()]
        async for batch in roll.log.read(spans):
            for index, head in enumerate(batch.heads()):
                if not isinstance(head, Undecodable) and head.id == which:
                    return batch.slice(index, index + 1)
    return None


def _describe(batch: Batch) -> dict[str, Any]:
    value, head = batch.values[0] or b"", batch.heads()[0]
    key = batch.keys[0]
    place = {
        "position": str(batch.position(0)),
        "key": None if key is None else key.decode(errors="replace"),
        "record_timestamp_ms": batch.timestamps_ms[0],
        "value_bytes": len(value),
    }
    if isinstance(head, Undecodable):
        return {"undecodable": head.reason, "detail": head.detail, **place}
    link = head.link()
    chain = None if link is None else {"session": link.session, "number": link.number, "previous": link.previous}
    return {**batch.event(0).to_kafka_message(), **place, "sequence": head.sequence or None, "chain": chain}


def _show(described: dict[str, Any]) -> None:
    if "undecodable" in described:
        say(f"{paint('not readable as an event', 'red')}: {described['undecodable']} ({described['detail']})")
    else:
        say(f"{paint(plain(described['event_type']), style_of(described['event_type']))}  {paint(described['event_id'], 'bold')}")
    say()
    flat = {name: value for name, value in described.items() if name not in ("event_type", "event_id", "payload", "metadata", "chain")}
    chain = described.get("chain")
    flat |= {name: value for name, value in described.get("metadata", {}).items() if value is not None}
    if chain is not None:
        flat["chain"] = f"number {chain['number']} of session {chain['session']}"
    spread((name, value) for name, value in flat.items() if value not in (None, "", False))
    if "payload" in described:
        say()
        for line in msgspec.json.format(msgspec.json.encode(described["payload"]), indent=2).decode().splitlines():
            say(plain(line))

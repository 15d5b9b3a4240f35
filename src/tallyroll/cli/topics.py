"""``tallyroll topics``: the topics and rights of a Kafka cluster, planned, applied, compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final

import typer

from tallyroll.adapters.extras import require
from tallyroll.cli.exits import CommandError, ExitCode
from tallyroll.cli.printing import markup, note, number, paint, plain, say, say_json, table
from tallyroll.cli.session import Json, Session, Url, confirm, examples, group_of, run, session_of, verbs
from tallyroll.events.acls import OPERATIONS, SERVICES, Acl, acls_of, commands
from tallyroll.events.topic_plan import CreateTopic, Difference, Plan, SetConfig, drift, plan, replication_for
from tallyroll.events.topics import Catalogue, TopicState, catalogue_of
from tallyroll.settings import Settings

app = verbs()
group_of(app, "Topics and rights of a Kafka cluster.", "tallyroll topics plan --url kafka://broker:9092", "tallyroll topics apply --yes")

_EMBEDDED: Final = "the embedded log makes its own topics and knows no rights; there is nothing to do"


@dataclass(frozen=True, slots=True)
class Cluster:
    """The catalogue, and what the cluster has of it."""

    catalogue: Catalogue
    states: Mapping[str, TopicState]
    replication: int
    max_record_bytes: int

    def plan(self) -> Plan:
        """What to change, and what not."""
        return plan(self.catalogue, self.states, replication=self.replication, max_record_bytes=self.max_record_bytes)

    def drift(self) -> list[Difference]:
        """Every difference."""
        return drift(self.catalogue, self.states, replication=self.replication, max_record_bytes=self.max_record_bytes)


@app.command("plan", epilog=examples("tallyroll topics plan", "tallyroll topics plan --json"))
def plan_(context: typer.Context, *, url: Url = None, json: Json = False) -> None:
    """What 'topics apply' would do, and what it would refuse.

    Refused is what would break a promise, such as the order of keys. Changes nothing.
    """
    session = session_of(context, url, json)
    if _embedded(session):
        return
    made = run(_look(session)).plan()
    if session.json:
        say_json(_plan_document(made))
    else:
        _show_plan(made)


@app.command(epilog=examples("tallyroll topics apply", "tallyroll topics apply --yes --json"))
def apply(
    context: typer.Context,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    url: Url = None,
    json: Json = False,
) -> None:
    """Create missing topics and set what differs. Never removes a topic, a partition or a copy.

    Needs the rights of the operations principal. Exit code 1 when something is refused.
    """
    session = session_of(context, url, json)
    if _embedded(session):
        return
    made = run(_look(session)).plan()
    if not session.json:
        _show_plan(made)
    if made.changes:
        confirm(f"apply {number(len(made.changes))} changes?", yes=yes)
        run(_apply(session, made))
        note(f"applied {number(len(made.changes))} changes")
    if session.json:
        say_json({**_plan_document(made), "applied": len(made.changes)})
    if made.refusals:
        raise typer.Exit(ExitCode.FINDINGS)


@app.command("drift", epilog=examples("tallyroll topics drift      # exit code 1 when something differs"))
def drift_(context: typer.Context, *, url: Url = None, json: Json = False) -> None:
    """Every difference between catalogue and cluster.

    Exit code 1 if there is one.
    """
    session = session_of(context, url, json)
    if _embedded(session):
        return
    found = run(_look(session)).drift()
    if session.json:
        say_json({"differences": [one._asdict() for one in found]})
    elif found:
        rows = [(markup(one.topic, "bold"), markup(one.what), markup(one.expected), markup(one.actual or "-", "red")) for one in found]
        table(("topic", "what", "expected", "actual"), rows)
    else:
        say("no difference")
    if found:
        raise typer.Exit(ExitCode.FINDINGS)


@app.command(epilog=examples("tallyroll topics describe", "tallyroll topics describe --json"))
def describe(context: typer.Context, *, url: Url = None, json: Json = False) -> None:
    """The catalogue: what goes where, and for how long.

    On Kafka also what is there: partitions × copies.
    """
    session = session_of(context, url, json)
    settings = session.settings()
    cluster = run(_look(session)) if settings.is_kafka else None
    catalogue = catalogue_of(settings) if cluster is None else cluster.catalogue
    rows = []
    for topic in catalogue.topics:
        state = None if cluster is None else cluster.states.get(topic.name)
        there = None if cluster is None else (f"{state.partitions} × {state.replication}" if state is not None else "missing")
        if session.json:
            actual = None if state is None else {"partitions": state.partitions, "replication": state.replication}
            kept = {"retention_days": topic.retention_days, "durability": topic.durability}
            say_json({"name": topic.name, "partitions": topic.partitions, **kept, "what": topic.what, "actual": actual})
        cells = (markup(topic.name, "bold"), number(topic.partitions), f"{topic.retention_days:g} d", markup(topic.what))
        rows.append(cells if there is None else (*cells[:3], markup(there, "red" if state is None else ""), cells[3]))
    if not session.json:
        head = ("topic", "partitions", "kept") if cluster is None else ("topic", "partitions", "kept", "there")
        table((*head, "what goes there"), rows, right=("partitions", "kept"))


@app.command(
    epilog=examples(
        "tallyroll topics acls      # kafka-acls commands for every service",
        "tallyroll topics acls --service state --principal User:state-1",
        "tallyroll topics acls --apply --yes",
    )
)
def acls(  # noqa: PLR0913  # one parameter per option
    context: typer.Context,
    *,
    service: Annotated[list[str] | None, typer.Option(help=f"Only these: {', '.join((*SERVICES, OPERATIONS))}.")] = None,
    principal: Annotated[str | None, typer.Option(help="Who gets the rights of the one service named [PREFIX-SERVICE].")] = None,
    apply_now: Annotated[
        bool, typer.Option("--apply", help="Give the rights instead of printing commands; needs an administrator.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --apply: do not ask.")] = False,
    url: Url = None,
    json: Json = False,
) -> None:
    """The least rights each service needs, as commands.

    They are kafka-acls command lines, for the cluster's administrator; with --apply they are given right away.
    """
    session = session_of(context, url, json)
    if _embedded(session):
        return
    wanted = tuple(service or (*SERVICES, OPERATIONS))
    if principal is not None and len(wanted) != 1:
        raise CommandError(ExitCode.USAGE, "--principal names who gets the rights of one service", "add --service NAME")
    settings = session.settings()
    prefix = settings.group("").removesuffix(".")
    rights = {name: (principal or f"User:{prefix}-{name}", _acls_of(name, settings, prefix)) for name in wanted}
    if apply_now:
        confirm(f"give rights to {', '.join(who for who, _ in rights.values())}?", yes=yes)
        run(_give(session, [(who, rules) for who, rules in rights.values()]))
    if session.json:
        for name, (who, rules) in rights.items():
            say_json(
                {
                    "service": name,
                    "principal": who,
                    "acls": [rule._asdict() for rule in rules],
                    "commands": commands(rules, who),
                    "applied": apply_now,
                }
            )
        return
    for name, (who, rules) in rights.items():
        what = SERVICES[name].what if name in SERVICES else "creates and alters topics; reads and writes no record"
        if apply_now:
            say(f"{paint(name, 'bold')}: {number(len(rules))} rights given to {plain(who)}")
        else:
            say(paint(f"# {name}: {what}", "dim"))
            for line in commands(rules, who):
                say(line)


def _acls_of(service: str, settings: Settings, prefix: str) -> list[Acl]:
    try:
        return acls_of(service, catalogue_of(settings), group_prefix=prefix)
    except ValueError as error:
        raise CommandError(ExitCode.USAGE, f"--service: {error}", "see --help") from None


def _embedded(session: Session) -> bool:
    if session.settings().is_kafka:
        return False
    if session.json:
        say_json({"changes": [], "refusals": [], "differences": [], "note": _EMBEDDED})
    else:
        say(_EMBEDDED)
    return True


async def _look(session: Session) -> Cluster:
    settings = session.settings()
    require("kafka")
    from tallyroll.adapters.kafka.admin import KafkaAdmin  # noqa: PLC0415  # needs the extra

    admin = await KafkaAdmin.open(settings)
    catalogue = catalogue_of(settings)
    states = await admin.describe([topic.name for topic in catalogue.topics])
    return Cluster(catalogue, states, replication_for(settings.replication, await admin.broker_count()), settings.max_record_bytes)


async def _apply(session: Session, made: Plan) -> None:
    from tallyroll.adapters.kafka.admin import KafkaAdmin  # noqa: PLC0415  # as above

    admin = await KafkaAdmin.open(session.settings())
    for change in made.changes:
        match change:
            case CreateTopic():
                await admin.create(change.topic, replication=change.replication, config=change.config)
            case SetConfig():
                await admin.set_config(change.name, change.config)


async def _give(session: Session, rights: list[tuple[str, list[Acl]]]) -> None:
    require("kafka")
    from tallyroll.adapters.kafka.admin import KafkaAdmin  # noqa: PLC0415  # as above

    admin = await KafkaAdmin.open(session.settings())
    for who, rules in rights:
        await admin.create_acls(rules, who)


def _plan_document(made: Plan) -> dict[str, object]:
    changes: list[dict[str, object]] = []
    for change in made.changes:
        if isinstance(change, CreateTopic):
            changes.append(
                {
                    "create": change.topic.name,
                    "partitions": change.topic.partitions,
                    "replication": change.replication,
                    "config": dict(change.config),
                }
            )
        else:
            changes.append(
                {
                    "set": change.name,
                    "config": dict(change.config),
                    "before": dict(change.before),
                    "removes_records": change.removes_records,
                }
            )
    return {"changes": changes, "refusals": [refusal._asdict() for refusal in made.refusals]}


def _show_plan(made: Plan) -> None:
    if not made.changes and not made.refusals:
        say("nothing to do: the topics are as the catalogue says")
    for change in made.changes:
        if isinstance(change, CreateTopic):
            topic = change.topic
            shape = f"{topic.partitions} partitions × {change.replication}, kept {topic.retention_days:g} days"
            say(f"{paint('create', 'green')}  {topic.name}  {shape}")
            continue
        warning = paint("  removes records!", "bold red") if change.removes_records else ""
        say(f"{paint('set', 'yellow')}     {change.name}{warning}")
        for name, value in change.config.items():
            say(f"          {name}: {change.before.get(name, '-')} → {value}")
    for refusal in made.refusals:
        say(f"{paint('refused', 'red')} {refusal.topic}: {refusal.reason}")

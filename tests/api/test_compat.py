"""Names that users know import from where they know them, and are the same objects as at home."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import tallyroll
from tallyroll.bridges.agents import EventSourcedAgentManager
from tallyroll.compat import analytics_pipeline, audit_trail, event_bus, event_replay, kafka_events
from tallyroll.events.event import AgentEvent
from tallyroll.publish.publisher import EventPublisher


def test_compat_names_are_the_objects_of_their_homes() -> None:
    assert kafka_events.AgentEvent is AgentEvent is tallyroll.AgentEvent
    assert kafka_events.KafkaEventPublisher is EventPublisher is tallyroll.EventPublisher
    assert kafka_events.publish_agent_event is tallyroll.publish_agent_event
    assert kafka_events.publish_task_event is tallyroll.publish_task_event
    assert kafka_events.get_event_publisher is tallyroll.get_event_publisher
    assert kafka_events.EventType is tallyroll.EventType
    assert issubclass(kafka_events.EventSourcedAgentManager, EventSourcedAgentManager)
    assert kafka_events.EventSourcedAgentManager is tallyroll.EventSourcedAgentManager
    assert kafka_events.KAFKA_AVAILABLE is True


@pytest.mark.parametrize("module", [kafka_events, analytics_pipeline, audit_trail, event_replay, event_bus])
def test_every_known_name_is_used_by_some_test(module: ModuleType) -> None:
    used = set[str]()
    for path in Path(__file__).parents[1].rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            used |= {node.id} if isinstance(node, ast.Name) else {node.attr} if isinstance(node, ast.Attribute) else set()
    assert set(module.__all__) <= used, "imported is not used"


def parameters(function: object) -> list[str]:
    return list(inspect.signature(function).parameters)  # type: ignore[arg-type]  # functions and classes


def test_positional_order_of_known_functions_is_kept() -> None:
    assert parameters(tallyroll.publish_agent_event) == ["event_type", "agent_id", "payload", "metadata"]
    assert parameters(tallyroll.publish_task_event) == ["event_type", "task_id", "payload", "metadata"]
    assert parameters(tallyroll.replay_agent_state) == ["agent_id", "target_time"]
    assert parameters(tallyroll.replay_task_state) == ["task_id", "target_time"]
    assert parameters(AgentEvent)[:8] == [
        "event_type", "aggregate_id", "aggregate_type", "payload", "metadata", "event_id", "timestamp", "schema_version",
    ]  # fmt: skip
    assert parameters(EventPublisher.publish_event) == ["self", "event", "topic", "partition_key"]
    assert (
        parameters(tallyroll.EventSourcedAgentManager)[:4]
        == parameters(EventSourcedAgentManager)[:4]
        == ["event_publisher", "manager", "replay", "outbox"]
    )
    assert parameters(tallyroll.EventMetadata)[:8] == [
        "correlation_id", "causation_id", "session_id", "user_id", "trace_id", "source", "version", "created_at",
    ]  # fmt: skip


def test_importing_opens_nothing_and_needs_no_extra() -> None:
    code = (
        "import sys, threading, tallyroll, tallyroll.compat.kafka_events\n"
        "assert not {'confluent_kafka', 'redis', 'nats', 'typer', 'rich', 'sqlite3'} & set(sys.modules), sys.modules.keys()\n"
        "assert threading.active_count() == 1\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_missing_extra_names_the_command_that_installs_it() -> None:
    code = (
        "import sys, asyncio, importlib.util\n"
        "real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, package=None: None if name == 'confluent_kafka' else real(name, package)\n"
        "from tallyroll import MissingExtra, Roll\n"
        "async def main():\n"
        "    try:\n"
        "        async with Roll.open('kafka://127.0.0.1:1'): pass\n"
        "    except MissingExtra as error: print(error)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'tallyroll[kafka]'" in done.stdout, done.stderr

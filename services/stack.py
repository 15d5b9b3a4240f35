"""What `scripts/services` does: one Kafka, Redis and NATS that outlive the command, found again by a state file."""

from __future__ import annotations

import shlex
import shutil
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypedDict

from services import nats, redis
from services.archive import ensure_archive
from services.errors import ServiceError
from services.install import HOME, kafka_kit, locked, make_home, tool
from services.kafka import KafkaCluster
from services.process import ProcessId, boot_id, read_json, still_running, wait_until, write_json
from services.wire import WireError, fetch_metadata

if TYPE_CHECKING:
    from pathlib import Path

    from services.process import Process

_GRACE_S = 15.0  # an orderly end takes under 1 s for one broker; three at once may wait for each other

_SILENCE_S = 30.0  # a broker under a benchmark may be slow to answer; it must not be restarted under it


class ServiceState(TypedDict):
    """One server as the state file holds it; `born` is its start in clock ticks since boot, `started` in UTC."""

    name: str
    pid: int
    born: str
    port: int
    url: str
    log: str
    started: str


class StackState(TypedDict):
    """All servers of one `up`. `env` is what it prints."""

    boot_id: str
    brokers: int
    services: list[ServiceState]
    env: dict[str, str]


class ServiceStatus(TypedDict):
    """`state` is "running", "silent" (the process is there but does not answer) or "gone"."""

    name: str
    state: str
    pid: int
    url: str
    log: str
    started: str
    memory_mib: int


class Stack:
    """The servers under one folder. Calls in parallel, from any process, wait for each other.

    Not promised: that the servers outlive a reboot; that Redis or Kafka keep data after a crash of the machine.
    """

    def __init__(self, home: Path = HOME) -> None:
        self._home = home
        self._data = home / "data"
        self._state_file = home / "state.json"
        self._env_file = home / "env"

    def up(self, brokers: int | None = None) -> StackState:
        """All servers answer when this returns; those of an earlier `up` are left as they are.

        `brokers` None: as many as run, else 1. When one of an earlier `up` has died, all are started again on their
        data. Raises ServiceError when another number of brokers runs, or when one that runs does not answer.
        """
        make_home(self._home)
        with locked(self._home / "stack.lock"):
            state = self._load()
            if state is not None and all(_identity(service).alive() for service in state["services"]):
                if brokers not in {None, state["brokers"]}:
                    raise ServiceError(
                        f"{state['brokers']} broker(s) run already; for {brokers}: "
                        f"scripts/services down && scripts/services up --brokers {brokers}"
                    )
                _wait_for_answers(state)
                return state
            self._end_all(state)
            return self._start(brokers or (1 if state is None else state["brokers"]))

    def down(self, *, wipe: bool = False) -> list[str]:
        """None of our servers runs when this returns: the names of those it ended. `wipe`: their data is gone too."""
        make_home(self._home)
        with locked(self._home / "stack.lock"):
            ended = self._end_all(self._load())
            if wipe and self._data.exists():
                shutil.rmtree(self._data)
            return ended

    def status(self) -> list[ServiceStatus]:
        """Every server that should run, with what it does now; empty when there was no `up`. Changes nothing."""
        state = self._load()
        return [] if state is None else [_status(service) for service in state["services"]]

    def _load(self) -> StackState | None:
        """None when nothing was started, or before the last boot: its pids mean nothing now."""
        found: Any = read_json(self._state_file)
        if not found or found.get("boot_id") != boot_id():
            return None
        state: StackState = found
        return state

    def _start(self, brokers: int) -> StackState:
        for name in ("redis-server", "nats-server"):
            tool(name)
        kit = kafka_kit()
        ensure_archive(kit)
        kafka = KafkaCluster(self._data / f"kafka-{brokers}", brokers=brokers, die_with_parent=False, kit=kit)
        redis_server = redis.RedisServer(self._data / "redis", die_with_parent=False)
        nats_server = nats.NatsServer(self._data / "nats", die_with_parent=False)
        try:
            redis_server.start()
            nats_server.start()
            kafka.start()
            services = [
                _service(f"kafka-{node}", process, kafka.listen_port(node), f"127.0.0.1:{kafka.listen_port(node)}")
                for node, process in kafka.running().items()
            ]
            services += [_service(server.name, server.process, server.port, server.url) for server in (redis_server, nats_server)]
            env = {
                "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap,
                "REDIS_HOST": "127.0.0.1",
                "REDIS_PORT": str(redis_server.port),
                "NATS_SERVERS": nats_server.url,
            }
            state = StackState(boot_id=boot_id(), brokers=brokers, services=services, env=env)
            lines = [f"export {name}={shlex.quote(value)}\n" for name, value in env.items()]
            self._env_file.write_text("".join(lines), encoding="utf-8")
            write_json(self._state_file, state)
        except BaseException:  # Ctrl-C too: what outlives the command must be in the state file
            for server in (kafka, redis_server, nats_server):
                server.close()
            raise
        return state

    def _end_all(self, state: StackState | None) -> list[str]:
        """Ends what the state file names, and what a killed `up` started without getting to write it."""
        named = {} if state is None else {_identity(service): service["name"] for service in state["services"]}
        for folder in self._data.glob("*"):
            named |= {process: name for name, process in still_running(folder).items()}
        ended = {process: name for process, name in named.items() if process.alive()}
        for process in ended:
            process.terminate()
        for process in ended:
            process.end(grace_s=_GRACE_S)
        self._state_file.unlink(missing_ok=True)
        self._env_file.unlink(missing_ok=True)
        return sorted(ended.values())


def _service(name: str, process: Process, port: int, url: str) -> ServiceState:
    started = datetime.now(UTC).isoformat(timespec="seconds")
    return ServiceState(
        name=name,
        pid=process.id.pid,
        born=process.id.born,
        port=port,
        url=url,
        log=str(process.log),
        started=started,
    )


def _identity(service: ServiceState) -> ProcessId:
    return ProcessId(service["pid"], service["born"])


def _status(service: ServiceState) -> ServiceStatus:
    state = "gone"
    memory_mib = 0
    if _identity(service).alive():
        memory_mib = _identity(service).memory_mib()
        state = "running" if _answers(service["name"], service["port"]) else "silent"
    return ServiceStatus(
        name=service["name"],
        state=state,
        pid=service["pid"],
        url=service["url"],
        log=service["log"],
        started=service["started"],
        memory_mib=memory_mib,
    )


def _wait_for_answers(state: StackState) -> None:
    for service in state["services"]:
        if not wait_until(partial(_answers, service["name"], service["port"]), timeout_s=_SILENCE_S):
            raise ServiceError(
                f"{service['name']} (pid {service['pid']}) runs but has not answered for {_SILENCE_S} s; "
                f"look at {service['log']}, then: scripts/services down && scripts/services up"
            )


def _answers(name: str, port: int) -> bool:
    if name == "redis":
        return redis.answers(port)
    if name == "nats":
        return nats.answers(port)
    try:
        fetch_metadata(port, user=None)
    except (OSError, WireError):
        return False
    return True

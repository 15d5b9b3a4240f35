"""Servers of a run's own, and the faults that happen to them and to our processes."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import subprocess
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, NamedTuple, Self

import nats
from confluent_kafka import Producer
from nats.js.api import StreamConfig
from redis import Redis
from services import KafkaCluster, KafkaProxy, NatsServer, RedisServer, TcpProxy
from services.server import Server
from tests.environment import is_setting

from soak.checks import GARBAGE_KEY
from soak.plan import Step
from soak.programs import ROOT, TALLYROLL, Program, follower, publishers, tallyroll
from soak.publisher import PERSONS
from tallyroll.adapters.system import SystemClock

STREAM: Final = "agents"
GARBAGE: Final = (
    b"", b"no json", b"{", b'{"specversion":"1.0"}', b'{"specversion":"1.0","id":"x","source":"s","type":"task.completed","data":[]}',
    b"\xff\xfe", b"[" * 50_000, b'{"a":NaN}',
)  # fmt: skip
_GARBAGE_TOPICS: Final = ("task-events", "agent-events", "workflow-events", "performance-events", "system-events")
_NODE: Final = 1
_FORGOTTEN: Final = 3  # so many persons are erased now and then; of the others everything stays readable
_GARBAGE_S: Final = 20.0
_KEPT_S: Final = 30.0  # of the archive, when it is pruned
_COMMAND_S: Final = 300.0
_DUMP_S: Final = 30.0
_CLOCK: Final = SystemClock()


class Command(NamedTuple):
    """One call of the program, beside everything else."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    began_us: int
    may_die: bool


class Site:
    """Everything that runs, under one folder: servers, programs, and commands that are under way."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.data, self.logs, self.diary = (folder / name for name in ("data", "logs", "diary"))
        for place in (self.data, self.logs, self.diary):
            place.mkdir(parents=True)
        self.proxy = KafkaProxy()
        self.kafka = KafkaCluster(folder / "kafka", advertised_ports={_NODE: self.proxy.port})
        self.redis = RedisServer(folder / "redis")
        self.nats = NatsServer(folder / "nats")
        self.networks: dict[str, TcpProxy] = {}
        """What stands before Redis and NATS, for our processes; the judgement asks the servers themselves."""
        self.pruned_us = 0
        """Up to when what lies in the archive was to be removed, at the latest."""
        self.publishers = publishers(seed, self.diary, self.logs)
        self.followers = [follower("follower-a", self.logs), follower("follower-b", self.logs)]
        self.erased: dict[str, tuple[int, int]] = {}
        """By person when the last erasure that was done began, and when the last one that was tried ended."""
        self.unexpected: list[str] = []
        self._secret = secrets.token_hex(32)
        self._commands: list[Command] = []
        self._broken: set[str] = set()
        self._cut_short: set[str] = set()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Servers, topics and the stream are there; no program runs."""
        with ExitStack() as stack:
            stack.callback(self._end)
            self.kafka.start()
            self.proxy.connect(self.kafka.listen_port(_NODE))
            self.redis.start()
            self.nats.start()
            self.networks = {"redis": TcpProxy(self.redis.port), "nats": TcpProxy(self.nats.port)}
            self._settle()
            done = tallyroll("topics", "apply", "--yes")
            assert done.code == 0, done.err
            asyncio.run(self._make_stream())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing of it runs."""
        self._stack.close()

    def _end(self) -> None:
        for program in (*self.publishers, *self.followers):
            program.kill()
        for command in self._commands:
            command.process.kill()
            command.process.wait()
        for server in (self.kafka, self.redis, self.nats):
            server.close()
        self.proxy.close()
        for network in self.networks.values():
            network.close()

    def _settle(self) -> None:
        """The settings of every process that is started from here."""
        secret = self.folder / "secret"
        secret.touch(mode=0o600)
        secret.write_text(self._secret)
        for name in [*filter(is_setting, os.environ)]:
            del os.environ[name]
        os.environ |= {
            "TALLYROLL_URL": f"kafka://127.0.0.1:{self.proxy.port}",
            "TALLYROLL_DATA_DIR": str(self.data),
            "TALLYROLL_SESSION_TIMEOUT_MS": "6000",
            "TALLYROLL_ARCHIVE_SEAL_RECORDS": "1500",
            "AUDIT_SECRET_KEY_FILE": str(secret),
            "PYTHONFAULTHANDLER": "1",
            "REDIS_HOST": "127.0.0.1",
            "REDIS_PORT": str(self.networks["redis"].port),
            "NATS_SERVERS": f"nats://127.0.0.1:{self.networks['nats'].port}",
            "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH")))),
        }

    async def _make_stream(self) -> None:
        client = await nats.connect(self.nats.url)
        await client.jetstream().add_stream(StreamConfig(name=STREAM, subjects=["agents.*.status"], duplicate_window=7_200))
        await client.close()

    @property
    def secret(self) -> str:
        """What every key of the ledger comes from."""
        return self._secret

    def start(self) -> None:
        """Every program begins."""
        for program in (*self.followers, *self.publishers):
            program.start()

    def look(self) -> None:
        """Notes what has ended by itself, and starts it again; reaps commands that are done."""
        for program in (*self.followers, *self.publishers):
            program.look()
        for command in [command for command in self._commands if command.process.poll() is not None]:
            self._commands.remove(command)
            code = command.process.returncode
            if command.name.startswith("erase "):
                person = command.name.removeprefix("erase ")
                before, _ = self.erased.get(person, (0, 0))
                self.erased[person] = before if code else max(before, command.began_us), _CLOCK.now_us()
                if code:
                    self._cut_short.add(person)
            if code not in (
                (0, 3, -signal.SIGKILL) if command.may_die else (0, 3)
            ):  # 3: the log, its broker or a store is away, which we have seen to
                self.unexpected.append(f"'{command.name}' ended with {code}: see {command.log.name}")

    def begin(self, step: Step) -> Callable[[], None] | None:
        """The fault happens; what mends it, for later, or None when it could not happen now or needs no mending."""
        how, _, what = step.fault.partition(" ")
        if what in ("publisher", "follower"):
            return self._program_fault(how, self.publishers if what == "publisher" else self.followers[:2], step)
        servers: dict[str, Server] = {"redis": self.redis, "nats": self.nats}
        if what in ("broker", *servers) and how in ("kill", "stop", "freeze"):
            return self._once(what, lambda: self._server_fault(how, servers.get(what)))
        if what in self.networks and how in ("cut", "hold", "deafen"):
            return self._network_fault(how, self.networks[what], f"network of {what}")
        others: dict[str, Callable[[], Callable[[], None] | None]] = {
            "flush redis": self._flush_redis,
            "cut connections": self._cut,
            "lose answers": lambda: self._lose_answers(1 + step.which % 5),
            "slow answers": lambda: self._slow_answers(step.which),
            "erase person": lambda: self._erase(PERSONS[step.which % _FORGOTTEN]),
            "kill erasure": lambda: self._kill_erasure(PERSONS[step.which % _FORGOTTEN]),
            "seal archive": lambda: self._run("seal archive", "archive", "seal"),
            "prune archive": self._prune,
            "rotate keys": lambda: self._run("rotate keys", "audit", "keys", "rotate", "--yes"),
            "retain trail": lambda: self._run("retain trail", "audit", "retain", "--prune"),
            "restore elsewhere": self._restore,
            "write garbage": lambda: self._write_garbage(step.which),
        }
        return others[step.fault]()

    def _once(self, what: str, fault: Callable[[], Callable[[], None]]) -> Callable[[], None] | None:
        """Not while the same is broken already."""
        if what in self._broken:
            return None
        self._broken.add(what)
        mend = fault()

        def mended() -> None:
            mend()
            self._broken.discard(what)

        return mended

    def _program_fault(self, how: str, programs: list[Program], step: Step) -> Callable[[], None] | None:
        if how == "add":
            program = follower(f"follower-{len(self.followers)}", self.logs)
            self.followers.append(program)
            program.start()
            return lambda: self._leave(program)
        running = [program for program in programs if program.alive and not program.frozen]
        if not running:
            return None
        program = running[step.which % len(running)]
        if how == "freeze":
            program.freeze()
            return program.thaw
        (program.kill if how == "kill" else program.drain)()
        return program.start

    def _leave(self, program: Program) -> None:
        program.drain()
        self.followers.remove(program)
        self.unexpected += program.unexpected

    def _server_fault(self, how: str, server: Server | None) -> Callable[[], None]:
        if server is None:
            {"kill": self.kafka.kill, "stop": self.kafka.stop, "freeze": self.kafka.freeze}[how](_NODE)
            return (lambda: self.kafka.thaw(_NODE)) if how == "freeze" else (lambda: self.kafka.restart(_NODE))
        {"kill": server.kill, "stop": server.stop, "freeze": server.freeze}[how]()
        return server.thaw if how == "freeze" else server.restart

    def _network_fault(self, how: str, proxy: TcpProxy, what: str) -> Callable[[], None] | None:
        if how == "cut":
            proxy.cut()
            return None
        fault = proxy.hold if how == "hold" else proxy.lose_answers

        def begun() -> Callable[[], None]:
            fault()
            return proxy.release

        return self._once(what, begun)

    def _prune(self) -> None:
        moment = datetime.now(UTC) - timedelta(seconds=_KEPT_S)
        self.pruned_us = max(self.pruned_us, round(moment.timestamp() * 1e6))
        self._run("prune archive", "archive", "prune", "--before", moment.isoformat(), "--yes")

    def _flush_redis(self) -> None:
        if "redis" not in self._broken:
            with Redis(port=self.redis.port) as client:
                client.flushall()

    def _cut(self) -> None:
        self.proxy.cut()

    def _lose_answers(self, count: int) -> None:
        self.proxy.drop_responses(count)

    def _slow_answers(self, seed: int) -> Callable[[], None]:
        self.proxy.delay_responses(50, jitter_ms=400, seed=seed)
        return lambda: self.proxy.delay_responses(0)

    def _erase(self, person: str) -> None:
        self._run(f"erase {person}", "audit", "erase", person, "--yes", "--json")

    def _kill_erasure(self, person: str) -> Callable[[], None]:
        return self._started(f"erase {person}", "audit", "erase", person, "--yes", "--json", may_die=True).kill

    def _run(self, name: str, *words: str, environ: Mapping[str, str] | None = None) -> None:
        self._started(name, *words, environ=environ)

    def _started(self, name: str, *words: str, may_die: bool = False, environ: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """A command, beside everything else."""
        log, began_us = self.logs / f"{name.replace(' ', '-')}.log", _CLOCK.now_us()
        with log.open("ab") as output:
            process = subprocess.Popen(
                [*TALLYROLL, *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=ROOT,
                env={**os.environ, **(environ or {})},
            )
        self._commands.append(Command(name, process, log, began_us, may_die))
        return process

    def _restore(self) -> None:
        """A state store made anew from archive and log, in a folder of its own, with everything else going on."""
        place = self.folder / f"restored-{len(list(self.folder.glob('restored-*')))}"
        place.mkdir()
        self._run("restore elsewhere", "replay", "restore", environ=self.elsewhere(place))

    def elsewhere(self, place: Path) -> dict[str, str]:
        """The settings of who has the archive of this site, and nothing else of it."""
        return {"TALLYROLL_DATA_DIR": str(place), "TALLYROLL_ARCHIVE_DIR": str(self.data / "archive")}

    def _write_garbage(self, which: int) -> None:
        if "broker" in self._broken:
            return
        producer = Producer({"bootstrap.servers": f"127.0.0.1:{self.proxy.port}"})
        topic = _GARBAGE_TOPICS[which % len(_GARBAGE_TOPICS)]
        producer.produce(topic, GARBAGE[which % len(GARBAGE)], key=GARBAGE_KEY, partition=which % 4)
        producer.flush(_GARBAGE_S)

    # The end

    def mend(self) -> None:
        """Every server runs, and nothing stands in the way; publishers have left, each by the way that drains."""
        self.proxy.drop_responses(0)
        self.proxy.delay_responses(0)
        for network in self.networks.values():
            network.release()
        for program in self.publishers:
            program.drain()

    def finish_commands(self) -> None:
        """Waits for commands that are under way; one that does not end is ended, and says what it was doing."""
        for command in self._commands:
            try:
                command.process.wait(_COMMAND_S)
            except subprocess.TimeoutExpired:
                command.process.send_signal(signal.SIGABRT)
                command.process.wait(_DUMP_S)
        self.look()

    def resume_erasures(self) -> None:
        """Ends what was cut short; until now what was recorded about these persons may have gone with their keys."""
        done = tallyroll("audit", "resume")
        if done.code:
            self.unexpected.append(f"'audit resume' ended with {done.code}: {done.err[-500:]}")
        self.erased |= {person: (self.erased[person][0], _CLOCK.now_us()) for person in self._cut_short}

    def stop_followers(self) -> None:
        """They have stored what they had applied, and are gone."""
        for program in self.followers:
            program.drain()

    def all_unexpected(self) -> list[str]:
        """What no fault explains."""
        return [*self.unexpected, *(line for program in (*self.publishers, *self.followers) for line in program.unexpected)]

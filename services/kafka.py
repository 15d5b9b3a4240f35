"""An Apache Kafka cluster of plain processes on this machine, made to be broken by tests."""

from __future__ import annotations

import base64
import os
import signal
import socket
from dataclasses import asdict
from typing import TYPE_CHECKING, Self

from services.errors import ServiceError, StartError
from services.install import SERVICES, KafkaKit, kafka_kit
from services.ports import free_ports, is_free
from services.process import (
    Process,
    last_lines,
    read_json,
    refuse_second_owner,
    save_running,
    wait_until,
    write_json,
)
from services.properties import (
    ADMIN,
    NodePorts,
    Tls,
    check_passwords,
    node_properties,
    properties_text,
)
from services.wire import Metadata, PartitionState, WireError, fetch_metadata

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

__all__ = ["KafkaCluster", "Tls"]

_JVM = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-Djava.awt.headless=true")
_READY_S = 90.0  # a start takes 2 to 6 s; a loaded machine gets the rest
_FORMAT_S = 60.0  # 0.5 to 1 s each
_PORT_TRIES = 3  # somebody took a port between choosing and listening; three times in a row is no accident


class KafkaCluster:
    """1 or 3 combined KRaft nodes (ids from 1), every listener on 127.0.0.1; data, logs and settings in `data_dir`.

    The same `data_dir` later brings back the same data and, while they are free, the same ports. One owner at a time.
    Usable as a context manager: started inside, ended after.
    Not promised: data after a crash of the machine (flush is left to the kernel, as in production); thread safety.
    """

    def __init__(  # noqa: PLR0913  # each names one thing a test may want to differ
        self,
        data_dir: Path,
        *,
        brokers: int = 1,
        authorizer: bool = False,
        passwords: Mapping[str, str] | None = None,
        broker_properties: Mapping[str, str] | None = None,
        properties_by_node: Mapping[int, Mapping[str, str]] | None = None,
        advertised_ports: Mapping[int, int] | None = None,
        tls: Tls | None = None,
        heap: str | None = None,
        jvm_options: Sequence[str] = (),
        die_with_parent: bool = True,
        kit: KafkaKit | None = None,
    ) -> None:
        """Nothing is started yet.

        passwords: by user name, with "admin"; given, every listener asks for SASL/PLAIN.
        authorizer: StandardAuthorizer, all denied but to "admin" until ACLs are made; needs `passwords`.
        broker_properties, properties_by_node: further server.properties, the second for one node; they win.
        advertised_ports: by node id; the CLIENT port that clients are told, so that a proxy stands in the way.
        heap: as `-Xmx` takes it; default 512m alone, 384m each of three. jvm_options come last and win.
        die_with_parent: brokers are killed when this process is gone, however it ends.
        """
        if brokers not in {1, 3}:
            raise ValueError(f"brokers={brokers}: 1 or 3")
        if authorizer and passwords is None:
            raise ValueError("authorizer=True needs passwords: without them every client is ANONYMOUS")
        if passwords is not None:
            check_passwords(passwords)
        if "," in str(data_dir):
            raise ValueError(f"data_dir {data_dir}: Kafka reads a comma in log.dirs as the start of another folder")
        self.data_dir = data_dir.absolute()
        self.nodes = tuple(range(1, brokers + 1))
        self._authorizer = authorizer
        self._passwords = passwords
        self._properties = dict(broker_properties or {})
        self._properties_by_node = dict(properties_by_node or {})
        self._advertised = dict(advertised_ports or {})
        self._tls = tls
        self._heap = heap or ("512m" if brokers == 1 else "384m")
        self._jvm_options = tuple(jvm_options)
        self._die_with_parent = die_with_parent
        self._kit = kit
        self._ports: dict[int, NodePorts] = {}
        self._processes: dict[int, Process] = {}
        self._frozen: set[int] = set()

    def __enter__(self) -> Self:
        """Started and ready."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """All ended."""
        self.close()

    def start(self, *, timeout_s: float = _READY_S) -> None:
        """Every broker answers and knows all others when this returns; a fresh folder is formatted first.

        Raises StartError at once when a broker ends, with its last log lines; then nothing is left running.
        """
        if self._processes:
            raise ServiceError("this cluster is started already; restart() brings back single nodes")
        self.data_dir.mkdir(parents=True, exist_ok=True)
        refuse_second_owner(self.data_dir)
        for attempt in range(1, _PORT_TRIES + 1):
            cluster_id = self._choose_ports()
            try:
                self._format(cluster_id)
                self._launch(self.nodes)
                self._wait_ready(self.nodes, timeout_s)
            except StartError:
                self.close()
                if attempt == _PORT_TRIES or all(map(is_free, self._all_ports())):
                    raise
            except BaseException:
                self.close()
                raise
            else:
                return

    def restart(self, *nodes: int, timeout_s: float = _READY_S) -> None:
        """The nodes given (all, if none) run again on the same ports and data, and know every node that runs.

        One that still runs is stopped first. After losing the majority name the nodes together: one alone of three
        cannot get ready. Raises StartError; then the nodes given may or may not run.
        """
        chosen = nodes or self.nodes
        for node in chosen:
            if self._process(node).alive():
                self.stop(node)
        self._launch(chosen)
        self._wait_ready(chosen, timeout_s)

    def kill(self, node: int) -> None:
        """Gone without a word (SIGKILL) when this returns."""
        self._process(node).kill()
        self._frozen.discard(node)

    def stop(self, node: int, *, grace_s: float = 30.0) -> None:
        """Ended in order (SIGTERM; leaders move first) when this returns, by SIGKILL when that took over `grace_s`.

        A frozen node is thawed for it.
        """
        self.thaw(node)
        self._process(node).stop(grace_s=grace_s)

    def freeze(self, node: int) -> None:
        """The broker stands still (SIGSTOP): its connections stay open and nothing answers, until `thaw`."""
        self._process(node).freeze()
        self._frozen.add(node)

    def thaw(self, node: int) -> None:
        """The broker goes on (SIGCONT). Not promised: that it is back in the cluster yet, see `wait_in_sync`."""
        self._process(node).thaw()
        self._frozen.discard(node)

    def close(self) -> None:
        """All brokers are gone (SIGKILL) when this returns; the data stays. Safe to call twice."""
        for process in self._processes.values():
            process.send(signal.SIGKILL)
        for process in self._processes.values():
            process.kill()
        self._processes.clear()
        self._frozen.clear()

    @property
    def bootstrap(self) -> str:
        """For clients: "127.0.0.1:port,…", through the proxies when `advertised_ports` names any."""
        return self._addresses({node: self._advertised_port(node) for node in self.nodes})

    @property
    def tls_bootstrap(self) -> str:
        """The TLS listeners; only with `tls`."""
        return self._addresses({node: ports.tls for node, ports in self._ports.items()})

    def listen_port(self, node: int) -> int:
        """The real CLIENT port of a node: what a proxy before it connects to."""
        return self._ports[node].client

    def pid(self, node: int) -> int:
        """Process id of a node's last start; it may have ended since."""
        return self._process(node).pid

    def running(self) -> dict[int, Process]:
        """The processes that run now, by node id; frozen ones too."""
        return {node: process for node, process in self._processes.items() if process.alive()}

    def log(self, node: int) -> Path:
        """The file that holds what this broker says."""
        return self.data_dir / f"node-{node}.log"

    def partition(self, topic: str, index: int) -> PartitionState:
        """Leader, replicas and in-sync replicas, as the node that knows the newest leader sees it.

        Raises ServiceError when no running broker knows this partition.
        """
        found = [known.partitions.get((topic, index)) for known in self._metadata([topic])]
        states = [state for state in found if state is not None]
        if not states:
            raise ServiceError(f"no running broker knows partition {index} of topic {topic!r}")
        return max(states, key=lambda state: state.leader_epoch)

    def wait_in_sync(self, *, timeout_s: float = 60.0) -> None:
        """Every replica of every partition is in sync and has a leader, as all running nodes see it.

        For the step between two faults, as in a rolling restart. Raises ServiceError naming what is behind.
        """
        behind: list[str] = []

        def all_in_sync() -> bool:
            behind[:] = [
                f"{topic}/{index} {state}"
                for known in self._metadata(None)  # all nodes: one just thawed still believes what was before
                for (topic, index), state in known.partitions.items()
                if state.leader < 0 or set(state.in_sync) != set(state.replicas)
            ]
            return not behind

        if not wait_until(all_in_sync, timeout_s=timeout_s):
            raise ServiceError(f"not in sync after {timeout_s} s: {'; '.join(behind[:10])}")

    def _process(self, node: int) -> Process:
        try:
            return self._processes[node]
        except KeyError:
            raise ServiceError(f"node {node} was never started; this cluster has {self.nodes}") from None

    def _addresses(self, ports: Mapping[int, int]) -> str:
        if not self._ports:
            raise ServiceError("no ports before start()")
        return ",".join(f"127.0.0.1:{port}" for port in ports.values())

    def _advertised_port(self, node: int) -> int:
        return self._advertised.get(node) or (self._ports[node].client if self._ports else 0)

    def _all_ports(self) -> list[int]:
        return [port for ports in self._ports.values() for port in asdict(ports).values()]

    def _choose_ports(self) -> str:
        """Ports of the last time while they are all free, else new ones; the cluster id that goes with the data."""
        file = self.data_dir / "cluster.json"
        noted = read_json(file)
        cluster_id = noted.get("cluster_id") or _new_cluster_id()
        self._ports = {int(node): NodePorts(**ports) for node, ports in noted.get("ports", {}).items()}
        if set(self._ports) != set(self.nodes) or not all(map(is_free, self._all_ports())):
            fresh = iter(free_ports(4 * len(self.nodes)))
            self._ports = {node: NodePorts(*(next(fresh) for _ in range(4))) for node in self.nodes}
        ports = {str(node): asdict(chosen) for node, chosen in self._ports.items()}
        write_json(file, {"cluster_id": cluster_id, "ports": ports})
        return str(cluster_id)

    def _write_properties(self, node: int) -> tuple[Path, Path]:
        """The node's properties file, and its log folder."""
        properties = node_properties(
            node,
            self._ports,
            log_dir=self.data_dir / f"node-{node}",
            advertised_port=self._advertised_port(node),
            passwords=self._passwords,
            authorizer=self._authorizer,
            tls=self._tls,
        )
        properties |= {**self._properties, **self._properties_by_node.get(node, {})}
        file = self.data_dir / f"node-{node}.properties"
        file.touch(mode=0o600)  # it holds the passwords
        file.write_text(properties_text(properties), encoding="ascii")
        return file, self.data_dir / properties["log.dirs"]

    def _format(self, cluster_id: str) -> None:
        running = {}
        for node in self.nodes:
            file, log_dir = self._write_properties(node)
            if not (log_dir / "meta.properties").exists():
                arguments = ["format", "--ignore-formatted", "-t", cluster_id, "-c", str(file)]
                running[node] = self._java([], ["kafka.tools.StorageTool", *arguments], self.log(node))
        for node, process in running.items():
            if not process.wait(_FORMAT_S):
                process.kill()
            if process.exit_code != 0:
                raise self._failed(node, f"could not format its storage (exit code {process.exit_code})")

    def _launch(self, nodes: Collection[int]) -> None:
        options = [f"-Xmx{self._heap}", *self._jvm_options]
        for node in nodes:
            file, _ = self._write_properties(node)
            self._processes[node] = self._java(options, ["kafka.Kafka", str(file)], self.log(node))
            save_running(self.data_dir, {f"kafka-{n}": process.id for n, process in self.running().items()})

    def _java(self, options: Sequence[str], arguments: Sequence[str], log: Path) -> Process:
        self._kit = kit = self._kit or kafka_kit()
        temporary = self.data_dir / "tmp"  # native libraries unpack there; a killed JVM would litter the system's
        temporary.mkdir(exist_ok=True)
        archive = [f"-XX:SharedArchiveFile={kit.archive}"] if kit.archive.exists() else []
        logging = f"-Dlog4j2.configurationFile={(SERVICES / 'log4j2.properties').as_uri()}"
        class_path = ":".join(map(str, kit.jars))
        flags = [*_JVM, *archive, *options, logging, f"-Djava.io.tmpdir={temporary}", "-cp", class_path]
        return Process([str(kit.java), *flags, *arguments], log=log, cwd=self.data_dir, die_with_parent=self._die_with_parent)

    def _wait_ready(self, nodes: Collection[int], timeout_s: float) -> None:
        waiting = set(nodes)
        reasons = dict.fromkeys(nodes, "not asked yet")

        def all_ready() -> bool:
            for node in nodes:
                if not self._process(node).alive():
                    raise self._failed(node, f"ended during start (exit code {self._process(node).exit_code})")
            for node in sorted(waiting):
                reasons[node] = self._why_not_ready(node)
                if not reasons[node]:
                    waiting.discard(node)
            return not waiting

        if not wait_until(all_ready, timeout_s=timeout_s):
            node = min(waiting)
            raise self._failed(node, f"was not ready after {timeout_s} s ({reasons[node]})")

    def _why_not_ready(self, node: int) -> str:
        """Empty when the node answers, and knows all that run."""
        expected = set(self.running()) - self._frozen
        ports = self._ports[node]
        try:
            known = set(fetch_metadata(ports.client, user=self._admin()).brokers)
            if self._tls is not None:
                socket.create_connection(("127.0.0.1", ports.tls), timeout=2.0).close()
        except (OSError, WireError) as error:
            return f"{type(error).__name__}: {error}"
        return "" if known >= expected else f"it knows nodes {sorted(known)} of {sorted(expected)}"

    def _metadata(self, topics: Sequence[str] | None) -> list[Metadata]:
        """What each running node knows that is not frozen, and answers. Raises ServiceError when none does."""
        answers = []
        reason = "none runs"
        for node in sorted(set(self.running()) - self._frozen):
            try:
                answers.append(fetch_metadata(self._ports[node].client, user=self._admin(), topics=topics))
            except (OSError, WireError) as error:
                reason = f"node {node}: {error}"
        if not answers:
            raise ServiceError(f"no broker gave metadata; {reason}")
        return answers

    def _admin(self) -> tuple[str, str] | None:
        return None if self._passwords is None else (ADMIN, self._passwords[ADMIN])

    def _failed(self, node: int, reason: str) -> StartError:
        log = self.log(node)
        return StartError(server=f"Kafka node {node}", reason=reason, log=log, last_lines=last_lines(log))


def _new_cluster_id() -> str:
    """As Kafka's random-uuid; never with a leading '-', which its command line would take for an option."""
    raw = bytearray(os.urandom(16))
    raw[0] &= 0x7F
    return base64.urlsafe_b64encode(bytes(raw)).decode().rstrip("=")

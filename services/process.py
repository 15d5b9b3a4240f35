"""One child process: started, watched, signalled and ended by its own pid, never by name."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

POLL_S = 0.02
"""Pause between two looks at a process or a port: short beside a start of seconds, cheap beside one core."""

_RUNNING = "running.json"
_KILL_S = 10.0  # the kernel ends a process within milliseconds, unless it is stuck on a device
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)
_spawner_lock = threading.Lock()
_spawner: tuple[int, ThreadPoolExecutor] | None = None


@dataclass(frozen=True)
class ProcessId:
    """A pid that cannot be mistaken for a later process with the same number: `born` is its start in /proc."""

    pid: int
    born: str

    def alive(self) -> bool:
        """Whether this very process runs. A frozen one does; one that only waits to be reaped does not."""
        return _born(self.pid) == self.born

    def memory_mib(self) -> int:
        """Memory it holds now (resident set); 0 when it has ended."""
        try:
            status = Path(f"/proc/{self.pid}/status").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return 0
        kib = next((line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")), "0")
        return int(kib) // 1024

    def terminate(self) -> None:
        """Asked to end in order (SIGTERM). Another process with this pid is left alone. Raises PermissionError."""
        if self.alive():
            os.kill(self.pid, signal.SIGTERM)

    def end(self, *, grace_s: float) -> None:
        """Ended when this returns: SIGTERM, after `grace_s` SIGKILL. Raises ServiceError when even that did nothing."""
        self.terminate()
        if wait_until(lambda: not self.alive(), timeout_s=grace_s):
            return
        os.kill(self.pid, signal.SIGKILL)
        if not wait_until(lambda: not self.alive(), timeout_s=_KILL_S):
            raise ServiceError(f"pid {self.pid} still runs {_KILL_S} s after SIGKILL; look at it with ps")


class Process:
    """A process that we started. Its output goes to `log`, appended.

    Not promised: that its children end with it (none of our servers has any).
    """

    def __init__(self, command: Sequence[str], *, log: Path, cwd: Path, die_with_parent: bool) -> None:
        """Start `command` in a session of its own, so that Ctrl-C at a terminal does not reach it.

        `die_with_parent`: the kernel kills it as soon as this Python process is gone, however that happened.
        Raises OSError when the program cannot be executed.
        """
        self.log = log
        with log.open("ab") as output:
            self._popen = _spawn(command, output.fileno(), cwd, die_with_parent=die_with_parent)
        self.id = ProcessId(self._popen.pid, _born(self._popen.pid) or "")

    @property
    def pid(self) -> int:
        """The process id; it may have ended."""
        return self._popen.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative for the number of the signal that ended it."""
        return self._popen.poll()

    def alive(self) -> bool:
        """Whether it runs; a frozen process does."""
        return self.exit_code is None

    def send(self, number: signal.Signals) -> None:
        """Send a signal; a process that has ended is left alone."""
        self._popen.send_signal(number)

    def freeze(self) -> None:
        """It stands still, every thread of it, when this returns (SIGSTOP); the signal alone leaves a loaded machine time for an answer."""
        self.send(signal.SIGSTOP)
        if not wait_until(lambda: not self.alive() or set(_states(self.pid)) <= {"T", "t"}, timeout_s=_KILL_S):
            raise ServiceError(f"pid {self.pid} still runs {_KILL_S} s after SIGSTOP; look at it with ps")

    def thaw(self) -> None:
        """It goes on (SIGCONT)."""
        self.send(signal.SIGCONT)

    def wait(self, timeout_s: float) -> bool:
        """Whether it has ended within `timeout_s`."""
        try:
            self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        """Ended by SIGKILL, and reaped, when this returns; works on a frozen process too."""
        self._popen.kill()
        self._popen.wait()

    def stop(self, *, grace_s: float) -> None:
        """Ended when this returns: SIGTERM, and SIGKILL when it still runs after `grace_s`."""
        self._popen.terminate()
        if not self.wait(grace_s):
            self.kill()


def boot_id() -> str:
    """Changes with every boot of this machine, so a state file of a dead machine is told from a live one."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"


def write_json(path: Path, value: object) -> None:
    """The file holds `value` whole, or what it held before; readable by this user only."""
    part = path.with_name(path.name + ".part")
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:  # noqa: PTH123  # with a mode from the start
        json.dump(value, file, indent=2)
        file.write("\n")
    part.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """The object in the file; an empty one when there is no file, or no JSON object in it."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def save_running(data_dir: Path, processes: Mapping[str, ProcessId]) -> None:
    """Note beside the data which processes use it, for whoever comes when we were killed."""
    named = {name: [process.pid, process.born] for name, process in processes.items()}
    write_json(data_dir / _RUNNING, {"boot_id": boot_id(), "processes": named})


def still_running(data_dir: Path) -> dict[str, ProcessId]:
    """The processes noted by `save_running` that still run; none after a reboot, whatever the numbers say."""
    noted = read_json(data_dir / _RUNNING)
    if noted.get("boot_id") != boot_id():
        return {}
    ids = {name: ProcessId(pid, born) for name, (pid, born) in noted["processes"].items()}
    return {name: process for name, process in ids.items() if process.alive()}


def refuse_second_owner(data_dir: Path) -> None:
    """Raises ServiceError when a server already works on this folder: two would ruin it, and only one says so."""
    running = still_running(data_dir)
    if running:
        named = ", ".join(f"{name} (pid {process.pid})" for name, process in running.items())
        raise ServiceError(f"{data_dir} is in use by {named}; end it, or take another folder")


def wait_until(ready: Callable[[], bool], *, timeout_s: float) -> bool:
    """Whether `ready()` became true within `timeout_s`; asked at least once."""
    deadline = time.monotonic() + timeout_s
    while not ready():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def last_lines(log: Path, count: int = 25) -> str:
    """The last `count` lines of a log, and the last few errors before them, indented; empty when there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 64 * 1024))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    lines = text.splitlines()
    # A broker that gives up still says much about its shutdown; the reason stands before that.
    errors = [line for line in lines[:-count] if " ERROR " in line or line.startswith("Caused by:")]
    return "\n".join(f"    {line}" for line in errors[-6:] + lines[-count:])


def _states(pid: int) -> list[str]:
    """The states of its threads, a letter each, as /proc says them."""
    try:
        stats = [path.read_text(encoding="utf-8", errors="replace") for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    except OSError:  # a thread ended while we looked
        return ["?"]
    return [stat.rpartition(")")[2].split()[0] for stat in stats]


def _born(pid: int) -> str | None:
    """Start time of a running process in clock ticks since boot, as /proc says it; None when it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The second field is the name in brackets and may itself hold spaces and brackets.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


def _spawn(command: Sequence[str], output: int, cwd: Path, *, die_with_parent: bool) -> subprocess.Popen[bytes]:
    parent = os.getpid()

    def tie_to_parent() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before prctl took hold
            os._exit(1)

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # a list, no shell; the program's path comes from install.py
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            start_new_session=True,
            preexec_fn=tie_to_parent if die_with_parent else None,  # noqa: PLW1509  # one prctl, no Python locks
        )

    return _spawn_thread().submit(start).result()


def _spawn_thread() -> ThreadPoolExecutor:
    """The one thread that starts children and lives as long as this process.

    The kernel's "parent" of PR_SET_PDEATHSIG is the thread, not the process: a server started from a short-lived
    worker thread of a test would be killed when that thread ends.
    """
    global _spawner  # noqa: PLW0603  # one per process; a forked child needs its own
    with _spawner_lock:
        if _spawner is None or _spawner[0] != os.getpid():
            _spawner = (os.getpid(), ThreadPoolExecutor(1, thread_name_prefix="services-spawn"))
        return _spawner[1]

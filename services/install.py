"""Finds the programs that the servers need and fetches the Kafka jars; installs what is missing when it may."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from services.errors import MissingToolError, ServiceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SERVICES = Path(__file__).resolve().parent
HOME = SERVICES.parent / ".services"
"""Everything that is downloaded or written lies here; the folder tells git to ignore it."""

PACKAGES = {
    "java": "default-jre-headless",
    "mvn": "maven",
    "redis-server": "redis-server",
    "nats-server": "nats-server",
    "promtool": "prometheus",
    "softhsm2-util": "softhsm2",
}
"""The Debian package of each program."""

_OLDEST_JAVA = 17
_SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
_DOWNLOAD_TIMEOUT_S = 900  # 45 MB of jars, or one apt transaction, on a slow line
_POLICY = Path("/usr/sbin/policy-rc.d")
_DENY_START = b"#!/bin/sh\n# written by tallyroll services/install.py for the time of one apt-get call\nexit 101\n"


@dataclass(frozen=True)
class KafkaKit:
    """What one broker JVM needs: the program, the jars in a fixed order, and a class archive that may not exist yet.

    `archive` shortens a start (see archive.py); its name holds the identity of `java`, which it must match.
    """

    java: Path
    jars: tuple[Path, ...]
    archive: Path


def tool(name: str) -> Path:
    """Path of a program, installed by apt first when it is missing and we are root.

    Raises MissingToolError with the exact command when that is not possible.
    """
    found = _find(name)
    if found is None:
        with locked(HOME / "install.lock"):
            found = _find(name)  # another process may have installed it while we waited
            if found is None:
                _apt_install(name)
                found = _find(name)
    if found is None:
        raise MissingToolError(tool=name, package=PACKAGES[name], reason="still not found after installing")
    return found


def kafka_kit() -> KafkaKit:
    """Java and the jars of the pinned Kafka version, downloaded once per content of pom.xml.

    The folder appears whole or not at all. Safe when called by several processes at a time: the others wait.
    Raises MissingToolError (java, mvn) or ServiceError (download failed twice).
    """
    java = tool("java")
    folder = HOME / f"kafka-{_digest((SERVICES / 'pom.xml').read_bytes())}"
    if not folder.is_dir():
        maven = tool("mvn")
        with locked(HOME / "install.lock"):
            if not folder.is_dir():
                _download_jars(maven, folder)
    stat = java.stat()
    identity = _digest(f"{java} {stat.st_mtime_ns} {stat.st_size}".encode())
    return KafkaKit(java, tuple(sorted((folder / "lib").glob("*.jar"))), folder / f"classes-{identity}.jsa")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Only one process at a time is inside; the kernel frees the lock when its holder dies."""
    make_home(path.parent)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def make_home(home: Path) -> None:
    """The folder exists and git ignores it."""
    home.mkdir(parents=True, exist_ok=True)
    ignore = home / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n", encoding="ascii")


def _find(name: str) -> Path | None:
    found = shutil.which(name, path=_SEARCH_PATH)
    if name != "java":
        return Path(found) if found else None
    in_home = shutil.which("java", path=str(Path(os.environ.get("JAVA_HOME", "/nowhere")) / "bin"))
    candidates = [Path(path).resolve() for path in (in_home, found) if path]
    return next((path for path in candidates if _java_version(path) >= _OLDEST_JAVA), None)


def _java_version(java: Path) -> int:
    done = _run([str(java), "-version"], timeout_s=60)
    match = re.search(r'version "(?:1\.)?(\d+)', done.stdout)
    return int(match.group(1)) if match else 0


def _apt_install(name: str) -> None:
    package = PACKAGES[name]
    wanted = f"not found (needs version {_OLDEST_JAVA} or newer)" if name == "java" else "not found"
    if shutil.which("apt-get") is None:
        raise MissingToolError(tool=name, package=package, reason=f"{wanted}, and this machine has no apt-get")
    if os.geteuid() != 0:
        raise MissingToolError(tool=name, package=package, reason=f"{wanted}, and only root may install it")
    say(f"installing Debian package {package} ...")
    install = ["apt-get", "install", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300", package]
    output = ""
    with _no_service_starts():
        for _ in range(2):  # a second time, for a mirror that was away for a moment
            output = _apt_update()
            done = _run(install, timeout_s=_DOWNLOAD_TIMEOUT_S)
            if done.returncode == 0:
                return
            output = f"{output[-1_000:]}\n{done.stdout[-2_000:]}"
            _apt_update.cache_clear()
    raise MissingToolError(tool=name, package=package, reason=f"{wanted}, and apt-get failed twice:\n{output}\n")


@functools.cache
def _apt_update() -> str:
    """What apt-get says; asked once per process. A failure shows when the install after it fails."""
    return _run(["apt-get", "update", "-q"], timeout_s=_DOWNLOAD_TIMEOUT_S).stdout


@contextlib.contextmanager
def _no_service_starts() -> Iterator[None]:
    """Debian starts a server when its package is installed, on its default port: deny that for the time of the call."""
    before = (_POLICY.read_bytes(), _POLICY.stat().st_mode) if _POLICY.exists() else None
    _POLICY.write_bytes(_DENY_START)
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        if before is None:
            _POLICY.unlink()
        else:
            _POLICY.write_bytes(before[0])
            _POLICY.chmod(before[1])


def _download_jars(maven: Path, folder: Path) -> None:
    for left_over in HOME.glob("kafka-*.part"):  # of a process that died; we hold the lock
        shutil.rmtree(left_over)
    say("fetching the Kafka jars from Maven Central ...")
    part = folder.with_name(folder.name + ".part")
    command = [str(maven), "-B", "-q", "-f", str(SERVICES / "pom.xml"), "dependency:copy-dependencies"]
    command.append(f"-DoutputDirectory={part / 'lib'}")
    output = ""
    for extra in ((), ("-U",)):  # -U: Maven remembers a failed download and would not ask again
        part.mkdir()
        done = _run([*command, *extra], timeout_s=_DOWNLOAD_TIMEOUT_S)
        if done.returncode == 0:
            part.rename(folder)
            return
        output = done.stdout[-3_000:]
        shutil.rmtree(part)
    raise ServiceError(f"Maven could not fetch the Kafka jars, tried twice: {' '.join(command)}\n{output}")


def _run(command: Sequence[str], *, timeout_s: float) -> subprocess.CompletedProcess[str]:
    """The finished command; one that could not be run or took too long shows as failed, with the reason as output."""
    try:
        return subprocess.run(  # a list, no shell; fixed programs
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(list(command), returncode=127, stdout=str(error))


def _digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()[:12]


def say(text: str) -> None:
    """A line of progress on standard error; standard output belongs to results."""
    print(text, file=sys.stderr, flush=True)  # this is a command's own output

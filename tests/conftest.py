"""What every test run has: an option that leaves out the tests that need servers, and says so; and folders that cost little."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from tests.environment import clear_settings

_IN_MEMORY = Path("/dev/shm")  # noqa: S108  # folders of a name of their own are made there
_ENOUGH_BYTES = 4 << 30  # many times what the tests of a run keep
_LEFT_OUT = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--embedded",
        action="store_true",
        help="leave out the tests that need Kafka, Redis or NATS; without it a missing server is a failure",
    )


def pytest_configure(config: pytest.Config) -> None:
    """What holds for the programs, too, that tests start."""
    # A shell starts what it puts into the background with Ctrl-C ignored, and programs would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    clear_settings()
    _keep_files_in_memory()
    _keep_bytecode(config)
    # How long an example takes says how busy the machine is.
    settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("patient")


def _keep_files_in_memory() -> None:
    """Processes die in our tests, machines do not: waiting for a disk would show nothing. TMPDIR decides when it is set."""
    if "TMPDIR" in os.environ or not _IN_MEMORY.is_dir():
        return
    there = os.statvfs(_IN_MEMORY)
    if there.f_bavail * there.f_frsize > _ENOUGH_BYTES and not there.f_flag & os.ST_NOEXEC:  # brokers unpack native libraries
        os.environ["TMPDIR"] = tempfile.tempdir = str(_IN_MEMORY)


def _keep_bytecode(config: pytest.Config) -> None:
    """Programs compile our modules once a run, not each for itself, also where Python is told to write nothing into the tree."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if "PYTHONPYCACHEPREFIX" not in os.environ:
        folder = os.environ["PYTHONPYCACHEPREFIX"] = tempfile.mkdtemp(prefix="tallyroll-bytecode-")
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--embedded"):
        return
    left_out = [item for item in items if item.get_closest_marker("server") is not None]
    items[:] = [item for item in items if item.get_closest_marker("server") is None]
    config.hook.pytest_deselected(items=left_out)
    config.stash[_LEFT_OUT] = len(left_out)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    left_out = config.stash.get(_LEFT_OUT, 0)
    if left_out:
        terminalreporter.write_line(f"--embedded: {left_out} tests that need Kafka, Redis or NATS were NOT run", yellow=True)

"""What every test run has: an option that leaves out the tests that need servers, and says so."""

from __future__ import annotations

import signal

import pytest

_LEFT_OUT = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--embedded",
        action="store_true",
        help="leave out the tests that need Kafka, Redis or NATS; without it a missing server is a failure",
    )


def pytest_configure() -> None:
    """A shell starts what it puts into the background with Ctrl-C ignored, and programs that tests start would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


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

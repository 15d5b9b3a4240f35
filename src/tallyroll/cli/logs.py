"""What services say while they run: lines for people, or one JSON object per line, on standard error."""

from __future__ import annotations

import logging
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from traceback import extract_tb
from typing import Any, Final

import msgspec

from tallyroll.cli.printing import note, plain
from tallyroll.settings import Settings

service_log: Final = logging.getLogger("tallyroll.service")
"""What a service says of itself."""

IDS: Final = ("follower", "topic", "partition", "offset", "event_id", "trace_id", "error", "next")
"""Members of a JSON line beside ``time``, ``level``, ``logger`` and ``message``; each where it is known."""

_REMEMBERED: Final = 1_000  # lines, so that a service says nothing twice and does not grow


class Words(logging.Handler):
    """Warnings of the library for people, and alerts: one dim line each, the same one once. Of an exception as ``JsonLines``."""

    def __init__(self) -> None:
        super().__init__()
        self._said: deque[str] = deque(maxlen=_REMEMBERED)

    def emit(self, record: logging.LogRecord) -> None:
        """The message, unless it was said before."""
        said = plain(record.getMessage())
        failed = _failed(record)
        line = f"{said} ({failed['error']} at {failed.get('at', '?')})" if failed else said
        if line not in self._said:
            self._said.append(line)
            note(line)


class JsonLines(logging.Handler):
    """One JSON object per record, on one line. Of an exception only its class and place: its text may quote a payload."""

    def emit(self, record: logging.LogRecord) -> None:
        """The record as a line."""
        sys.stderr.write(json_line(record) + "\n")


def json_line(record: logging.LogRecord) -> str:
    """A record as JSON, without a line end."""
    line: dict[str, Any] = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": plain(record.getMessage()),
    }
    line |= {name: value for name in IDS if (value := getattr(record, name, None)) is not None}
    return msgspec.json.encode(line | _failed(record)).decode()


def _failed(record: logging.LogRecord) -> dict[str, str]:
    """Class and place of a record's exception, if it has one."""
    if record.exc_info is None or record.exc_info[0] is None:
        return {}
    frames = extract_tb(record.exc_info[2])
    place = {"at": f"{frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno} in {frames[-1].name}"} if frames else {}
    return {"error": record.exc_info[0].__name__, **place}


@contextmanager
def service_logs(settings: Settings) -> Iterator[None]:
    """While the block runs, everything that tallyroll logs goes to standard error as the settings say; of its clients what is grave."""
    level = getattr(logging, settings.log_level.upper())
    clients = level if level == logging.DEBUG else logging.ERROR
    levels = {
        "tallyroll": level,
        "tallyroll.kafka": logging.NOTSET if level == logging.DEBUG else logging.CRITICAL,
        "opentelemetry": clients,
    }
    loggers = {name: logging.getLogger(name) for name in levels}
    before = [(one, one.handlers[:], one.level, one.propagate) for one in loggers.values()]
    handler = JsonLines() if settings.log_format == "json" else Words()
    for name, one in loggers.items():
        one.setLevel(levels[name])
        if "." not in name:
            one.handlers, one.propagate = [handler], False
    try:
        yield
    finally:
        for one, handlers, old, propagate in before:
            one.handlers, one.propagate = handlers, propagate
            one.setLevel(old)

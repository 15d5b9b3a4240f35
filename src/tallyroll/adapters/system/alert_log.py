"""Alerts into the log of the process."""

from __future__ import annotations

import logging
from typing import Final

from tallyroll.ports import Notice

log: Final = logging.getLogger("tallyroll.alerts.told")

_LEVELS: Final = {"low": logging.INFO, "medium": logging.WARNING, "high": logging.ERROR, "critical": logging.CRITICAL}


class LogSink:
    """Implements ``ports.AlertSink``: one line per notice on the logger ``tallyroll.alerts.told``, its message the JSON document.

    Not promised: that anybody has configured that logger, so that the line is kept.
    """

    name: Final = "log"

    async def send(self, notice: Notice) -> None:
        level = logging.INFO if notice.state == "resolved" else _LEVELS.get(notice.severity, logging.WARNING)
        log.log(level, "%s", notice.body.decode())

    async def close(self) -> None:
        """Nothing was opened."""

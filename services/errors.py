"""What can go wrong around a server process.

ServiceError
├── MissingToolError   a program is not installed and could not be; says the command that installs it
└── StartError         a server ended or stayed silent during start; carries its log path and last lines
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class ServiceError(Exception):
    """A server could not be installed, started, reached or ended. The sentence says what to do."""


class MissingToolError(ServiceError):
    """A program is missing and this user may not install it, or installing failed.

    Operator: run `command`, then try again. Not StartError: nothing was started.
    """

    def __init__(self, *, tool: str, package: str, reason: str) -> None:
        self.tool = tool
        self.package = package
        self.command = f"apt-get update && apt-get install -y {package}"
        super().__init__(f"{tool}: {reason}. Install Debian package {package!r} as root: {self.command}")


class StartError(ServiceError):
    """A server ended during start, or was not ready in time; what ran of it has been ended.

    Operator: read the last lines below, or the whole file at `log`. Not MissingToolError: the program is there.
    """

    def __init__(self, *, server: str, reason: str, log: Path, last_lines: str) -> None:
        self.server = server
        self.reason = reason
        self.log = log
        self.last_lines = last_lines
        super().__init__(f"{server} {reason}. Log: {log}\n{last_lines}")

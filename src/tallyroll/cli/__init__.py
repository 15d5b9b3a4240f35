"""The command line: parse, call ``Roll``, show. ``main`` is what the ``tallyroll`` command runs."""

import sys

from tallyroll.adapters.extras import require
from tallyroll.errors import MissingExtra


def main() -> None:
    """Runs the command in ``sys.argv`` and ends the process with one of the exit codes of ``cli.exits``."""
    try:
        require("cli")
    except MissingExtra as missing:
        sys.stderr.write(f"tallyroll: the command line is {missing.reason}\n")
        sys.exit(2)
    try:
        from tallyroll.cli.app import app  # noqa: PLC0415  # needs the extra

        app(prog_name="tallyroll")
    except KeyboardInterrupt:  # while it is still importing
        sys.exit(130)

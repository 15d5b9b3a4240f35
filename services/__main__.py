"""`python3 -m services`: install everything ahead of time, for a machine that shall be ready before the first test."""

from __future__ import annotations

import sys

from services.archive import ensure_archive
from services.errors import ServiceError
from services.install import PACKAGES, kafka_kit, say, tool


def main() -> int:
    """Exit code 0 when all is there; 1 with the reason on standard error when something could not be installed."""
    try:
        for name in PACKAGES:
            say(f"{name}: {tool(name)}")
        say(f"Kafka: {ensure_archive(kafka_kit()).parent}")
    except (ServiceError, PermissionError) as error:
        say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

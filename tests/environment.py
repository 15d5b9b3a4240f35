"""The environment in which tests and the programs that they start run: no setting of whoever runs them."""

from __future__ import annotations

import os
from typing import Final

from tests.patience import READ_WAIT_MS

_OF_SETTINGS: Final = ("TALLYROLL_", "KAFKA_", "REDIS_", "NATS_", "AUDIT_", "ANALYTICS_", "OTEL_")


def is_setting(name: str) -> bool:
    """Whether a variable may mean something to us, or to a library that we use."""
    return name.startswith(_OF_SETTINGS)


def environment(**more: str) -> dict[str, str]:
    """For a program: everything that this process has but settings, the patience of tests, and ``more``."""
    plain = {name: value for name, value in os.environ.items() if not is_setting(name)}
    return {**plain, "TALLYROLL_READ_WAIT_MS": str(READ_WAIT_MS), **more}


def clear_settings() -> None:
    """The same for this process."""
    settled = environment()
    for name in [name for name in os.environ if name not in settled]:
        del os.environ[name]
    os.environ.update(settled)

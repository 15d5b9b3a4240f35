"""Which optional dependencies are installed. Looks without importing them, so that asking costs nothing and opens nothing."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Final

from tallyroll.errors import MissingExtra

EXTRAS: Final[Mapping[str, tuple[str, ...]]] = {
    "kafka": ("confluent_kafka",),
    "redis": ("redis",),
    "nats": ("nats",),
    "cli": ("typer", "rich"),
    "archive": ("pyarrow", "numpy", "duckdb"),
    "analytics": ("numpy", "prometheus_client"),
    "ml": ("river", "sklearn"),
    "audit": ("cryptography", "re2"),
    "hsm": ("pkcs11",),
    "otel": ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"),
}


def available(extra: str) -> bool:
    """Whether every module of the extra is installed. Raises KeyError for a name that is not in EXTRAS.

    Not promised: that importing them succeeds, for instance with a broken system library.
    """
    return all(_found(module) for module in EXTRAS[extra])


def _found(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # what it lies in is not there
        return False


def require(extra: str) -> None:
    """Nothing if the extra is installed; else raises MissingExtra, whose message is the command that installs it."""
    if not available(extra):
        raise MissingExtra(extra)


KAFKA_AVAILABLE: Final = available("kafka")
REDIS_AVAILABLE: Final = available("redis")
NATS_AVAILABLE: Final = available("nats")
CRYPTO_AVAILABLE: Final = available("audit")

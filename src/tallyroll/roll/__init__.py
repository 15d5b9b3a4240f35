"""The composition root: what settings name is opened, joined, and closed."""

from tallyroll.roll.following import Lag
from tallyroll.roll.names import (
    ANALYTICS_FOLLOWER,
    ARCHIVE_FOLLOWER,
    AUDIT_FOLLOWER,
    FOLLOWERS,
    NATS_FOLLOWER,
    REDIS_FOLLOWER,
    STATE_FOLLOWER,
)
from tallyroll.roll.roll import LiveComparison, Roll

__all__ = [
    "ANALYTICS_FOLLOWER",
    "ARCHIVE_FOLLOWER",
    "AUDIT_FOLLOWER",
    "FOLLOWERS",
    "NATS_FOLLOWER",
    "REDIS_FOLLOWER",
    "STATE_FOLLOWER",
    "Lag",
    "LiveComparison",
    "Roll",
]

"""The followers that there are, by name."""

from __future__ import annotations

from typing import Final

STATE_FOLLOWER: Final = "state"
ARCHIVE_FOLLOWER: Final = "archive"
ANALYTICS_FOLLOWER: Final = "analytics"
REDIS_FOLLOWER: Final = "redis"
NATS_FOLLOWER: Final = "nats"
AUDIT_FOLLOWER: Final = "audit"
FOLLOWERS: Final = (STATE_FOLLOWER, ARCHIVE_FOLLOWER, ANALYTICS_FOLLOWER, REDIS_FOLLOWER, NATS_FOLLOWER, AUDIT_FOLLOWER)
"""What ``Roll.follow`` and ``Roll.run`` take."""

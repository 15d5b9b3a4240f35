"""The embedded log."""

from tallyroll.adapters.sqlite.log import SqliteLog

__all__ = ["SqliteLog"]

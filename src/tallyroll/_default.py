"""The only module state: the default roll that the convenience functions work on.

One roll per process, event loop and settings: after a fork, and in a new event loop, a new one is opened by itself.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack
from typing import Any

from tallyroll.bridges.bus import EventBus
from tallyroll.events.types import forget_registered_types
from tallyroll.roll import Roll
from tallyroll.settings import Settings

_settings: Settings | None = None
_roll: Roll | None = None
_stack: AsyncExitStack | None = None
_owner: tuple[int, asyncio.AbstractEventLoop] | None = None
_opening: asyncio.Lock | None = None
_bus: EventBus | None = None


def configure(settings: Settings | str | None = None, **overrides: Any) -> None:  # noqa: ANN401  # any field of Settings
    """Sets what the default roll is made of: settings, a log URL, or single settings by field name.

    Takes effect at the next use; a default roll that is already open is not changed: close it first with
    ``await close_default()``. Raises SettingsError.
    """
    global _settings  # noqa: PLW0603  # this module is where state may be
    given: dict[str, Any] = {"url": settings} if isinstance(settings, str) else {}
    _settings = settings if isinstance(settings, Settings) else Settings.from_env(**given, **overrides)


async def current_roll() -> Roll:
    """The default roll, opened at the first use in this process and event loop."""
    global _roll, _stack, _owner, _opening  # noqa: PLW0603  # this module is where state may be
    here = (os.getpid(), asyncio.get_running_loop())
    if _owner != here:
        # Another process's, or one whose event loop is gone: its exit hooks look after what it has accepted.
        _roll, _stack, _owner, _opening = None, None, here, asyncio.Lock()
    assert _opening is not None  # noqa: S101  # set with the owner
    async with _opening:
        if _roll is None:
            _stack = AsyncExitStack()
            _roll = await _stack.enter_async_context(Roll.open(_settings))
        return _roll


def current_bus() -> EventBus:
    """The bus of this process."""
    global _bus  # noqa: PLW0603  # this module is where state may be
    if _bus is None:
        _bus = EventBus()
    return _bus


async def close_default() -> None:
    """Closes the default roll of this event loop, if it is open; the next use opens a new one."""
    global _roll, _stack  # this module is where state may be
    stack, _roll, _stack = _stack, None, None
    if stack is not None and _owner == (os.getpid(), asyncio.get_running_loop()):
        await stack.aclose()


def reset_defaults() -> None:
    """Back to the environment's settings and the built-in event types. Does not close: ``await close_default()`` first."""
    global _settings, _roll, _stack, _owner, _bus  # this module is where state may be
    _settings, _roll, _stack, _owner, _bus = None, None, None, None, None
    forget_registered_types()

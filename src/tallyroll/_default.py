"""The only module state: the default roll that the convenience functions work on.

One roll per process, event loop and settings: after a fork, and in a new event loop, a new one is opened by itself.
"""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final

from tallyroll.bridges.bus import EventBus
from tallyroll.events.types import forget_registered_types
from tallyroll.opening import open_field_sealer
from tallyroll.roll import Roll
from tallyroll.settings import Settings

if TYPE_CHECKING:
    from tallyroll.audit.recording.violations import Monitor, ViolationHandler
    from tallyroll.audit.trail import AuditTrail
    from tallyroll.publish.privacy import FieldSealer

_settings: Settings | None = None
_roll: Roll | None = None
_stack: AsyncExitStack | None = None
_owner: tuple[int, asyncio.AbstractEventLoop] | None = None
_opening: asyncio.Lock | None = None
_bus: EventBus | None = None
_listening: list[Callable[[AuditTrail], None]] = []
_field_sealer: tuple[FieldSealer, Callable[[], object]] | None = None


def configure(settings: Settings | str | None = None, **overrides: Any) -> None:  # noqa: ANN401  # any field of Settings
    """Sets what the default roll is made of: settings, a log URL, or single settings by field name.

    Takes effect at the next use; a default roll that is already open is not changed: close it first with
    ``await close_default()``. Raises SettingsError.
    """
    global _settings  # noqa: PLW0603  # this module is where state may be
    given: dict[str, Any] = {"url": settings} if isinstance(settings, str) else {}
    _settings = settings if isinstance(settings, Settings) else Settings.from_env(**given, **overrides)
    _forget_field_sealer()


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
            for listen in _listening:
                listen(_roll.audit)
        return _roll


def roll_of(publisher: object) -> Roll | None:
    """The default roll, if it is open here and this is its publisher. Opens nothing."""
    return _roll if _roll is not None and _roll.publisher is publisher else None


def current_bus() -> EventBus:
    """The bus of this process."""
    global _bus  # noqa: PLW0603  # this module is where state may be
    if _bus is None:
        _bus = EventBus()
    return _bus


class DefaultAuditTrail:
    """The default roll's audit trail, looked up at each use: every method of ``AuditTrail``, by the same name.

    Handlers and monitors may be added before a roll is open, and stay over its end until ``reset_defaults``.
    """

    def add_violation_handler(self, handler: ViolationHandler) -> None:
        """As ``AuditTrail.add_violation_handler``."""
        self._listen(lambda trail: trail.add_violation_handler(handler))

    def add_real_time_monitor(self, rule_id: str, monitor: Monitor) -> None:
        """As ``AuditTrail.add_real_time_monitor``."""
        self._listen(lambda trail: trail.add_real_time_monitor(rule_id, monitor))

    def _listen(self, listen: Callable[[AuditTrail], None]) -> None:
        _listening.append(listen)
        if _roll is not None:
            listen(_roll.audit)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # a method of AuditTrail
        from tallyroll.audit.trail import AuditTrail  # noqa: PLC0415  # who has no audit does without

        if name.startswith("_"):
            raise AttributeError(name)
        method = getattr(AuditTrail, name)
        if inspect.isasyncgenfunction(method):

            async def each(*args: Any, **options: Any) -> Any:  # noqa: ANN401  # as the method
                async for item in method((await current_roll()).audit, *args, **options):
                    yield item

            return each

        async def call(*args: Any, **options: Any) -> Any:  # noqa: ANN401  # as the method
            return await method((await current_roll()).audit, *args, **options)

        return call


audit_manager: Final = DefaultAuditTrail()
"""The audit trail of the default roll."""


def _forget_field_sealer() -> None:
    global _field_sealer  # this module is where state may be
    opened, _field_sealer = _field_sealer, None
    if opened is not None:
        opened[1]()


def current_field_sealer() -> FieldSealer:
    """What seals personal fields with the keys of the default settings; made at the first use. Raises as ``open_audit_keys``."""
    global _field_sealer  # noqa: PLW0603  # this module is where state may be
    if _field_sealer is None:
        _field_sealer = open_field_sealer(_settings or Settings.from_env())
    return _field_sealer[0]


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
    _listening.clear()
    _forget_field_sealer()
    forget_registered_types()

"""The only module state: the default roll that the convenience functions work on.

One roll per process and event loop: after a fork, and in a new event loop, a new one is opened by itself.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
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


log: Final = logging.getLogger("tallyroll")


@dataclass(slots=True)
class _Default:
    """The roll of one event loop in one process, once it is open."""

    pid: int = field(default_factory=os.getpid)
    opening: asyncio.Lock = field(default_factory=asyncio.Lock)
    stack: AsyncExitStack | None = None
    roll: Roll | None = None


_settings: Settings | None = None
_defaults: dict[asyncio.AbstractEventLoop, _Default] = {}
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
    if any(roll.settings != _settings for roll in _open_rolls()):
        log.warning("the default roll is open, and stays as it is; 'await close_default()' first, then the new settings are used")


async def current_roll() -> Roll:
    """The default roll, opened at the first use in this process and event loop."""
    default = _default_here()
    async with default.opening:
        if default.roll is None:
            stack = AsyncExitStack()
            default.roll = await stack.enter_async_context(Roll.open(_settings))
            default.stack = stack
            for listen in _listening:
                listen(default.roll.audit)
        return default.roll


def _default_here() -> _Default:
    """That of this process and event loop. Loops of other threads have theirs, and go on using it."""
    loop = asyncio.get_running_loop()
    default = _defaults.get(loop)
    if default is None or default.pid != os.getpid():
        # Another process's, or those whose event loops are gone: their exit hooks look after what they have accepted.
        for gone in [known for known in list(_defaults) if known.is_closed()]:
            _defaults.pop(gone, None)
        default = _defaults[loop] = _Default()
    return default


def _open_rolls() -> list[Roll]:
    return [default.roll for default in list(_defaults.values()) if default.roll is not None and default.pid == os.getpid()]


def roll_of(publisher: object) -> Roll | None:
    """The default roll, if it is open here and this is its publisher. Opens nothing."""
    return next((roll for roll in _open_rolls() if roll.publisher is publisher), None)


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
        for roll in _open_rolls():
            listen(roll.audit)

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
    default = _defaults.pop(asyncio.get_running_loop(), None)
    if default is not None and default.stack is not None and default.pid == os.getpid():
        await default.stack.aclose()


def reset_defaults() -> None:
    """Back to the environment's settings and the built-in event types. Does not close: ``await close_default()`` first."""
    global _settings, _bus  # this module is where state may be
    _settings, _bus = None, None
    _defaults.clear()
    _listening.clear()
    _forget_field_sealer()
    forget_registered_types()

"""Users' own reducers in the place of the built-in views: registered per kind of state, folded over an owner's events.

A handler cannot be joined as the parts of a view can, so it is given all events of an owner, in order-key order
(``replay.order``). Pure, as far as the handlers are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final, NamedTuple

import msgspec

from tallyroll.errors import ReducerFailed
from tallyroll.events.recorded import RecordedEvent
from tallyroll.replay.fold import State, check_canonical, state_hash
from tallyroll.replay.kinds import StateType
from tallyroll.replay.reference import reference, resolve

Handler = Callable[[dict[str, Any], Any], dict[str, Any]]
"""``(state, event) -> state``: the state after the event, the same dict or a new one. A pure function of the two.

The event is a RecordedEvent, with the attribute names of AgentEvent; neither it nor its payload is the handler's to change.
"""

Initializer = Callable[[str], dict[str, Any]]
"""``(owner) -> state`` before the first event."""

Validator = Callable[[dict[str, Any]], "bool | list[str] | None"]
"""Whether a state is sound: False or a list of problems if not. It may as well raise ValueError or AssertionError that says so."""

ANY: Final = "*"
_BAD_VALUE: Final = (TypeError, OverflowError, RecursionError)
_encode_sorted: Final = msgspec.json.Encoder(order="sorted").encode


class Reference(msgspec.Struct, frozen=True):
    """A projector by the names of its code, for other processes. Entries are ``(kind of state, event type, module:name)``."""

    version: int | None
    handlers: tuple[tuple[str, str, str], ...]
    initializers: tuple[tuple[str, str], ...]
    validators: tuple[tuple[str, str], ...]


class Verdict(NamedTuple):
    """What the validators of a kind of state said; true if they found nothing."""

    problems: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return not self.problems


@dataclass(slots=True)
class _Kind:
    handlers: dict[str, Handler] = field(default_factory=dict)
    initializer: Initializer | None = None
    validators: list[Validator] = field(default_factory=list)


class StateProjector:
    """Handlers per kind of state and event type, an initializer and validators per kind of state.

    ``version``: raise it whenever the same events would give another state; without one no state is kept as a snapshot, and
    with one only states whose events lie in one partition are. ``strict``, for tests: a handler gets a copy of the state,
    and one that changes the state or the payload it was given, or puts a value in that no state can hold, fails at that event.
    Otherwise a handler may change the state and return it.

    Not promised: that events of a type without a handler have any effect, on the state or on the order of the others.
    """

    def __init__(self, *, version: int | None = None, strict: bool = False) -> None:
        self.version = version
        self.strict = strict
        self._kinds: dict[str, _Kind] = {}

    def __init_subclass__(cls) -> None:
        raise TypeError("StateProjector is not made to be subclassed: a fold calls registered functions, no methods; register them")

    def register_projection(self, state_type: StateType | str, event_type: str | None, handler: Handler) -> None:
        """What an event of a type does to a kind of state. ``"*"`` or None: every type that has no handler of its own.

        Raises ValueError for a kind that does not exist, and for a type that already has a handler.
        """
        handlers, name = self._kind(state_type).handlers, ANY if event_type is None else str(event_type)
        if name in handlers:
            raise ValueError(f"{StateType(state_type)}: {name} already has the handler {_name(handlers[name])}")
        handlers[name] = _callable(handler, "handler")

    def register_initializer(self, state_type: StateType | str, initializer: Initializer) -> None:
        """What a state is before its first event; ``{}`` unless registered. Raises ValueError for a second one."""
        kind = self._kind(state_type)
        if kind.initializer is not None:
            raise ValueError(f"{StateType(state_type)} already has the initializer {_name(kind.initializer)}")
        kind.initializer = _callable(initializer, "initializer")

    def register_validator(self, state_type: StateType | str, validator: Validator) -> None:
        """What judges a state when all its events are folded; every registered one is asked."""
        self._kind(state_type).validators.append(_callable(validator, "validator"))

    def types(self, state_type: StateType | str) -> frozenset[str] | None:
        """The event types that count for a kind of state, None for all: no others have to be read."""
        handlers = self._known(state_type).handlers
        return None if ANY in handlers else frozenset(handlers)

    def initialize_state(self, state_type: StateType | str, owner: str) -> dict[str, Any]:
        """A state without events. Raises ReducerFailed when the initializer does, or returns no dict."""
        initializer = self._known(state_type).initializer
        if initializer is None:
            return {}
        try:
            state = initializer(owner)
        except Exception as error:
            raise ReducerFailed(_name(initializer), "the start", type(error).__name__) from error
        if not isinstance(state, dict):
            raise ReducerFailed(_name(initializer), "the start", _no_dict(state))
        return state

    def apply_event(self, state_type: StateType | str, state: dict[str, Any], event: Any) -> dict[str, Any]:  # noqa: ANN401  # Recorded- or AgentEvent
        """The state after an event; the same one if no handler wants it. Raises ReducerFailed."""
        handlers = self._known(state_type).handlers
        handler = handlers.get(event.event_type) or handlers.get(ANY)
        if handler is None:
            return state
        return _strictly(handler, state, event) if self.strict else _applied(handler, state, event)

    def fold(self, state_type: StateType | str, state: dict[str, Any], events: Iterable[Any]) -> tuple[dict[str, Any], int, Any]:
        """The state after some events, how many of them counted, and the last that did. Raises ReducerFailed."""
        handlers, strict = self._known(state_type).handlers, self.strict
        find, otherwise, count, last, event, handler = handlers.get, handlers.get(ANY), 0, None, None, None
        try:
            for event in events:
                handler = find(event.event_type, otherwise)
                if handler is None:
                    continue
                state = _strictly(handler, state, event) if strict else handler(state, event)
                if state.__class__ is not dict and not isinstance(state, dict):
                    raise _failed(handler, event, _no_dict(state))  # noqa: TRY301  # a call per event would cost a tenth of a µs
                count += 1
                last, handler = event, None
        except ReducerFailed:
            raise
        except Exception as error:
            if handler is None:
                raise  # of whoever gives the events
            raise _failed(handler, event, type(error).__name__) from error
        return state, count, last

    def validate_state(self, state_type: StateType | str, state: dict[str, Any]) -> Verdict:
        """What the validators say. Raises ReducerFailed when one raises anything but ValueError or AssertionError."""
        problems: list[str] = []
        for validator in self._known(state_type).validators:
            said: object
            try:
                said = validator(state)
            except (ValueError, AssertionError) as error:
                said = [str(error) or type(error).__name__]
            except Exception as error:
                raise ReducerFailed(_name(validator), "the end", type(error).__name__) from error
            if said is False:
                problems.append(f"{_name(validator)} says no")
            elif isinstance(said, list | tuple):
                problems.extend(map(str, said))
            elif said is not True and said is not None:
                raise ReducerFailed(
                    _name(validator), "the end", f"it returned {type(said).__name__}, not True, False or a list of problems"
                )
        return Verdict(tuple(problems))

    def reference(self) -> Reference:
        """The projector by name, for other processes. Raises ValueError for code that they could not import."""
        kinds = sorted(self._kinds.items())
        return Reference(
            self.version,
            tuple((kind, name, _reference(one, "handler")) for kind, own in kinds for name, one in sorted(own.handlers.items())),
            tuple((kind, _reference(own.initializer, "initializer")) for kind, own in kinds if own.initializer is not None),
            tuple((kind, _reference(one, "validator")) for kind, own in kinds for one in own.validators),
        )

    @classmethod
    def from_reference(cls, named: Reference) -> StateProjector:
        """The projector that ``reference`` named. Raises ValueError for code that is not there."""
        made = cls(version=named.version)
        for kind, event_type, name in named.handlers:
            made.register_projection(kind, event_type, resolve(name, "handler"))
        for kind, name in named.initializers:
            made.register_initializer(kind, resolve(name, "initializer"))
        for kind, name in named.validators:
            made.register_validator(kind, resolve(name, "validator"))
        return made

    def reducer_id(self, state_type: StateType | str) -> str | None:
        """Names what the states mean, as the reducer id of a view does; None without a ``version``. Raises ValueError as ``reference``."""
        if self.version is None:
            return None
        kind, own = StateType(state_type), self.reference()
        handlers = [entry for entry in own.handlers if entry[0] == kind]
        initializers = [entry for entry in own.initializers if entry[0] == kind]
        return sha256(_encode_sorted(["projector", self.version, kind, handlers, initializers])).hexdigest()

    def _kind(self, state_type: StateType | str) -> _Kind:
        try:
            return self._kinds.setdefault(StateType(state_type), _Kind())
        except ValueError:
            raise ValueError(f"{state_type!r} is no kind of state; there are {', '.join(StateType)}") from None

    def _known(self, state_type: StateType | str) -> _Kind:
        return self._kinds.get(state_type) or self._kind(state_type)


@dataclass(frozen=True, slots=True)
class Projected:
    """One owner's state as a projector made it, of ``version`` events that counted, and what its validators say of it."""

    state_type: StateType
    owner: str
    state: State
    version: int
    verdict: Verdict

    @property
    def state_hash(self) -> str:
        """SHA-256 in hex over the canonical state."""
        return state_hash(self.state)


def fold_events(
    projector: StateProjector, state_type: StateType, owner: str, events: Iterable[Any], since: tuple[dict[str, Any], int] | None = None
) -> Projected:
    """An owner's state, of its events in order-key order; ``since``: the state of so many events before them.

    Raises ReducerFailed, also for a value that no state can hold.
    """
    before, known = (projector.initialize_state(state_type, owner), 0) if since is None else since
    state, count, last = projector.fold(state_type, before, events)
    check_state(state, "the start" if last is None else where(last))
    return Projected(StateType(state_type), owner, state, known + count, projector.validate_state(state_type, state))


def check_state(state: Mapping[str, Any], place: str) -> None:
    """Raises ReducerFailed with the path of a value that no canonical state can hold; ``place`` is the last event."""
    try:
        check_canonical(state)
    except _BAD_VALUE as error:
        raise ReducerFailed("a reducer's state", place, _reason(error)) from error


def where(event: Any) -> str:  # noqa: ANN401  # Recorded- or AgentEvent
    """An event for error messages: where it lies, or its id if it lies nowhere, and its type."""
    place = getattr(event, "position", None) or f"event {event.event_id}"
    return f"{place} ({event.event_type})"


def _applied(handler: Handler, state: dict[str, Any], event: Any) -> dict[str, Any]:  # noqa: ANN401  # as apply_event
    try:
        after = handler(state, event)
    except Exception as error:
        raise _failed(handler, event, type(error).__name__) from error
    if not isinstance(after, dict):
        raise _failed(handler, event, _no_dict(after))
    return after


def _strictly(handler: Handler, state: dict[str, Any], event: Any) -> dict[str, Any]:  # noqa: ANN401  # as apply_event
    given = deepcopy(state)
    after = _applied(handler, given, event)
    try:
        check_canonical(state)
        check_canonical(after)
    except _BAD_VALUE as error:
        raise _failed(handler, event, _reason(error)) from error
    if _encode_sorted(given) != _encode_sorted(state):
        raise _failed(handler, event, "it changed the state it was given; strict projectors want a new one")
    if isinstance(event, RecordedEvent) and not event.is_untouched():
        raise _failed(handler, event, "it changed the payload of the event")
    return after


def _failed(handler: Handler, event: Any, reason: str) -> ReducerFailed:  # noqa: ANN401  # as apply_event
    return ReducerFailed(_name(handler), where(event), reason)


def _reason(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def _no_dict(value: object) -> str:
    return f"it returned {type(value).__name__}, not the state as a dict"


def _name(code: Callable[..., object]) -> str:
    return getattr(code, "__qualname__", None) or type(code).__qualname__


def _callable(code: Any, what: str) -> Any:  # noqa: ANN401  # whatever was offered
    if not callable(code):
        raise TypeError(f"{what}: expected a function, got {type(code).__name__}")
    return code


def _reference(code: Callable[..., object], what: str) -> str:
    named = reference(code, f"{what} {_name(code)}")
    if resolve(named, what) is not code:
        raise ValueError(f"{what} {named}: the name stands for something else; define it by name at the top of a module")
    return named

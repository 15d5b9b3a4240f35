"""Whether a reducer is pure: it is run while every call it makes is watched.

``assert_pure(projector, StateType.AGENT_STATE, events)`` in a test of your own folds the events and fails where a handler
reads a clock, draws a random number, opens a file or a connection, starts a process or a thread, sleeps, prints, reads the
environment, or asks for ``id()`` or the salted ``hash()`` of something. It does not matter how a function was imported.
Nothing is patched, and other threads are left alone.

Not promised: to see what a C extension does inside itself, nor a forbidden function that is called by another built-in
one (``map(time.time_ns, …)``). It finds slips, it is no prison.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType, ModuleType
from typing import Any, Final

from tallyroll.errors import ReducerFailed
from tallyroll.events.event import AgentEvent
from tallyroll.events.recorded import events_rows, rows_events
from tallyroll.replay.kinds import StateType
from tallyroll.replay.projector import Projected, StateProjector, fold_events


class Impure(AssertionError):
    """Code that has to be pure touched the world around it; ``touched`` names what, in the order it was met.

    Developer: take what is needed from the event; its time is ``event.timestamp``. Not ReducerFailed, which is about what a
    reducer returned or raised itself.
    """

    def __init__(self, touched: Sequence[str]) -> None:
        self.touched = tuple(touched)
        super().__init__(f"a pure function touched {', '.join(dict.fromkeys(touched))}; take what it needs from the event")


# Built-in functions by module, None for all of them.
_CLOCKS: Final = ("clock_gettime", "monotonic", "perf_counter", "process_time", "thread_time", "time")
_BUILT_IN: Final[dict[str, frozenset[str] | None]] = {
    "time": frozenset((*_CLOCKS, *(f"{name}_ns" for name in _CLOCKS), "ctime", "gmtime", "localtime", "sleep")),
    "builtins": frozenset(("breakpoint", "hash", "id", "input", "open", "print")),
    "io": frozenset(("open", "open_code")),
    "_io": frozenset(("open", "open_code")),
    "posix": None,
    "nt": None,
    "_socket": None,
    "_thread": frozenset(("start_new_thread", "start_new")),
    "_posixsubprocess": None,
    "_winapi": None,
    "_uuid": None,
}
_SALTED: Final = ("builtins.hash", "builtins.id")  # differ from process to process; in the library only ever keys of a dict
_OF_DATES: Final = frozenset(("now", "today", "utcnow"))
# Modules in Python whose functions have no business in a reducer, whatever they call in turn.
_MODULES: Final = frozenset(("random", "secrets", "socket", "subprocess", "tempfile"))
_PURE_POSIX: Final = frozenset(("fspath",))
_IMPORTING: Final = frozenset(("importlib._bootstrap", "importlib._bootstrap_external", "_frozen_importlib", "_frozen_importlib_external"))

# The audit events of what the profiler may miss, since they are raised inside built-in functions too.
_AUDITED: Final = ("open", "socket.", "subprocess.Popen", "os.", "shutil.", "urllib.", "sqlite3.connect", "time.sleep", "webbrowser.open")
_watching: Final = threading.local()


@contextmanager
def no_effects() -> Iterator[None]:
    """Watches this thread while the block runs. Raises Impure in the block at the first touch, and once more when it ends.

    A profiler or coverage by ``sys.setprofile`` is put aside meanwhile. Not promised: speed; every call is looked at.
    """
    _install_hook()
    touched: list[str] = []

    def watch(frame: FrameType, what: str, argument: Any) -> None:  # noqa: ANN401  # as sys.setprofile has it
        name = _forbidden_built_in(argument) if what == "c_call" else _forbidden_python(frame) if what == "call" else None
        if name is not None and not (name in _SALTED and _is_plain(frame)) and not _is_importing(frame):
            touched.append(name)
            raise Impure(touched)

    before = sys.getprofile()
    _watching.touched = touched
    sys.setprofile(watch)
    try:
        yield
    finally:
        sys.setprofile(before)
        _watching.touched = None
    if touched:  # the block has caught it
        raise Impure(touched)


def assert_pure(projector: StateProjector, state_type: StateType, events: Sequence[AgentEvent], *, owner: str = "owner") -> Projected:
    """The state of some events, folded twice and watched; the handlers are held to what ``strict`` asks for.

    Raises Impure; ReducerFailed where a handler fails or changes what it was given; AssertionError if the two differ.
    """
    strict = projector.strict
    projector.strict = True
    try:
        rows = events_rows("events", 0, events)
        folded = [_watched(projector, state_type, owner, list(rows_events(rows))) for _ in range(2)]
    finally:
        projector.strict = strict
    if folded[0].state_hash != folded[1].state_hash:
        raise AssertionError("the same events gave two states")
    return folded[0]


def _watched(projector: StateProjector, state_type: StateType, owner: str, events: Sequence[Any]) -> Projected:
    try:
        with no_effects():
            return fold_events(projector, state_type, owner, events)
    except ReducerFailed as error:
        if isinstance(error.__cause__, Impure):
            raise error.__cause__ from error
        raise


def _forbidden_built_in(function: Any) -> str | None:  # noqa: ANN401  # any built-in function or method
    name = getattr(function, "__name__", "")
    of = getattr(function, "__self__", None)
    if isinstance(of, ModuleType) or of is None:
        module = getattr(function, "__module__", None) or getattr(of, "__name__", "")
        if module in _BUILT_IN:
            names = _BUILT_IN[module]
            if (names is None and name not in _PURE_POSIX) or (names is not None and name in names):
                return f"{module}.{name}"
        return None
    kind = of if isinstance(of, type) else type(of)
    if name in _OF_DATES and isinstance(of, type) and any(base.__module__ == "datetime" for base in kind.__mro__):
        return f"{kind.__module__}.{kind.__qualname__}.{name}"
    if any(base.__module__ in ("_random", "_socket") for base in kind.__mro__):
        return f"{kind.__module__}.{kind.__qualname__}.{name}"
    return None


def _forbidden_python(frame: FrameType) -> str | None:
    module, code = frame.f_globals.get("__name__"), frame.f_code
    if module in _MODULES:
        return f"{module}.{code.co_qualname}"
    return f"os.environ ({code.co_name})" if module == "os" and code.co_qualname.startswith("_Environ.") else None


def _is_plain(frame: FrameType) -> bool:
    """Whether ``hash`` and ``id`` serve their purpose here: in a ``__hash__``, and in the standard library (``copy`` and others)."""
    module = str(frame.f_globals.get("__name__", ""))
    return frame.f_code.co_name == "__hash__" or module.partition(".")[0] in sys.stdlib_module_names


def _is_importing(frame: FrameType | None) -> bool:
    """Whether an import statement is at work: the first one of a module reads files, and that is no slip."""
    while frame is not None:
        if frame.f_globals.get("__name__") in _IMPORTING:
            return True
        frame = frame.f_back
    return False


def _audit(name: str, _arguments: tuple[Any, ...]) -> None:
    touched = getattr(_watching, "touched", None)
    if touched is not None and name.startswith(_AUDITED) and not _is_importing(sys._getframe(1)):  # noqa: SLF001  # there is no other way
        touched.append(name)
        raise Impure(touched)


_installed: list[bool] = []


def _install_hook() -> None:
    """Once, and for good: audit hooks cannot be taken out again; outside of a watched block ours does nothing."""
    if not _installed:
        _installed.append(True)
        sys.addaudithook(_audit)

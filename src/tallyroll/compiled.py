"""The compiled core, where it is installed: its library, and where the records lie that it is to read. It decides nothing."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from typing import Any, Final

MODULE: Final = "tallyroll_core"
POINTER: Final = ctypes.c_void_p
SIZE: Final = ctypes.c_size_t
_ABI: Final = 6
_ROOM: Final = 512  # records, to begin with

Function = tuple[Any, ...]
"""The name of a function of the library, its result, and its arguments."""

Borrow = Callable[[list[Any], int, Any, Any], int]


@cache
def library(functions: Sequence[Function]) -> ctypes.CDLL | None:
    """The library with the types of these functions; None where it is not installed, or has another interface."""
    try:
        package = import_module(MODULE)
        found = ctypes.CDLL(str(package.library()))
        version = found.tallyroll_core_abi
        version.restype = ctypes.c_uint32
        if version() != _ABI:
            return None
        for name, result, *arguments in functions:
            function = getattr(found, name)
            function.restype, function.argtypes = result, arguments
    except (ImportError, OSError, AttributeError):
        return None
    return found


def version() -> str | None:
    """Of the library that is in use; None where none is."""
    found: str | None = import_module(MODULE).__version__ if library(()) is not None else None
    return found


class Places:
    """Where the bytes of some records lie; the same room for every call. Used by one thread at a time."""

    def __init__(self, found: ctypes.CDLL) -> None:
        self._borrow = _borrowing(found)
        self._grow(_ROOM)

    def find(self, values: list[Any]) -> int:
        """Of how many it is known now: of all, or of those up to the first that is no bytes. Valid as long as the list stays as it is."""
        if len(values) > self._room:
            self._grow(1 << (len(values) - 1).bit_length())
        try:
            return self._borrow(values, len(values), self.starts, self.lengths)
        except TypeError:
            return next(at for at, value in enumerate(values) if not isinstance(value, bytes))

    def _grow(self, room: int) -> None:
        self._room = room
        self.starts = (SIZE * room)()
        self.lengths = (ctypes.c_ssize_t * room)()


def _borrowing(found: ctypes.CDLL) -> Borrow:
    """``tr_borrow`` with the interpreter's own functions; it keeps the lock. TypeError where something is no bytes."""
    borrow = ctypes.PYFUNCTYPE(ctypes.c_int64, ctypes.py_object, SIZE, *[POINTER] * 4)(("tr_borrow", found))
    python = ctypes.pythonapi
    item, data = (ctypes.cast(function, POINTER) for function in (python.PyList_GetItem, python.PyBytes_AsStringAndSize))
    return lambda values, count, starts, lengths: borrow(values, count, item, data, starts, lengths)

"""The compiled scanner, where it is installed: raw records to columns of numbers, without an object for each.

It reads what is plain. A batch with a record in it that is not is for the ``Reader`` of ``reading``, which is the rule for all.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Final, Literal, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from tallyroll.compiled import MODULE, POINTER, SIZE, Function, Places, library

FIXED: Final = ("type", "aggregatetype", "aggregateid", "schemaversion", "tenantid", "expects", "chainsession")
"""Members of the envelope, which are the first text slots of every scan."""

Kind = Literal["text", "number", "truth"]
_LETTERS: Final[dict[Kind, str]] = {"text": "t", "number": "n", "truth": "b"}
_FUNCTIONS: Final[tuple[Function, ...]] = (  # names, results, arguments
    ("tr_scanner_new", POINTER, ctypes.c_char_p, SIZE),
    ("tr_scanner_free", None, POINTER),
    ("tr_scan", ctypes.c_int64, POINTER, POINTER, POINTER, SIZE, POINTER),
    ("tr_names_size", None, POINTER, POINTER, POINTER),
    ("tr_names_copy", None, POINTER, POINTER, POINTER),
    ("tr_ids_size", ctypes.c_int64, POINTER),
    ("tr_ids_copy", None, POINTER, POINTER),
)
_ROOM: Final = 512  # records, to begin with


class Ids(Sequence[str]):
    """The ids of some records that stand together, made into texts when somebody looks: as a rule nobody does."""

    __slots__ = ("_places", "_texts")

    def __init__(self, texts: Callable[[], Sequence[str]], places: range) -> None:
        self._texts = texts  # those of the whole scan
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, which: int) -> str: ...
    @overload
    def __getitem__(self, which: slice) -> Ids: ...
    def __getitem__(self, which: int | slice) -> str | Ids:
        return Ids(self._texts, self._places[which]) if isinstance(which, slice) else self._texts()[self._places[which]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts()[self._places.start : self._places.stop])


class Scan(NamedTuple):
    """What was read of the first ``n`` of some records, a column each.

    ``times_us`` ``(n,) int64``: microseconds since 1970. ``numbers`` ``(n,) int64``: of the chain, 0 for none. ``texts``
    ``(T, n) int32``: of each text slot, ``FIXED`` first, which of ``names`` each record has, -1 for none. ``ids``: their ids;
    ``prints`` ``(n,) int64``: a number for each, the same for the same id from this scanner, another for another as a rule.
    ``sparse``: of each slot of numbers and truths the records that have a value, ascending, and the values; NaN where there
    is something that is no number, as another slot takes it.
    """

    times_us: NDArray[np.int64]
    numbers: NDArray[np.int64]
    texts: NDArray[np.int32]
    names: Sequence[str]
    ids: Ids
    prints: NDArray[np.int64]
    sparse: Sequence[tuple[NDArray[np.int32], NDArray[np.float64]]]

    def first(self, count: int) -> Scan:
        """Of fewer records; names that none of them has may be among the names."""
        if count == len(self.times_us):
            return self
        ends = [int(np.searchsorted(rows, count)) for rows, _ in self.sparse]
        sparse = [(rows[:end], values[:end]) for (rows, values), end in zip(self.sparse, ends, strict=True)]
        texts, ids, prints = self.texts[:, :count], self.ids[:count], self.prints[:count]
        return Scan(self.times_us[:count], self.numbers[:count], texts, self.names, ids, prints, sparse)


class _Out(ctypes.Structure):
    _fields_ = (
        ("room", SIZE),
        *((name, ctypes.c_void_p) for name in ("times", "numbers", "prints", "texts", "rows", "values", "counts")),
    )


class _Room:
    """Where the library writes to; used again by every scan that fits."""

    def __init__(self, texts: int, values: int, rows: int) -> None:
        self.rows = rows
        self.times = np.empty(rows, np.int64)
        self.numbers = np.empty(rows, np.int64)
        self.prints = np.empty(rows, np.int64)
        self.texts = np.empty((texts, rows), np.int32)
        self.at = np.empty((values, rows), np.int32)
        self.values = np.empty((values, rows), np.float64)
        self.counts = np.empty(values, np.int64)
        arrays = (self.times, self.numbers, self.prints, self.texts, self.at, self.values, self.counts)
        self.out = _Out(rows, *(array.ctypes.data for array in arrays))


class Scanner:
    """Scans records for slots: paths inside the payload, and what is looked for there. Used by one thread at a time.

    Raises ValueError for slots that the library cannot take; ``scanner`` makes one where there is a library.
    """

    def __init__(self, slots: Sequence[tuple[Kind, str]]) -> None:
        found = library(_FUNCTIONS)
        if found is None:
            raise ValueError(f"{MODULE} is not installed, or is another version's")
        spec = "".join(f"{_LETTERS[kind]}\t{path}\n" for kind, path in slots).encode()
        made = found.tr_scanner_new(spec, len(spec))
        if not made or spec.count(b"\n") != len(slots) or spec.count(b"\t") != len(slots):
            found.tr_scanner_free(made)
            raise ValueError("there is a path that the library cannot take, or one twice")
        self._library, self._made, self._places = found, made, Places(found)
        self._texts = len(FIXED) + sum(kind == "text" for kind, _ in slots)
        self._values = sum(kind != "text" for kind, _ in slots)
        self._room = _Room(self._texts, self._values, _ROOM)
        weakref.finalize(self, found.tr_scanner_free, made)

    def scan(self, values: list[bytes | None]) -> Scan:
        """What the records hold, up to the first that is not plain. What is given stays as it is."""
        if len(values) > self._room.rows:
            self._room = _Room(self._texts, self._values, 1 << (len(values) - 1).bit_length())
        room, count = self._room, self._places.find(values)
        places = self._places.starts, self._places.lengths
        plain: int = self._library.tr_scan(self._made, *places, count, ctypes.byref(room.out))
        return Scan(
            room.times[:plain].copy(),
            room.numbers[:plain].copy(),
            room.texts[:, :plain].copy(),
            self._names(),
            self._ids(plain),
            room.prints[:plain].copy(),
            [(room.at[slot, :some].copy(), room.values[slot, :some].copy()) for slot, some in enumerate(room.counts.tolist())],
        )

    def _names(self) -> Sequence[str]:
        count, size = ctypes.c_int64(), ctypes.c_int64()
        self._library.tr_names_size(self._made, ctypes.byref(count), ctypes.byref(size))
        blob, ends = np.empty(size.value, np.uint8), np.empty(count.value, np.int64)
        self._library.tr_names_copy(self._made, blob.ctypes.data, ends.ctypes.data)
        names = _lines(blob)
        if len(names) == count.value:
            return names
        text = blob.tobytes()  # one of them has line ends of its own
        return [text[start:end].decode() for start, end in zip([0, *(ends[:-1] + 1).tolist()], ends.tolist(), strict=True)]

    def _ids(self, count: int) -> Ids:
        blob = np.empty(self._library.tr_ids_size(self._made), np.uint8)
        self._library.tr_ids_copy(self._made, blob.ctypes.data)
        return Ids(cache(partial(_lines, blob)), range(count))


def _lines(blob: NDArray[np.uint8]) -> Sequence[str]:
    """Texts that have a line end behind each. One decoding and one split: to cut out each takes four times as long."""
    return blob.tobytes().decode().split("\n")[:-1]


def scanner(slots: Sequence[tuple[Kind, str]]) -> Scanner | None:
    """A scanner; None where there is no library, or one that does not know of these slots. Records are read without one, too."""
    try:
        return Scanner(slots)
    except ValueError:
        return None

"""Which keys of a dimension get panes of their own: first come, until there are too many; a silent one frees its place. Pure.

Keys are numbers in the kernel. A number means one key in all partitions of this process; whether a key has a place is decided
for each partition alone, in the order of its records, so every batching and every replay decides alike. Silence is counted
in days of event time: a key that was seen neither on the day of the watermark nor on the day before has lost its place, so
it keeps it for longer than the longest window, and one comparison tells.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tallyroll.events.names import OTHER_NAME

OTHER: Final = 0
NO_KEY: Final = -1
DAY_US: Final = 86_400_000_000
MAX_KEY_LENGTH: Final = 256  # a longer text is no name, and would be kept thousands of times
_UNKNOWN: Final = -2
_LONG_AGO: Final = -(10**9)


class KeyNames:
    """Numbers for keys, shared by the partitions: OTHER is ``__other__``, NO_KEY none."""

    def __init__(self) -> None:
        self.names: list[str] = [OTHER_NAME]
        # Of all partitions and tables, so that one look tells of all: a row each, by number the day on which the key was last seen.
        self.seen = np.full((1, 64), _LONG_AGO, np.int32)
        self._codes: dict[str | None, int] = {None: NO_KEY, "": NO_KEY, OTHER_NAME: OTHER}
        self._free: list[int] = []
        self._free_rows = [0]

    def __len__(self) -> int:
        return len(self.names) - len(self._free)

    def code(self, key: str) -> int:
        """The number of a key, ``_UNKNOWN`` if it has none."""
        return self._codes.get(key, _UNKNOWN)

    def add(self, key: str) -> int:
        """The number of a key, a new one if it has none."""
        code = self._codes.get(key)
        if code is None:
            if self._free:
                code = self._free.pop()
                self.names[code] = key
            else:
                code = len(self.names)
                self.names.append(key)
            self._codes[key] = code
        return code

    def are_seen(self, rows: NDArray[np.int32], codes: NDArray[np.int32], days: NDArray[np.int64]) -> bool:
        """Whether these keys, or what stands for none, were all seen in these rows on these days."""
        if (codes == _UNKNOWN).any():
            return False
        return bool(((self.seen[rows, codes] == days) | (codes <= OTHER)).all())

    def take_row(self) -> int:
        """A row of ``seen`` for the keys of one partition."""
        if not self._free_rows:
            count = len(self.seen)
            self._free_rows = list(range(2 * count - 1, count - 1, -1))
            self.seen = np.concatenate([self.seen, np.full_like(self.seen, _LONG_AGO)])
        return self._free_rows.pop()

    def give_row(self, row: int) -> None:
        """It is nobody's any more."""
        self.seen[row] = _LONG_AGO
        self._free_rows.append(row)

    def grow(self) -> None:
        """Makes room for every number there is."""
        missing = len(self.names) - self.seen.shape[1]
        if missing > 0:
            room = np.full((len(self.seen), max(missing, self.seen.shape[1])), _LONG_AGO, np.int32)
            self.seen = np.concatenate([self.seen, room], axis=1)

    def keep(self, held: NDArray[np.bool_], admitted: Iterable[AdmittedKeys]) -> None:
        """Gives numbers back that are not held; nobody but ``admitted`` may know them."""
        for code in np.flatnonzero(~held).tolist():
            key = self.names[code]
            if code != OTHER and self._codes.get(key) == code:
                del self._codes[key]
                self.names[code] = ""
                self._free.append(code)
        for keys in admitted:
            keys.forget(~held)


class AdmittedKeys:
    """The keys of one partition that have a place, by the day on which they were last seen."""

    def __init__(self, names: KeyNames, max_keys: int) -> None:
        self._names = names
        self._max_keys = max_keys
        self.row = names.take_row()
        self._held = 0
        self.day = _LONG_AGO
        self.changed = False

    @property
    def _seen(self) -> NDArray[np.int32]:
        seen: NDArray[np.int32] = self._names.seen[self.row]
        return seen

    def close(self) -> None:
        """Forgets everything; not to be used any more."""
        self._names.give_row(self.row)

    def places(
        self, names: Sequence[str], at: NDArray[np.int32], codes: NDArray[np.int32], watermarks_us: NDArray[np.int64]
    ) -> NDArray[np.int32]:
        """The number under which each record's values are counted: of its own key, OTHER, or NO_KEY; in record order.

        ``at`` are the places of the keys in ``names``, negative for none, and ``codes`` their numbers as ``KeyNames.code`` gives
        them; ``watermarks_us`` the largest event time at each record.
        """
        days = watermarks_us // DAY_US
        if days[0] == days[-1] == self.day:
            own = codes[codes > OTHER]
            if not (codes == _UNKNOWN).any() and (self._seen[own] == self.day).all():
                return codes
        bounds = [0, *(np.flatnonzero(np.diff(days)) + 1).tolist(), len(days)]
        return np.concatenate([self._on(int(days[start]), names, at[start:stop]) for start, stop in pairwise(bounds)])

    def _on(self, day: int, names: Sequence[str], at: NDArray[np.int32]) -> NDArray[np.int32]:
        """The numbers of one day's records. Within a day no place becomes free, so what a key's first record gets all get."""
        if day > self.day:
            self._begin(day)
        distinct, firsts, which = np.unique(at, return_index=True, return_inverse=True)
        places = np.empty(len(distinct), np.int32)
        for number in np.argsort(firsts).tolist():
            key = names[distinct[number]] if distinct[number] >= 0 else ""
            places[number] = self._place(self._names, key) if key else NO_KEY
        return places[which]

    def _begin(self, day: int) -> None:
        self.day = day
        self._held = int((self._seen >= day - 1).sum())
        self.changed = True

    def _place(self, names: KeyNames, key: str) -> int:
        code = names.code(key)
        if code == OTHER or len(key) > MAX_KEY_LENGTH:
            return OTHER
        held = code != _UNKNOWN and self._seen[code] >= self.day - 1
        if not held:
            if self._held >= self._max_keys:
                return OTHER
            code = names.add(key)
            names.grow()
            self._held += 1
        if self._seen[code] != self.day:
            self._seen[code] = self.day
            self.changed = True
        return code

    @property
    def count(self) -> int:
        """How many keys have a place."""
        return self._held

    def held(self) -> NDArray[np.intp]:
        """The numbers that have a place."""
        seen = self._seen[: len(self._names.names)]  # behind it is room
        return np.flatnonzero(seen >= self.day - 1) if self._held else np.empty(0, np.intp)

    def forget(self, codes: NDArray[np.bool_]) -> None:
        """These numbers will mean other keys."""
        self._seen[: len(codes)][codes] = _LONG_AGO

    def dump(self) -> tuple[int, Mapping[str, int]]:
        """The state as plain values: the day, and the last day of each key that has a place."""
        return self.day, {self._names.names[code]: int(self._seen[code]) for code in self.held().tolist()}

    def load(self, dumped: tuple[int, Mapping[str, int]]) -> None:
        """Sets new ones to what ``dump`` gave."""
        self.day, seen = dumped
        codes = [self._names.add(key) for key in seen]
        self._names.grow()
        self._seen[codes] = list(seen.values())
        self._held = len(codes)

"""The part of the compiled core that makes entries of plain records, seals them and builds the tree, where it is installed.

What it gives is byte for byte what is made without it: ``audit.sealing.deriving``, ``audit.ledger.chain`` and ``audit.ledger.tree`` are the
rule for all. Pure: no clock, no randomness, no I/O.
"""

from __future__ import annotations

import ctypes
import weakref
from array import array
from collections.abc import Sequence
from ctypes import byref, string_at
from struct import Struct
from typing import Final, NamedTuple

from tallyroll.compiled import POINTER, SIZE, Function, Places, library

ODD: Final = 0
UNLINKED: Final = 1
LINKED: Final = 2
FOLLOWS: Final = 3
STRAYS: Final = 4

_FUNCTIONS: Final[tuple[Function, ...]] = (  # names, results, arguments
    ("tr_deriver_new", POINTER, ctypes.c_char_p, SIZE),
    ("tr_deriver_free", None, POINTER),
    ("tr_deriver_learn", None, POINTER, ctypes.c_char_p, SIZE, ctypes.c_char_p, SIZE),
    ("tr_derive", ctypes.c_int64, POINTER, POINTER, POINTER, POINTER, SIZE, ctypes.c_char_p, SIZE, POINTER),
    ("tr_seal", ctypes.c_int64, POINTER, POINTER, SIZE, ctypes.c_char_p, POINTER, POINTER, SIZE, POINTER),
    ("tr_parents", None, ctypes.c_char_p, SIZE, POINTER),
)
_HASH: Final = Struct("32s")
_CORE: Final = 135  # bytes of a core without parts
_BLOCK: Final = 64
_BESIDE: Final = _CORE + 4 + 32  # what a record has beside its env: core, the length of the env, MAC
_ROOM: Final = 1 << 18  # bytes, to begin with
_INT: Final = array("i").itemsize
_FEW: Final = 8  # nodes: of fewer the parents are made sooner than asked for


class Entries(NamedTuple):
    """What was made of some records.

    ``fits`` says of each record what its entry says of its link: there is no entry (ODD); there is no link (UNLINKED); that it fits,
    which is still to be seen (LINKED); that it continues the record before it by its link (FOLLOWS), or by its number alone and is
    altered (STRAYS). The last two hold unless the first of these records is a repeated one. The others are about entries: the codes
    of their ``types``, their ``envs``, the payloads of their records, a line each; and in ``ids`` in turn their audit ids, both
    digests, agents, tasks and workflows. ``links`` are of those that are LINKED sessions, numbers and what they link to.
    """

    fits: bytes
    types: Sequence[int] = ()
    envs: Sequence[bytes] = ()
    ids: Sequence[str] = ()
    payloads: str = ""
    links: Sequence[str] = ()


_LONGEST: Final = 512


class _Out(ctypes.Structure):
    _fields_ = (
        ("fits", POINTER),
        ("kinds", POINTER),
        *((name, kind) for text in ("envs", "lines", "payloads", "links") for name, kind in ((text, POINTER), (f"{text}_length", SIZE))),
    )


class PlainDeriver:
    """Makes entries of plain records. What it is not told of is odd. Used by one thread at a time.

    Raises ValueError where there is no library; ``plain_deriver`` makes one where there is.
    """

    def __init__(self, mixed_with: bytes) -> None:
        found = library(_FUNCTIONS)
        if found is None:
            raise ValueError("the compiled core is not installed, or is another version's")
        self._library, self._places, self._out = found, Places(found), _Out()
        self._made = found.tr_deriver_new(mixed_with, len(mixed_with))
        self._names: list[str] = []
        self._types: list[str] = []
        self._told = 0
        weakref.finalize(self, found.tr_deriver_free, self._made)

    def tell_name(self, name: str) -> None:
        """The values of members with this name are nothing personal."""
        if _is_plain(name):
            self._names.append(name)

    def tell_type(self, *texts: str) -> int | None:
        """A type, with the category, the outcome, the severity and the action that follow from it. Its code; None where it stays odd."""
        if not all(map(_is_plain, texts)):
            return None
        self._types.append("\t".join(texts))
        self._told += 1
        return self._told - 1

    def derive(self, place: str, offsets: Sequence[int], values: Sequence[bytes | None]) -> Entries:
        """The entries of the records at ``place`` and these offsets. Raises ValueError where there are not as many of both."""
        if len(offsets) != len(values):
            raise ValueError("there are not as many offsets as records")
        self._tell()
        records, out, where = list(values) if None not in values else [value or b"" for value in values], self._out, place.encode()
        count = self._places.find(records) if _is_plain(place) else 0
        at = array("q", offsets)
        made: int = self._library.tr_derive(
            self._made, self._places.starts, self._places.lengths, at.buffer_info()[0], count, where, len(where), byref(out)
        )
        if made <= 0:
            return Entries(bytes(len(values)))
        return Entries(
            string_at(out.fits, count) + bytes(len(values) - count),
            array("i", string_at(out.kinds, made * _INT)),
            string_at(out.envs, out.envs_length).split(b"\n")[:-1],
            _lines(out.lines, out.lines_length),
            string_at(out.payloads, out.payloads_length).decode(),
            _lines(out.links, out.links_length),
        )

    def _tell(self) -> None:
        if self._names or self._types:
            names, types = ("".join(f"{line}\n" for line in lines).encode() for lines in (self._names, self._types))
            self._library.tr_deriver_learn(self._made, names, len(names), types, len(types))
            self._names, self._types = [], []


def plain_deriver(mixed_with: bytes) -> PlainDeriver | None:
    """One, or None where there is no library: entries are made without it, too."""
    return None if library(_FUNCTIONS) is None else PlainDeriver(mixed_with)


class RunSealer:
    """Seals entries without parts, one behind the other. Used by one thread at a time.

    ``run_sealer`` makes one where there is a library.
    """

    def __init__(self, found: ctypes.CDLL) -> None:
        self._library, self._places, self._packed = found, Places(found), bytearray(_ROOM)

    def seal(self, envs: list[bytes], core: bytes, key: bytearray) -> tuple[list[bytes], list[bytes]]:
        """The records as they are stored, and their leaves. ``core`` is the first one's, whatever it says of the hash of its env.

        ``key`` is the MAC key, filled up to a block. Raises ValueError for envs and numbers that no record can have.
        """
        count = self._places.find(envs)
        if count != len(envs) or len(core) != _CORE or len(key) != _BLOCK:
            raise ValueError("an env is no bytes, or core or key are of another length")
        sizes = [len(env) + _BESIDE for env in envs]
        if (room := sum(sizes)) > len(self._packed):
            self._packed = bytearray(room)
        leaves = bytearray(count * _HASH.size)
        done = self._library.tr_seal(self._places.starts, self._places.lengths, count, core, _at(key), _at(self._packed), room, _at(leaves))
        if not done:
            raise ValueError("there is an env, or a number, that no record can have")
        return list(Struct("%ds" * count % tuple(sizes)).unpack_from(self._packed)), _hashes(leaves)


def run_sealer() -> RunSealer | None:
    """One, or None where there is no library: entries are sealed without it, too."""
    found = library(_FUNCTIONS)
    return None if found is None else RunSealer(found)


def parents(nodes: Sequence[bytes]) -> list[bytes] | None:
    """The parents of nodes that stand beside each other, the first of them a left one. None where that is no use."""
    found = library(_FUNCTIONS) if len(nodes) >= _FEW else None
    if found is None:
        return None
    joined, made = b"".join(nodes), bytearray(len(nodes) // 2 * _HASH.size)
    if len(joined) != len(nodes) * _HASH.size:  # a store was tampered with: what comes of it fits no checkpoint, whoever computes it
        return None
    found.tr_parents(joined, len(nodes), _at(made))
    return _hashes(made)


def _at(room: bytearray) -> object:
    return byref(ctypes.c_char.from_buffer(room))


def _lines(start: int, length: int) -> list[str]:
    """Texts that have a line end behind each. One decoding and one split: to cut out each takes four times as long."""
    return string_at(start, length).decode().split("\n")[:-1]


def _hashes(room: bytearray) -> list[bytes]:
    return [one for (one,) in _HASH.iter_unpack(room)]


def _is_plain(text: str) -> bool:
    """Whether it stands in JSON as it is, on one line, and is no longer than names are: strangers choose them, and the core keeps them."""
    return len(text) <= _LONGEST and text.isprintable() and '"' not in text and "\\" not in text

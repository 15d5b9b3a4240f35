"""Reading what may be hostile: files, frames, JSON and base64, each with its bound. Nothing here raises on any content."""

from __future__ import annotations

import json
import lzma
import mmap
import re
import struct
import zipfile
import zlib
from array import array
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

from .report import Findings

Buffer: TypeAlias = "bytes | mmap.mmap"

MAGIC: Final = b"AUD1\x01"
CORE: Final = 135
PART: Final = 61
ABSENT: Final = 0xFFFF_FFFF
REGISTRY: Final = 65_535
META: Final = 65_534
MAX_JSON: Final = 1 << 20
MAX_ZIPPED: Final = 1 << 32  # bytes that a zip may unpack to, all files together; a folder is not copied, and has no bound
MAX_MEMBERS: Final = 4 * 65_536
_DIGITS: Final = 20
_U32: Final = struct.Struct(">I")
_HEADER: Final = struct.Struct(">8sHQB")
_NAME: Final = re.compile(r"(?:[0-9]{5}\.(?:records|notes|proofs)|meta\.(?:leaves|notes|proofs))")
_ZIP_ERRORS: Final = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError, ValueError, RuntimeError, struct.error)


class Header(NamedTuple):
    """How a file of records or leaves begins: what was pruned before it, and where the first frame is."""

    partition: int
    start: int
    peaks: tuple[bytes, ...]
    at: int


class Scan(NamedTuple):
    """A walk over the frames of a file: how many are whole, where those are that do not hold entries, and the last one."""

    header: Header
    whole: int
    controls: array[int]
    last: int


def read_folder(path: Path, findings: Findings) -> dict[str, Buffer]:
    """The files of an exported folder, mapped into memory."""
    files: dict[str, Buffer] = {}
    for entry in sorted(path.iterdir()):
        if not _NAME.fullmatch(entry.name) or not entry.is_file():
            findings.add("unknown_file", detail=entry.name[:80])
            continue
        try:
            with entry.open("rb") as file:
                files[entry.name] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if entry.stat().st_size else b""
        except (OSError, ValueError) as error:
            findings.add("archive", detail=f"{entry.name}: {type(error).__name__}")
    return files


def read_zip(path: Path, findings: Findings) -> dict[str, Buffer]:
    """The files of an exported zip, unpacked into memory up to a bound, whatever the sizes it declares."""
    files: dict[str, Buffer] = {}
    left = MAX_ZIPPED
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist()[:MAX_MEMBERS]:
                name = info.filename
                if not _NAME.fullmatch(name):
                    findings.add("unknown_file", detail=name[:80])
                    continue
                with archive.open(info) as member:
                    content = member.read(left + 1)
                left -= len(content)
                if left < 0 or name in files:
                    findings.add("archive", detail=f"{name}: {'more than fits' if left < 0 else 'twice in the zip'}")
                    break
                files[name] = content
    except _ZIP_ERRORS as error:
        findings.add("archive", detail=f"the zip cannot be read: {type(error).__name__}")
    return files


def header_of(buffer: Buffer, magic: bytes) -> Header | None:
    """How the file begins, or None for another kind of file."""
    if len(buffer) < _HEADER.size or buffer[:8] != magic:
        return None
    _, partition, start, n_peaks = _HEADER.unpack_from(buffer)
    at = _HEADER.size + 32 * n_peaks
    if len(buffer) < at or n_peaks != start.bit_count():
        return None
    return Header(partition, start, tuple(buffer[place : place + 32] for place in range(_HEADER.size, at, 32)), at)


def scan(buffer: Buffer, header: Header) -> Scan:
    """Counts the whole frames. What comes after the last one is left alone: a file may be read while it grows."""
    at, end, count, last = header.at, len(buffer), 0, -1
    controls = array("Q")
    unpack = _U32.unpack_from
    while at + 4 <= end:
        stop = at + 4 + unpack(buffer, at)[0]
        if stop > end or stop - at < 4 + CORE + 36:
            break
        if buffer[at + 9]:
            controls.extend((header.start + count, at + 4))
        last, at, count = at + 4, stop, count + 1
    return Scan(header, count, controls, last)


def split(buffer: Buffer, at: int, end: int) -> tuple[bytes, bytes | None, list[bytes | None], bytes] | None:
    """One record: core, env, parts, MAC. None if its lengths do not fit between ``at`` and ``end``."""
    cut = at + CORE + PART * buffer[at + 70]
    if cut > end:
        return None
    core = buffer[at:cut]
    bodies: list[bytes | None] = []
    unpack = _U32.unpack_from
    for _ in range(core[70] + 1):
        if cut + 4 > end:
            return None
        length = unpack(buffer, cut)[0]
        cut += 4
        if length == ABSENT:
            bodies.append(None)
            continue
        stop = cut + length
        if stop > end:
            return None
        bodies.append(buffer[cut:stop])
        cut = stop
    if end - cut != 32:
        return None
    env = bodies[0]
    del bodies[0]
    return core, env, bodies, buffer[cut:end]


def frames(buffer: Buffer, at: int) -> Iterator[bytes | None]:
    """The frames from ``at`` on; None, and then nothing, for a rest that is none."""
    end = len(buffer)
    while at < end:
        stop = at + 4 + (_U32.unpack_from(buffer, at)[0] if at + 4 <= end else end)
        if stop > end:
            yield None
            return
        yield buffer[at + 4 : stop]
        at = stop


def control_at(buffer: Buffer, at: int) -> tuple[bytes, object] | None:
    """Core and env of the record at ``at``, if it can be read."""
    found = split(buffer, at, at + _U32.unpack_from(buffer, at - 4)[0])
    if found is None or found[1] is None:
        return None
    return found[0], read_json(found[1])


def read_json(raw: bytes) -> object:
    """A JSON value without duplicate keys, endless numbers or endless nesting; None where it is not one, as for ``null``."""
    if len(raw) > MAX_JSON:
        return None
    try:
        value: object = json.loads(raw, object_pairs_hook=_unique, parse_int=_integer, parse_float=_no, parse_constant=_no)
    except (ValueError, RecursionError):
        return None
    return value


def base64_of(text: str) -> bytes | None:
    """The bytes of canonical base64, else None: two texts must not mean the same bytes."""
    try:
        raw = b64decode(text.encode("ascii"), validate=True)
    except ValueError:
        return None
    return raw if b64encode(raw).decode() == text else None


def _unique(pairs: list[tuple[str, object]]) -> Mapping[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found


def _integer(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError
    return int(digits)


def _no(_: str) -> object:
    raise ValueError

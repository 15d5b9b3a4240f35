"""Random corruption of an exported ledger: what a disk, a transfer or a clumsy hand could do, in one place of one file.

A verifier must answer every result with a report, and never with the one that it gives for the untouched export.
Deterministic per seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from random import Random
from typing import Final, NamedTuple

MAX_SPAN: Final = 64
_LENGTHS: Final = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\x01")


class Corrupted(NamedTuple):
    """An export with one change in it, and what that change is."""

    files: dict[str, bytes]
    what: str


def corruptions(files: Mapping[str, bytes], seed: int) -> Iterator[Corrupted]:
    """Endlessly many, each made from the untouched export."""
    draw = Random(seed)  # noqa: S311  # to be repeated, not to be kept secret
    names = sorted(name for name, raw in files.items() if _framed(raw)[1])  # one without frames has little to corrupt
    while True:
        change = draw.choice(_CHANGES)
        name = draw.choice(names)
        changed = change(dict(files), name, draw)
        if changed != files:
            yield Corrupted(changed, f"{change.__name__.lstrip('_')} in {name}")


def _flip_bit(files: dict[str, bytes], name: str, draw: Random) -> dict[str, bytes]:
    raw = bytearray(files[name])
    raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
    return {**files, name: bytes(raw)}


def _overwrite(files: dict[str, bytes], name: str, draw: Random) -> dict[str, bytes]:
    raw, at = files[name], draw.randrange(len(files[name]))
    stop = min(len(raw), at + draw.randrange(1, MAX_SPAN))
    return {**files, name: raw[:at] + draw.randbytes(stop - at) + raw[stop:]}


def _overwrite_length(files: dict[str, bytes], name: str, draw: Random) -> dict[str, bytes]:
    raw, at = files[name], draw.randrange(len(files[name]))
    return {**files, name: raw[:at] + draw.choice(_LENGTHS) + raw[at + 4 :]}


def _delete(files: dict[str, bytes], name: str, draw: Random) -> dict[str, bytes]:
    raw, at = files[name], draw.randrange(len(files[name]))
    return {**files, name: raw[:at] + raw[at + draw.randrange(1, MAX_SPAN) :]}


def _insert(files: dict[str, bytes], name: str, draw: Random) -> dict[str, bytes]:
    raw, at = files[name], draw.randrange(len(files[name]) + 1)
    return {**files, name: raw[:at] + draw.randbytes(draw.randrange(1, MAX_SPAN)) + raw[at:]}


def _truncate(files: dict[str, bytes], name: str, draw: Random) -> dict[str, bytes]:
    return {**files, name: files[name][: draw.randrange(len(files[name]))]}


def _lose_a_file(files: dict[str, bytes], name: str, _: Random) -> dict[str, bytes]:
    del files[name]
    return files


def _exchange_files(files: dict[str, bytes], name: str, draw: Random) -> dict[str, bytes]:
    other = draw.choice(sorted(files))
    return {**files, name: files[other], other: files[name]}


def _lose_a_frame(files: dict[str, bytes], name: str, draw: Random) -> dict[str, bytes]:
    head, frames = _framed(files[name])
    del frames[draw.randrange(len(frames))]
    return {**files, name: head + b"".join(frames)}


def _repeat_a_frame(files: dict[str, bytes], name: str, draw: Random) -> dict[str, bytes]:
    head, frames = _framed(files[name])
    frames.insert(draw.randrange(len(frames)), draw.choice(frames))
    return {**files, name: head + b"".join(frames)}


def _exchange_frames(files: dict[str, bytes], name: str, draw: Random) -> dict[str, bytes]:
    head, frames = _framed(files[name])
    first, second = draw.randrange(len(frames)), draw.randrange(len(frames))
    frames[first], frames[second] = frames[second], frames[first]
    return {**files, name: head + b"".join(frames)}


def _take_a_frame_from_elsewhere(files: dict[str, bytes], name: str, draw: Random) -> dict[str, bytes]:
    head, frames = _framed(files[name])
    _, others = _framed(files[draw.choice(sorted(name for name, raw in files.items() if _framed(raw)[1]))])
    frames[draw.randrange(len(frames))] = draw.choice(others)
    return {**files, name: head + b"".join(frames)}


def _framed(raw: bytes) -> tuple[bytes, list[bytes]]:
    """What stands before the first frame, and the frames with their lengths."""
    start = at = 8 if raw[4:7] in (b"NOT", b"PRF") else 19 + 32 * raw[18]
    frames = []
    while at < len(raw):
        stop = at + 4 + int.from_bytes(raw[at : at + 4])
        frames.append(raw[at:stop])
        at = stop
    return raw[:start], frames


_CHANGES: Final[tuple[Callable[[dict[str, bytes], str, Random], dict[str, bytes]], ...]] = (
    _flip_bit, _flip_bit, _flip_bit, _overwrite, _overwrite_length, _delete, _insert, _truncate, _lose_a_file, _exchange_files,
    _lose_a_frame, _repeat_a_frame, _exchange_frames, _take_a_frame_from_elsewhere,
)  # fmt: skip

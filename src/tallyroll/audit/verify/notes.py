"""Signed notes, read and checked: c2sp.org/signed-note, tlog-checkpoint, tlog-cosignature."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from typing import Final, NamedTuple

from .reading import base64_of
from .trust import Checkpoint

CheckSignature = Callable[[bytes, bytes, bytes], bool]
"""(public key, message, signature) -> whether it is an Ed25519 signature."""

ED25519: Final = 1
COSIGNATURE: Final = 4
MAX_NOTE: Final = 1 << 18
MAX_LINES: Final = 64
_DASH: Final = "\N{EM DASH} "
_NAME: Final = re.compile(r"[^\s+]+")
_SIZE: Final = re.compile(r"0|[1-9][0-9]{0,18}")


class Key(NamedTuple):
    """A trusted key: of the log (type 1) or of a witness (type 4)."""

    name: str
    key_id: bytes
    kind: int
    public: bytes


class Note(NamedTuple):
    """A text and its signature lines as (name, key id, signature)."""

    text: str
    lines: tuple[tuple[str, bytes, bytes], ...]


def parse_key(text: str) -> Key | None:
    """A key from ``NAME+ID+BASE64``, or None; also where its id is not its own."""
    name, _, rest = text.strip().partition("+")
    shown, _, encoded = rest.partition("+")
    raw = base64_of(encoded)
    if not _NAME.fullmatch(name) or raw is None or len(raw) != 33 or raw[0] not in (ED25519, COSIGNATURE):
        return None
    key_id = sha256(name.encode() + b"\n" + raw).digest()[:4]
    return Key(name, key_id, raw[0], raw[1:]) if shown == key_id.hex() else None


def parse_note(raw: bytes) -> Note | None:
    """A note, or None for bytes that are none."""
    try:
        whole = raw.decode() if len(raw) <= MAX_NOTE else ""
    except UnicodeDecodeError:
        return None
    text, found, below = whole.rpartition("\n\n")
    if not found or not below.endswith("\n") or any(character < " " and character != "\n" for character in whole):
        return None
    lines: list[tuple[str, bytes, bytes]] = []
    for line in below[:-1].split("\n")[: MAX_LINES + 1]:
        name, _, encoded = line.removeprefix(_DASH).partition(" ")
        body = base64_of(encoded)
        if not line.startswith(_DASH) or not _NAME.fullmatch(name) or body is None or len(body) < 5 or len(lines) == MAX_LINES:
            return None
        lines.append((name, body[:4], body[4:]))
    return Note(text + "\n", tuple(lines))


def parse_checkpoint(text: str) -> Checkpoint | None:
    """Origin, size and root of a note's text, or None. Further lines are allowed and say nothing."""
    lines = text.split("\n")
    if len(lines) < 4 or lines[-1] or not all(lines[:-1]) or not _SIZE.fullmatch(lines[1]):
        return None
    root = base64_of(lines[2])
    return Checkpoint(lines[0], int(lines[1]), root) if root is not None and len(root) == 32 else None


def signers(note: Note, keys: Iterable[Key], check: CheckSignature) -> tuple[set[Key], bool]:
    """Which of the keys signed the note, and whether a line under one of their names does not hold. Unknown keys are ignored."""
    known = {(key.name, key.key_id): key for key in keys}
    good, bad = set(), False
    for name, key_id, body in note.lines:
        key = known.get((name, key_id))
        if key is not None:
            if _holds(note.text, key, body, check):
                good.add(key)
            else:
                bad = True
    return good, bad


def keys_of(texts: Sequence[str], kind: int) -> list[Key] | None:
    """The keys of these texts, or None if one is no key of that type."""
    keys = [parse_key(text) for text in texts]
    found = [key for key in keys if key is not None and key.kind == kind]
    return found if len(found) == len(keys) else None


def _holds(text: str, key: Key, body: bytes, check: CheckSignature) -> bool:
    if key.kind == ED25519:
        return check(key.public, text.encode(), body)
    if len(body) != 72:
        return False
    time_s = int.from_bytes(body[:8])
    return time_s < 1 << 63 and check(key.public, f"cosignature/v1\ntime {time_s}\n{text}".encode(), body[8:])

"""Signed notes and checkpoints, as c2sp.org/signed-note, tlog-checkpoint and tlog-cosignature describe them.

A note is a text and signature lines under it. A checkpoint is a note of three lines: origin, size, root. The origin of a
ledger's checkpoint over all partitions is its name and log id, ``example.com/audit/HEX``; that of one partition has
``/NUMBER`` behind it. Pure: signatures are made and checked by whoever is given (ports ``Signer`` and ``Checker``).

Not promised: that a note which can be read was signed by anybody.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from typing import Final, NamedTuple

from tallyroll.errors import Undecodable
from tallyroll.ports import Signer

ED25519: Final = 1
COSIGNATURE: Final = 4
MAX_NOTE: Final = 1 << 18
MAX_LINES: Final = 64  # signature lines; sixteen have to be accepted
_DASH: Final = "\N{EM DASH} "
_NAME: Final = re.compile(r"[^\s+]+")
_SIZE: Final = re.compile(r"0|[1-9][0-9]{0,18}")
_COSIGNATURE_BYTES: Final = 72

Checker = Callable[[bytes, bytes, bytes], bool]
"""(public key, message, signature) -> whether it is an Ed25519 signature of the message."""


class NoteKey(NamedTuple):
    """A public key that signs notes: its name, the type of its signatures, and 32 bytes of Ed25519."""

    name: str
    kind: int
    public: bytes

    @property
    def key_id(self) -> bytes:
        """The four bytes that stand before every signature of the key."""
        return sha256(self.name.encode() + b"\n" + bytes((self.kind,)) + self.public).digest()[:4]

    def __str__(self) -> str:
        """The key as text, in the form ``NAME+ID+BASE64``."""
        return f"{self.name}+{self.key_id.hex()}+{b64encode(bytes((self.kind,)) + self.public).decode()}"

    @classmethod
    def parse(cls, text: str) -> NoteKey:
        """The key that ``str`` wrote. Raises Undecodable, also where the id is not that of the key."""
        name, _, rest = text.strip().partition("+")
        shown, _, encoded = rest.partition("+")
        raw = _decode(encoded)
        if not _NAME.fullmatch(name) or raw is None or len(raw) != 33 or raw[0] not in (ED25519, COSIGNATURE):  # noqa: PLR2004  # type and key
            raise Undecodable("note-key", "not NAME+ID+BASE64 of an Ed25519 key")
        key = cls(name, raw[0], raw[1:])
        if shown != key.key_id.hex():
            raise Undecodable("note-key", "its id is that of another key")
        return key


class Signature(NamedTuple):
    """One signature line."""

    name: str
    key_id: bytes
    body: bytes

    def line(self) -> str:
        """As it stands under a note, with its newline."""
        return f"{_DASH}{self.name} {b64encode(self.key_id + self.body).decode()}\n"


class Note(NamedTuple):
    """A text, which ends with a newline, and what was signed under it."""

    text: str
    signatures: tuple[Signature, ...]

    def packed(self) -> bytes:
        """The note as it is stored and sent."""
        return f"{self.text}\n{''.join(signature.line() for signature in self.signatures)}".encode()

    def signed_by(self, key: NoteKey, check: Checker) -> bool:
        """Whether the key signed the text; a cosigning key signs it with a time before it."""
        return any(
            signature.name == key.name and signature.key_id == key.key_id and _holds(self.text, key, signature.body, check)
            for signature in self.signatures
        )


class Checkpoint(NamedTuple):
    """How long a tree is, and its root."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """The three lines."""
        return f"{self.origin}\n{self.size}\n{b64encode(self.root).decode()}\n"

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """The checkpoint of a note's text; lines behind the third are ignored. Raises Undecodable."""
        lines = text.split("\n")
        if len(lines) < 4 or lines[-1] or not all(lines[:-1]) or not _SIZE.fullmatch(lines[1]):  # noqa: PLR2004  # three, each with its end
            raise Undecodable("checkpoint", "not an origin, a size and a root")
        root = _decode(lines[2])
        if root is None or len(root) != 32:  # noqa: PLR2004  # SHA-256
            raise Undecodable("checkpoint", "its root is no SHA-256")
        return cls(lines[0], int(lines[1]), root)


def origin_of(ledger: str, partition: int) -> str:
    """The origin of one partition's checkpoints."""
    return f"{ledger}/{partition}"


def sign(text: str, signers: Iterable[Signer]) -> Note:
    """The text, signed by each."""
    lines = []
    for signer in signers:
        key = NoteKey(signer.name, ED25519, signer.public)
        lines.append(Signature(key.name, key.key_id, signer.sign(text.encode())))
    return Note(text, tuple(lines))


def cosign(text: str, signer: Signer, time_s: int) -> Signature:
    """A witness's line under a checkpoint, as of a moment in seconds since 1970."""
    key = NoteKey(signer.name, COSIGNATURE, signer.public)
    return Signature(key.name, key.key_id, time_s.to_bytes(8) + signer.sign(cosigned(text, time_s)))


def cosigned(text: str, time_s: int) -> bytes:
    """What a cosignature/v1 signs."""
    return f"cosignature/v1\ntime {time_s}\n{text}".encode()


def cosignature_in(raw: bytes) -> Signature:
    """The signature line that a witness answers with. Raises Undecodable."""
    try:
        found = list(_signatures(raw.decode().removesuffix("\n").split("\n")))
    except UnicodeDecodeError:
        raise Undecodable("note", "not UTF-8") from None
    if len(found) != 1:
        raise Undecodable("note", "not one signature")
    return found[0]


def parse(raw: bytes) -> Note:
    """A note, read. Raises Undecodable; which keys signed it is another question."""
    if len(raw) > MAX_NOTE:
        raise Undecodable("note", "too long")
    try:
        whole = raw.decode()
    except UnicodeDecodeError:
        raise Undecodable("note", "not UTF-8") from None
    text, found, lines = whole.rpartition("\n\n")
    if not found or not lines.endswith("\n") or any(character < " " and character != "\n" for character in whole):
        raise Undecodable("note", "not a text, an empty line and signatures")
    return Note(f"{text}\n", tuple(_signatures(lines[:-1].split("\n"))))


def _signatures(lines: Sequence[str]) -> Iterable[Signature]:
    if len(lines) > MAX_LINES:
        raise Undecodable("note", "too many signatures")
    for line in lines:
        name, _, encoded = line.removeprefix(_DASH).partition(" ")
        raw = _decode(encoded)
        if not line.startswith(_DASH) or not _NAME.fullmatch(name) or raw is None or len(raw) < 5:  # noqa: PLR2004  # an id and something
            raise Undecodable("note", "a line that is no signature")
        yield Signature(name, raw[:4], raw[4:])


def _holds(text: str, key: NoteKey, body: bytes, check: Checker) -> bool:
    if key.kind == ED25519:
        return check(key.public, text.encode(), body)
    return len(body) == _COSIGNATURE_BYTES and check(key.public, cosigned(text, int.from_bytes(body[:8])), body[8:])


def _decode(text: str) -> bytes | None:
    """Base64 that is written in the one canonical way, else None: two texts must not mean the same bytes."""
    try:
        raw = b64decode(text.encode("ascii"), validate=True)
    except ValueError:
        return None
    return raw if b64encode(raw).decode() == text else None

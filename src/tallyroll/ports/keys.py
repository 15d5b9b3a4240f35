"""Keys: encryption, signatures, and the ring that keeps and destroys what they need."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple, Protocol


class Cipher(Protocol):
    """Authenticated encryption, the primitive: AES-256-GCM. Whoever calls it chooses keys and nonces, and answers for them.

    Not promised: to notice that a nonce is used twice under one key, which gives both texts away. No repr, log or error
    of an implementation holds a key or a text.
    """

    def seal(self, key: bytes, nonce: bytes, plain: bytes, aad: bytes) -> bytes:
        """The ciphertext with its 16-byte tag. ``key`` is 32 bytes, ``nonce`` 12, used once under the key."""

    def open(self, key: bytes, nonce: bytes, sealed: bytes, aad: bytes) -> bytes:
        """The text. Raises SealBroken for another key, place or ciphertext than was sealed."""


class Signer(Protocol):
    """Signs checkpoints with Ed25519. Not promised: that the key can be had; it may never leave its device."""

    @property
    def name(self) -> str:
        """The key's name in signature lines, the origin of the ledger it signs for."""

    @property
    def public(self) -> bytes:
        """The public key, 32 bytes."""

    def sign(self, message: bytes) -> bytes:
        """64 bytes."""


class Enrolment(NamedTuple):
    """What a writer is given for one epoch: who it is, its first MAC key, and the token that admits it to the registry.

    ``opened_us`` is when the epoch began; MAC epochs count seconds from there.
    """

    writer: bytes
    epoch: int
    k0: bytes
    token: str
    opened_us: int

    def __repr__(self) -> str:
        """Without the key and the token."""
        return f"Enrolment(writer={self.writer.hex()}, epoch={self.epoch})"


class DataKey(NamedTuple):
    """The key under which one subject's parts are sealed, 32 random bytes, and the handle that stands for it, 16 random bytes."""

    handle: bytes
    key: bytes

    def __repr__(self) -> str:
        """Without the key."""
        return f"DataKey({self.handle.hex()})"


class KeyRing(Protocol):
    """Keeps the keys of one ledger: first MAC keys of writer epochs, and the data keys of subjects.

    Durable: what a call gives or destroys is on disk before it returns, and several processes see one and the same ring.
    Every method raises KeyRingUnavailable where the ring cannot be read or written; no repr, log or error holds a key or a
    subject's name.
    Not promised: that bytes of a destroyed key are overwritten on the medium, or in the memory of who asked for it; that a
    backup made elsewhere forgets it before the next ``rotate``.
    """

    def enrol(self, opened_us: int, *, writer: bytes | None = None, after: int = 0) -> Enrolment:
        """A writer epoch that was never given before, also not before a crash or a restore of a backup.

        A new writer, or the next epoch of ``writer`` where the ring knows it; above ``after``, the newest one the caller knows.
        """

    def admits(self, writer: bytes, epoch: int, token: str) -> bool:
        """Whether the token is the one that this epoch was enrolled with."""

    def k0(self, writer: bytes, epoch: int) -> bytes:
        """The first MAC key of an epoch, for who verifies. Raises KeyGone for one that was not enrolled."""

    def subjects(self, names: Sequence[str]) -> Sequence[DataKey]:
        """The data keys of these subjects, in their order; drawn at random where there is none. Many at once cost as one."""

    def draw(self, count: int) -> Sequence[DataKey]:
        """New data keys of nobody known, for parts that can be shredded singly. Many at once cost as one."""

    def group(self, members: Collection[bytes]) -> bytes:
        """The handle of what concerns several subjects: the same for the same handles. Raises KeyGone for an unknown one."""

    def members(self, group: bytes) -> Sequence[bytes]:
        """The handles of a group. Raises KeyGone as soon as one of them is destroyed."""

    def groups_with(self, handle: bytes) -> Sequence[bytes]:
        """The handles of the groups that this one is a member of, sorted."""

    def key(self, handle: bytes) -> bytes:
        """The data key behind a handle. Raises KeyGone where it was destroyed, or never was."""

    def missing(self, handles: Collection[bytes]) -> Sequence[bytes]:
        """Those of these handles under which nothing opens here: no key, or a group that has lost one. Many at once cost as one."""

    def handle_of(self, name: str) -> bytes | None:
        """The handle of a subject, if it has a key. Draws none."""

    def destroy(self, handles: Collection[bytes]) -> Sequence[bytes]:
        """Destroys these data keys for good; returns every handle that died, those of their groups included, sorted.

        A handle that is gone already, or was never here, stays gone: an erasure can be done again after a restore.
        """

    def destructions(self) -> bytes:
        """Another answer than any before as soon as data keys were destroyed since: who holds keys asks it about once a second.

        Cheap, however large the ring. It may change without that.
        """

    def rotate(self) -> int:
        """Seals the ring under a new key and destroys the old one: copies of it made before cannot be read any more.

        What the ring still holds stays as it is, so old entries stay readable. Returns the number of the new key.
        """

    def close(self) -> None:
        """Forgets what is in memory. Idempotent."""

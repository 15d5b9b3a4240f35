"""AES-256-GCM and Ed25519, from the library ``cryptography``."""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tallyroll.errors import SealBroken

KEY_BYTES: Final = 32
_CACHED: Final = 4_096  # prepared keys, some 2 KB each; preparing one costs as much as sealing a short text


class AesGcm:
    """Implements ``ports.Cipher``. Keeps prepared keys, the newest ones: ``forget`` drops one that must not live on.

    Not promised: that a forgotten key is overwritten in memory; Python does not say when. Nor thread-safety.
    """

    def __init__(self) -> None:
        self._prepared: dict[bytes, AESGCM] = {}

    def seal(self, key: bytes, nonce: bytes, plain: bytes, aad: bytes) -> bytes:
        cipher = self._prepared.get(key)
        return (self._prepare(key) if cipher is None else cipher).encrypt(nonce, plain, aad)

    def open(self, key: bytes, nonce: bytes, sealed: bytes, aad: bytes) -> bytes:
        try:
            return (self._prepared.get(key) or self._prepare(key)).decrypt(nonce, sealed, aad)
        except InvalidTag:
            raise SealBroken from None

    def forget(self, key: bytes) -> None:
        """Drops a prepared key."""
        self._prepared.pop(key, None)

    def _prepare(self, key: bytes) -> AESGCM:
        if len(key) != KEY_BYTES:
            raise ValueError("a key of 32 bytes is needed")  # AESGCM would take 16 and be AES-128
        if len(self._prepared) >= _CACHED:
            del self._prepared[next(iter(self._prepared))]
        cipher = self._prepared[key] = AESGCM(key)
        return cipher


class Ed25519Signer:
    """Implements ``ports.Signer`` with a key in memory, made from its 32-byte seed.

    Not promised: protection against who can read the process's memory; a device does that.
    """

    def __init__(self, name: str, seed: bytes) -> None:
        self._name = name
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self._public = self._key.public_key().public_bytes_raw()

    @property
    def name(self) -> str:
        return self._name

    @property
    def public(self) -> bytes:
        return self._public

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message)


def is_signed(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether it is the key's Ed25519 signature of the message; false also for what is no key at all."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True

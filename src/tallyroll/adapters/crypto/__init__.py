"""Cryptography: sealing, signatures, keys. Needs the extra ``audit``."""

from tallyroll.adapters.crypto.key_ring import FileKeyRing, Root, SecretRoot, restore
from tallyroll.adapters.crypto.primitives import AesGcm, Ed25519Signer, is_signed
from tallyroll.adapters.crypto.remote_ring import RemoteKeyRing, RingKeeper
from tallyroll.adapters.crypto.secret_file import secret_in

__all__ = [
    "AesGcm",
    "Ed25519Signer",
    "FileKeyRing",
    "RemoteKeyRing",
    "RingKeeper",
    "Root",
    "SecretRoot",
    "is_signed",
    "restore",
    "secret_in",
]

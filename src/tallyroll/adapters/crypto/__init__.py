"""Cryptography: sealing, signatures, keys. Needs the extra ``audit``."""

from tallyroll.adapters.crypto.key_ring import FileKeyRing, restore
from tallyroll.adapters.crypto.primitives import AesGcm, Ed25519Signer, is_signed

__all__ = ["AesGcm", "Ed25519Signer", "FileKeyRing", "is_signed", "restore"]

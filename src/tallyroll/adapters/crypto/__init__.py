"""Cryptography: sealing, signatures. Needs the extra ``audit``."""

from tallyroll.adapters.crypto.primitives import AesGcm, Ed25519Signer, is_signed

__all__ = ["AesGcm", "Ed25519Signer", "is_signed"]

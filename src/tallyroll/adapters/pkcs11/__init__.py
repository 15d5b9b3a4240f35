"""Root keys and checkpoint keys that never leave a token: any device, or SoftHSM2, that speaks PKCS#11."""

from tallyroll.adapters.pkcs11.token import Pkcs11Root, Pkcs11Signer, Pkcs11Token
from tallyroll.adapters.pkcs11.uri import TokenUri

__all__ = ["Pkcs11Root", "Pkcs11Signer", "Pkcs11Token", "TokenUri"]

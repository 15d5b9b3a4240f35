"""The address of a token, after RFC 7512: ``pkcs11:token=audit;object=tallyroll?module-path=…&pin-source=file:/run/secrets/pin``."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import unquote

from tallyroll.errors import SettingsError

_SCHEME: Final = "pkcs11:"
_PATH: Final = frozenset({"token", "object"})
_QUERY: Final = frozenset({"module-path", "pin-source"})


class TokenUri(NamedTuple):
    """Which library, which token, what its keys are called, and the file that holds the PIN."""

    module: Path
    token: str
    label: str
    pin_file: Path

    @classmethod
    def parse(cls, text: str, setting: str = "AUDIT_KEYRING") -> TokenUri:
        """The address in a text. Raises SettingsError; a PIN in the text is refused, since settings are shown."""
        path, _, query = text.removeprefix(_SCHEME).partition("?")
        if not text.startswith(_SCHEME):
            raise SettingsError(setting, "begins with pkcs11:")
        if "pin-value" in query:
            raise SettingsError(setting, "takes no PIN; put it into a file of mode 0600 and name that: pin-source=file:/path")
        fields = {**_pairs(path, ";", _PATH, setting), **_pairs(query, "&", _QUERY, setting)}
        missing = sorted({"token", *_QUERY} - set(fields))
        if missing:
            raise SettingsError(setting, f"needs {', '.join(missing)}, as in pkcs11:token=NAME?module-path=/lib.so&pin-source=file:/path")
        pin_file = Path(fields["pin-source"].removeprefix("file:"))
        return cls(Path(fields["module-path"]), fields["token"], fields.get("object", "tallyroll"), pin_file)


def _pairs(text: str, separator: str, known: frozenset[str], setting: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for piece in filter(None, text.split(separator)):
        name, equals, value = piece.partition("=")
        if not equals or name not in known or name in found:
            raise SettingsError(setting, f"does not know {name}; it takes {', '.join(sorted(known))}, each once")
        found[name] = unquote(value)
    return found

"""What the audit trail stands on: keys, the ledger, witnesses, compliance rules, and what finds and seals personal data."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from tallyroll.adapters.extras import available, require
from tallyroll.adapters.system.clock import SystemClock
from tallyroll.errors import KeyRingUnavailable, SettingsError, Undecodable
from tallyroll.opening.declared import declared_in
from tallyroll.ports import KeyRing, LedgerStore, PiiFinder, Witness
from tallyroll.settings import Settings, key_bytes

if TYPE_CHECKING:
    from tallyroll.adapters.crypto import RingKeeper, Root
    from tallyroll.audit.compliance.rules import RuleSet
    from tallyroll.audit.opening import AuditKeys
    from tallyroll.audit.sealing.witnessing import KeptWitness
    from tallyroll.publish.privacy import FieldSealer

_LEDGER: Final = "ledger.sqlite"
_WITNESS: Final = "tallyroll/witness"


def audit_folder(settings: Settings) -> Path:
    """Where the ledger of audit and its keys lie, whether or not there is one."""
    return settings.data_dir / "audit"


async def open_ledger_store(settings: Settings) -> LedgerStore:
    """The store of the audit ledger: a file beside the log. Raises StoreUnavailable."""
    from tallyroll.adapters.sqlite.ledger_store import SqliteLedgerStore  # noqa: PLC0415  # opened when first needed
    from tallyroll.audit.ledger.layout import take_out  # noqa: PLC0415  # as above

    return await SqliteLedgerStore.open(None if settings.in_memory else audit_folder(settings) / _LEDGER, take_out)


def open_audit_keys(settings: Settings) -> AuditKeys:
    """The keys of the audit ledger, all of one root: its id, the ring, the key of checkpoints. Blocks for some milliseconds.

    The root is ``AUDIT_SECRET_KEY``, or a key in a token (``AUDIT_KEYRING``), or with the embedded log a file that is made
    once. With Kafka it has to be set: keys that each host made for itself would be worth nothing to the others. So it has where
    another process keeps the ring (``AUDIT_KEYRING=https://…``), which is asked when a key is needed. Raises
    MissingExtra; SettingsError, also where that secret is not the one that the ring was made with; KeyRingUnavailable, also where
    that of the file is not.
    """
    require("audit")
    from tallyroll.adapters.crypto import AesGcm, Ed25519Signer, FileKeyRing, RemoteKeyRing  # noqa: PLC0415  # needs the extra
    from tallyroll.adapters.http.key_ring import HttpKeyRing  # noqa: PLC0415  # as above
    from tallyroll.adapters.sqlite.ledger_store import holds_records  # noqa: PLC0415  # as above
    from tallyroll.audit.opening import AuditKeys  # noqa: PLC0415  # opened when first needed

    with ExitStack() as stack:
        folder = audit_folder(settings)
        if settings.in_memory:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="tallyroll-audit-", ignore_cleanup_errors=True)))
        path = Path(settings.audit_keyring.removeprefix("file:")) if settings.audit_keyring.startswith("file:") else folder / "keys"
        remote = settings.audit_keyring_is_remote
        if (
            not remote and not path.exists() and holds_records(folder / _LEDGER)
        ):  # a new one could open nothing, and would hide what is missing
            raise KeyRingUnavailable(str(path), "it is missing, and the ledger there was sealed with it; restore it from a copy")
        token = None
        if settings.audit_keyring.startswith("pkcs11:"):
            require("hsm")
            from tallyroll.adapters.pkcs11 import Pkcs11Token, TokenUri  # noqa: PLC0415  # needs the extra

            token = Pkcs11Token(TokenUri.parse(settings.audit_keyring))
            stack.callback(token.close)
        root = token.root() if token is not None else _audit_root(settings, folder)
        log_id = root.derive(b"tallyroll/audit/log-id")[:16]
        origin = f"tallyroll/{log_id.hex()}"
        ring: KeyRing
        if remote:
            carrier = HttpKeyRing(settings.audit_keyring)
            stack.callback(carrier.close)
            ring = RemoteKeyRing(carrier.name, root, carrier.carry)
        else:
            ring = FileKeyRing(path, root)
        stack.callback(ring.close)
        signer = token.signer(origin) if token is not None else Ed25519Signer(origin, root.derive(b"tallyroll/audit/checkpoints"))
        return AuditKeys(log_id, ring, signer, AesGcm, stack.pop_all().close)


def open_ring_keeper(settings: Settings) -> tuple[RingKeeper, Callable[[], object]]:
    """What answers other hosts that ask for this one's key ring, and what forgets it. Raises as ``open_audit_keys``.

    Raises SettingsError, too, where this host asks another one itself, or has its root in a token, which others have not.
    """
    require("audit")
    from tallyroll.adapters.crypto import RingKeeper  # noqa: PLC0415  # needs the extra

    if settings.in_memory or settings.audit_keyring.startswith(("https:", "http:", "pkcs11:")):
        raise SettingsError("AUDIT_KEYRING", "expected file:PATH, or nothing: a ring that lies here, under AUDIT_SECRET_KEY")
    keys = open_audit_keys(settings)
    return RingKeeper(keys.ring, _audit_root(settings, audit_folder(settings))), keys.close


def _audit_root(settings: Settings, folder: Path) -> Root:
    from tallyroll.adapters.crypto import SecretRoot, secret_in  # noqa: PLC0415  # needs the extra

    if settings.audit_secret_key is not None:
        return SecretRoot(key_bytes(settings.audit_secret_key))
    if settings.is_kafka or settings.audit_keyring_is_remote:
        where = "Kafka" if settings.is_kafka else "a key ring elsewhere"
        raise SettingsError("AUDIT_SECRET_KEY", f"needed with {where}, the same on every host; 'openssl rand -hex 32' makes one")
    if settings.in_memory:
        return SecretRoot(os.urandom(32))
    if (folder / "keys").exists() and not (folder / "secret").exists():  # a new one could open nothing, and hide what is missing
        raise KeyRingUnavailable(str(folder / "secret"), "it is missing, and the keys beside it were made with it; restore it from a copy")
    return SecretRoot(secret_in(folder / "secret"), folder / "secret")


def open_witnesses(settings: Settings, key: str) -> Sequence[Witness]:
    """Who cosigns the checkpoints of the ledger with this public key; asks nobody yet. Raises MissingExtra."""
    where = settings.audit_witness
    if not where:
        return []
    require("audit")
    if where.startswith("file:"):
        from tallyroll.audit.sealing.witnessing import OpenedWhenAsked  # noqa: PLC0415  # as above

        return [OpenedWhenAsked(_WITNESS, partial(file_witness, Path(urlsplit(where).path), [key]))]
    from tallyroll.adapters.http.witness import HttpWitness  # noqa: PLC0415  # as above

    return [HttpWitness(where)]


def file_witness(folder: Path, keys: Sequence[str], *, name: str = _WITNESS) -> KeptWitness:
    """A witness whose own key and memory are in a folder, made there where there are none.

    ``keys`` are the public keys of the ledgers that it knows. Raises SettingsError for what is no key, KeyRingUnavailable.
    """
    from tallyroll.adapters.crypto import Ed25519Signer, is_signed, secret_in  # noqa: PLC0415  # needs the extra
    from tallyroll.adapters.system.shared_file import SharedFile  # noqa: PLC0415  # opened when first needed
    from tallyroll.audit.ledger.note import NoteKey  # noqa: PLC0415  # as above
    from tallyroll.audit.sealing.witnessing import KeptWitness  # noqa: PLC0415  # as above

    try:
        trusted = [NoteKey.parse(key) for key in keys]
    except Undecodable as error:  # before anything is made
        raise SettingsError("--key", str(error)) from None
    signer = Ed25519Signer(name, secret_in(folder / "key", what="the key of a witness"))
    return KeptWitness(signer, SharedFile(folder / "seen"), is_signed, clock=SystemClock(), trusted=trusted)


def compliance_rules_of(settings: Settings) -> RuleSet:
    """The rules that come with tallyroll and those of the settings' file, under the versions of both.

    An own rule takes the place of one of the library's by its id and a higher version. Raises SettingsError naming the file
    for what is wrong in it.
    """
    from tallyroll.audit.compliance.library import library  # noqa: PLC0415  # opened when first needed
    from tallyroll.audit.compliance.rules import ComplianceRuleEngine, RuleSet, rule_set_from_toml  # noqa: PLC0415  # as above

    def joined(text: str) -> RuleSet:
        own = rule_set_from_toml(text)
        rules = ComplianceRuleEngine((*library().rules, *own.rules)).rules
        return RuleSet(version=f"{library().version}+{own.version}"[:64], rules=tuple(rules), derived=own.derived)

    if settings.audit_rules is None:
        return library()
    return declared_in(settings.audit_rules, "AUDIT_RULES", joined)


def open_pii_finder() -> PiiFinder:
    """What finds personal data: RE2 where it is installed, else ``re``, which finds the same more slowly."""
    from tallyroll.audit.compliance.pii import PATTERNS, ReFinder  # noqa: PLC0415  # opened when first needed

    if not available("audit"):
        return ReFinder(PATTERNS)
    from tallyroll.adapters.re2 import Re2Finder  # noqa: PLC0415  # needs the extra

    return Re2Finder(PATTERNS)


def open_field_sealer(settings: Settings) -> tuple[FieldSealer, Callable[[], object]]:
    """What seals personal fields of events under the keys of the ledger, and what forgets these keys. Raises as ``open_audit_keys``."""
    from tallyroll.audit.compliance.pii import PiiScanner  # noqa: PLC0415  # opened when first needed
    from tallyroll.publish.privacy import FieldSealer  # noqa: PLC0415  # as above

    keys = open_audit_keys(settings)
    scanner = PiiScanner(open_pii_finder())
    fields = settings.subject_fields_named
    return FieldSealer(scanner, keys.ring, keys.new_cipher(), tenant=keys.log_id, subject_fields=fields), keys.close

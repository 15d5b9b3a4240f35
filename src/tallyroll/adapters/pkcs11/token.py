"""A session with a token, the root key of a key ring in it, and a signer whose key it keeps."""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

import pkcs11
from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass
from pkcs11.exceptions import NoSuchKey, PinIncorrect, PinLocked, PKCS11Error, UserAlreadyLoggedIn

from tallyroll.adapters.pkcs11.uri import TokenUri
from tallyroll.errors import KeyRingUnavailable, SettingsError

_EDWARDS25519: Final = b"\x13\x0cedwards25519"  # the curve's name as a PrintableString: PKCS#11 3.0, section 2.3.5
_ROOT_BITS: Final = 256
_POINT_BYTES: Final = 32
_KEPT: Final = {Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False}
_T = TypeVar("_T")


class Pkcs11Token:
    """One session, opened at once and used from one thread at a time; a session that the token has lost is opened anew.

    Raises SettingsError where library, token or PIN are wrong, KeyRingUnavailable where the token does not answer.
    """

    def __init__(self, uri: TokenUri) -> None:
        self._uri = uri
        self._lock = threading.Lock()
        self._session: pkcs11.Session | None = None
        self._open()

    def __repr__(self) -> str:
        """Without the PIN."""
        return f"Pkcs11Token({self._uri.token!r})"

    def root(self) -> Pkcs11Root:
        """The root key under the label of the address; made in the token where there is none."""
        return Pkcs11Root(self, self._uri.label)

    def signer(self, name: str) -> Pkcs11Signer:
        """A signer of that name, with the Ed25519 key under the label of the address; made in the token where there is none."""
        return Pkcs11Signer(self, f"{self._uri.label} checkpoints", name)

    def make(self, find: Callable[[pkcs11.Session], _T], generate: Callable[[pkcs11.Session], object]) -> _T:
        """What ``find`` finds, generated first where there is none; processes that share the PIN file take turns."""

        def once(session: pkcs11.Session) -> _T:
            with self._uri.pin_file.open() as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                try:
                    return find(session)
                except NoSuchKey:
                    generate(session)
                    return find(session)

        return self.do(once)

    def do(self, work: Callable[[pkcs11.Session], _T]) -> _T:
        """What ``work`` makes of the session."""
        with self._lock:
            for last in (False, True):
                try:
                    return work(self._session or self._open())
                except PKCS11Error as error:
                    self._drop()
                    if last or isinstance(error, (PinIncorrect, PinLocked)):
                        raise KeyRingUnavailable(f"token {self._uri.token}", type(error).__name__) from None
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Idempotent."""
        with self._lock:
            self._drop()

    def _open(self) -> pkcs11.Session:
        setting = "AUDIT_KEYRING"
        try:
            pin = self._uri.pin_file.read_text("utf-8").strip()
        except OSError as error:
            raise SettingsError(setting, f"pin-source: {error.strerror}") from None
        try:
            library = pkcs11.lib(str(self._uri.module))
            token = library.get_token(token_label=self._uri.token)
            self._session = _logged_in(token, pin)
        except (PinIncorrect, PinLocked) as error:
            raise SettingsError(setting, f"the token refuses the PIN: {type(error).__name__}") from None
        except (PKCS11Error, RuntimeError) as error:
            raise SettingsError(setting, f"no token {self._uri.token!r} by {self._uri.module}: {type(error).__name__}") from None
        return self._session

    def _drop(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            try:
                session.close()
            except PKCS11Error:
                return  # the token has closed it already


def _logged_in(token: pkcs11.Token, pin: str) -> pkcs11.Session:
    """A session; the login is the whole process's, so that another session of it may have made it."""
    try:
        return token.open(rw=True, user_pin=pin)
    except UserAlreadyLoggedIn:
        return token.open(rw=True)


class Pkcs11Root:
    """A root of a key ring in a token: ``derive`` gives HMAC-SHA256 of a label, made in the token; its key never leaves it.

    What is derived is in memory while it is used. Not promised: that a copy of the token forgets.
    """

    def __init__(self, token: Pkcs11Token, label: str) -> None:
        self._token = token
        self._label = label
        self._derived: dict[bytes, bytes] = {}
        token.make(self._key, self._generate)

    def wrong(self) -> SettingsError:
        """What to raise where a ring was made with another one."""
        return SettingsError("AUDIT_KEYRING", "is not the one that the key ring was made with")

    def derive(self, label: bytes) -> bytes:
        """32 bytes for a purpose; the same for the same label."""
        if label not in self._derived:
            self._derived[label] = self._token.do(lambda session: bytes(self._key(session).sign(label, mechanism=Mechanism.SHA256_HMAC)))
        return self._derived[label]

    def _key(self, session: pkcs11.Session) -> Any:  # noqa: ANN401  # the library's types know no sign()
        return session.get_key(object_class=ObjectClass.SECRET_KEY, label=self._label)

    def _generate(self, session: pkcs11.Session) -> object:
        uses = MechanismFlag.SIGN
        return session.generate_key(KeyType.GENERIC_SECRET, _ROOT_BITS, label=self._label, store=True, capabilities=uses, template=_KEPT)

    def __repr__(self) -> str:
        """Without keys."""
        return f"Pkcs11Root({self._label!r})"


class Pkcs11Signer:
    """Implements ``ports.Signer`` with an Ed25519 key in a token."""

    def __init__(self, token: Pkcs11Token, label: str, name: str) -> None:
        self._token = token
        self._label = label
        self._name = name
        self._public: bytes = token.make(self._point, self._generate)

    @property
    def name(self) -> str:
        return self._name

    @property
    def public(self) -> bytes:
        return self._public

    def sign(self, message: bytes) -> bytes:
        return self._token.do(lambda session: bytes(self._key(session).sign(message, mechanism=Mechanism.EDDSA)))

    def _key(self, session: pkcs11.Session, kind: ObjectClass = ObjectClass.PRIVATE_KEY) -> Any:  # noqa: ANN401  # as above
        return session.get_key(object_class=kind, key_type=KeyType.EC_EDWARDS, label=self._label)

    def _point(self, session: pkcs11.Session) -> bytes:
        """The public key: the end of its DER octet string."""
        return bytes(self._key(session, ObjectClass.PUBLIC_KEY)[Attribute.EC_POINT][-_POINT_BYTES:])

    def _generate(self, session: pkcs11.Session) -> object:
        curve = session.create_domain_parameters(KeyType.EC_EDWARDS, {Attribute.EC_PARAMS: _EDWARDS25519}, local=True)
        how = Mechanism.EC_EDWARDS_KEY_PAIR_GEN
        return curve.generate_keypair(mechanism=how, store=True, label=self._label, private_template=_KEPT)

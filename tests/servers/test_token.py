"""The root of a key ring and the checkpoint key in a token, SoftHSM2 here: the ring keeps its contract, no key comes out."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path

import pkcs11
import pytest
from pkcs11 import Attribute, ObjectClass
from services.install import tool

from tallyroll.adapters.crypto import AesGcm, FileKeyRing, is_signed
from tallyroll.adapters.pkcs11 import Pkcs11Token, TokenUri
from tallyroll.errors import KeyRingUnavailable, SettingsError
from tallyroll.opening import open_audit_keys
from tallyroll.settings import Settings
from tallyroll.testing.key_ring_contract import CASES, SEALING_CASES

pytestmark = pytest.mark.server

PIN = "48151623"
LIBRARIES = ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so", "/usr/local/lib/softhsm/libsofthsm2.so")
labels = count()


@pytest.fixture(scope="module")
def token_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    util = tool("softhsm2-util")
    folder = tmp_path_factory.mktemp("token")
    (folder / "conf").write_text(f"directories.tokendir = {folder}\nobjectstore.backend = file\nlog.level = ERROR\n")
    (folder / "pin").write_text(f"{PIN}\n")
    (folder / "pin").chmod(0o600)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SOFTHSM2_CONF", str(folder / "conf"))
        make = [util, "--init-token", "--free", "--label", "audit", "--pin", PIN, "--so-pin", "87654321"]
        subprocess.run(make, check=True, capture_output=True, env=dict(os.environ))
        yield folder


def library() -> Path:
    return next(Path(path) for path in LIBRARIES if Path(path).exists())


def address(folder: Path, label: str, **other: str) -> str:
    fields = {"module-path": library(), "pin-source": f"file:{folder / 'pin'}", **other}
    return f"pkcs11:token=audit;object={label}?" + "&".join(f"{name}={value}" for name, value in fields.items())


@pytest.fixture
def uri(token_folder: Path) -> TokenUri:
    return TokenUri.parse(address(token_folder, f"ring%20{next(labels)}"))


@pytest.fixture
def opened(uri: TokenUri) -> Iterator[Callable[..., Pkcs11Token]]:
    """Opens tokens, and closes them: the login is the whole process's, and must not outlast a test."""
    tokens: list[Pkcs11Token] = []

    def open_one(other: TokenUri = uri) -> Pkcs11Token:
        tokens.append(Pkcs11Token(other))
        return tokens[-1]

    yield open_one
    for token in tokens:
        token.close()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_a_ring_with_its_root_in_a_token_keeps_the_contract(case, opened, tmp_path: Path) -> None:
    root = opened().root()
    case(partial(FileKeyRing, tmp_path / "ring", root))


@pytest.mark.parametrize("case", SEALING_CASES, ids=lambda case: case.__name__)
def test_and_the_contract_of_sealing(case, opened, tmp_path: Path) -> None:
    root = opened().root()
    case(partial(FileKeyRing, tmp_path / "ring", root), AesGcm())


def test_a_later_session_has_the_same_root_and_the_same_signer(opened) -> None:
    first, later = opened(), opened()
    assert first.root().derive(b"one") == later.root().derive(b"one")
    assert first.root().derive(b"one") != first.root().derive(b"two")
    signer, again = first.signer("example.com/log"), later.signer("example.com/log")
    assert signer.public == again.public
    assert is_signed(signer.public, b"a note", again.sign(b"a note"))
    assert not is_signed(signer.public, b"another note", again.sign(b"a note"))


def test_another_root_opens_nothing(token_folder: Path, opened, tmp_path: Path) -> None:
    FileKeyRing(tmp_path / "ring", opened().root())
    other = TokenUri.parse(address(token_folder, f"ring{next(labels)}"))
    with pytest.raises(SettingsError, match="AUDIT_KEYRING"):
        FileKeyRing(tmp_path / "ring", opened(other).root())


def test_no_key_leaves_the_token_and_nothing_shown_holds_the_pin(opened, uri: TokenUri) -> None:
    token = opened()
    root, signer = token.root(), token.signer("example.com/log")
    assert PIN not in repr((token, root, signer, uri))

    def look(session: pkcs11.Session) -> None:
        for kind in (ObjectClass.SECRET_KEY, ObjectClass.PRIVATE_KEY):
            keys = list(session.get_objects({Attribute.CLASS: kind}))
            assert keys
            for key in keys:
                with pytest.raises(pkcs11.exceptions.AttributeSensitive):
                    key[Attribute.VALUE]

    token.do(look)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of the library's own search, cut off with its session
def test_a_session_that_the_token_has_closed_is_opened_anew(opened) -> None:
    token = opened()
    signer = token.signer("example.com/log")
    token._session.close()
    assert is_signed(signer.public, b"a note", signer.sign(b"a note"))
    token.close()
    token.close()
    assert is_signed(signer.public, b"a note", signer.sign(b"a note"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("token=audit", "token=other"), "no token"),
        (("module-path=/", "module-path=/nowhere/"), "no token"),
        (("pin-source=file:/", "pin-source=file:/nowhere/"), "No such file"),
        (("token=audit;", ""), "needs token"),
        (("object=", "colour=red;object="), "does not know colour"),
        (("?", "?pin-value=1234&"), "takes no PIN"),
        (("pkcs11:", "file:"), "begins with"),
    ],
)
def test_a_wrong_address_says_what_is_wrong(token_folder: Path, change: tuple[str, str], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        Pkcs11Token(TokenUri.parse(address(token_folder, "ring").replace(*change)))


def test_a_wrong_pin_is_said_and_not_shown(token_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "pin").write_text("00000000")
    with pytest.raises(SettingsError, match="PinIncorrect") as caught:
        Pkcs11Token(TokenUri.parse(address(token_folder, "ring", **{"pin-source": f"file:{tmp_path / 'pin'}"})))
    assert "00000000" not in str(caught.value)


def test_a_token_that_went_away_is_an_unavailable_ring(opened, uri: TokenUri, tmp_path: Path) -> None:
    token = opened(uri._replace(pin_file=_pin(tmp_path)))
    signer = token.signer("example.com/log")
    token.close()
    (tmp_path / "pin").write_text("00000000")
    with pytest.raises((KeyRingUnavailable, SettingsError)):
        signer.sign(b"a note")


def _pin(folder: Path) -> Path:
    (folder / "pin").write_text(PIN)
    return folder / "pin"


def test_the_settings_open_a_ledger_whose_root_is_in_the_token(token_folder: Path, tmp_path: Path) -> None:
    """The same ledger, ring and checkpoint key each time; no secret is needed, and none is on disk."""
    settings = Settings(url=f"sqlite:///{tmp_path}", audit_keyring=address(token_folder, f"ring%20{next(labels)}"))
    first = open_audit_keys(settings)
    known = (first.log_id, first.signer.public, first.ring.subjects(["anna"]))
    assert is_signed(first.signer.public, b"checkpoint", first.signer.sign(b"checkpoint"))
    first.close()
    second = open_audit_keys(settings)
    assert (second.log_id, second.signer.public, second.ring.subjects(["anna"])) == known
    assert second.origin == f"tallyroll/{second.log_id.hex()}"
    second.close()
    assert not (tmp_path / "audit" / "secret").exists()

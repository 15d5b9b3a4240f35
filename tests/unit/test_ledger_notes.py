"""Signed notes: the published example, what is refused, and that both readers agree. Ed25519 in plain integers against a library."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallyroll.adapters.crypto import Ed25519Signer, is_signed
from tallyroll.audit.ledger import note
from tallyroll.audit.ledger.note import Checkpoint, NoteKey
from tallyroll.audit.verify import ed25519, notes
from tallyroll.errors import Undecodable

PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
EXAMPLE = """If you think cryptography is the answer to your problem,
then you don't know what your problem is.

— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=
""".encode()
SIGNER = Ed25519Signer("example.com/log", sha256(b"log").digest())
KEY = NoteKey(SIGNER.name, note.ED25519, SIGNER.public)


def test_the_published_note() -> None:
    key, found = NoteKey.parse(PETER), note.parse(EXAMPLE)
    assert str(key) == PETER
    assert found.signed_by(key, is_signed)
    assert found.packed() == EXAMPLE
    read = notes.parse_note(EXAMPLE)
    assert read is not None
    assert read.text == found.text
    assert notes.signers(read, notes.keys_of([PETER], note.ED25519) or [], ed25519.is_signed)[0]
    other = note.parse(EXAMPLE.replace(b"answer", b"Answer"))
    assert not other.signed_by(key, is_signed)


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"text\n", b"text\n\n", EXAMPLE[:-1], EXAMPLE.replace(b"\n\n", b"\n"), EXAMPLE.replace("— ".encode(), b"- "),
        EXAMPLE.replace(b"AM=", b"AN="), EXAMPLE.replace(b"If", b"I\x01"), EXAMPLE.replace(b"If", b"I\xff"), EXAMPLE + b"more\n",
        EXAMPLE.replace(b"x08go/", b""[:0] + b"x08go_"), b"text\n\n" + EXAMPLE.split(b"\n\n")[1] * 65, b"x" * (1 << 18) + EXAMPLE,
    ],
)  # fmt: skip
def test_what_is_no_note_is_refused_by_both_readers(raw: bytes) -> None:
    assert notes.parse_note(raw) is None
    with pytest.raises(Undecodable):
        note.parse(raw)


@given(st.one_of(st.binary(max_size=200), st.integers(0, len(EXAMPLE) - 1).map(lambda at: EXAMPLE[:at] + b"\n" + EXAMPLE[at:])))
def test_both_readers_agree(raw: bytes) -> None:
    read = notes.parse_note(raw)
    try:
        found = note.parse(raw)
    except Undecodable:
        assert read is None
    else:
        assert read == (found.text, tuple(found.signatures))


@pytest.mark.parametrize("text", ["", "a", "a+b+c", PETER.replace("c74f", "c74e"), PETER.replace("Peter", "Pe ter"), PETER[:-4]])
def test_what_is_no_key_is_refused(text: str) -> None:
    assert notes.parse_key(text) is None
    with pytest.raises(Undecodable):
        NoteKey.parse(text)


@pytest.mark.parametrize(
    "text", ["", "o\n1\n", "o\n01\nAA==\n", "o\n-1\n" + "A" * 43 + "=\n", "o\n1\nAAAA\n", "o\n1\n\n", "o\n" + "9" * 20 + "\nA\n"]
)
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    assert notes.parse_checkpoint(text) is None
    with pytest.raises(Undecodable):
        Checkpoint.parse(text)


@given(st.integers(0, 2**62), st.binary(min_size=32, max_size=32))
def test_a_checkpoint_is_read_as_it_was_written(size: int, root: bytes) -> None:
    checkpoint = Checkpoint("example.com/log", size, root)
    assert Checkpoint.parse(checkpoint.text()) == checkpoint == notes.parse_checkpoint(checkpoint.text())
    assert Checkpoint.parse(checkpoint.text() + "an extension\n") == checkpoint


def test_a_cosignature_covers_its_time() -> None:
    signed = note.sign(Checkpoint("example.com/log", 1, bytes(32)).text(), [SIGNER])
    witness = Ed25519Signer("witness", sha256(b"w").digest())
    key = NoteKey("witness", note.COSIGNATURE, witness.public)
    line = note.cosign(signed.text, witness, 1_800_000_000)
    assert signed._replace(signatures=(line,)).signed_by(key, is_signed)
    later = line._replace(body=(1_900_000_000).to_bytes(8) + line.body[8:])
    assert not signed._replace(signatures=(later,)).signed_by(key, is_signed)
    assert not signed._replace(signatures=(line,)).signed_by(KEY, is_signed)


def test_several_signatures_and_unknown_ones() -> None:
    other = Ed25519Signer("example.com/log", sha256(b"next").digest())
    signed = note.sign("text\n", [other, SIGNER])
    assert signed.signed_by(KEY, is_signed)
    assert signed.signed_by(NoteKey(other.name, note.ED25519, other.public), is_signed)
    assert not note.sign("text\n", [other]).signed_by(KEY, is_signed)


def test_the_verifiers_ed25519_holds_the_vector_of_rfc_8032() -> None:
    public = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
    signature = bytes.fromhex(
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
    )
    assert ed25519.is_signed(public, b"", signature)
    assert not ed25519.is_signed(public, b"x", signature)


ORDER = 2**252 + 27742317777372353535851937790883648493


@pytest.mark.slow
@given(st.binary(min_size=32, max_size=32), st.binary(max_size=50), st.integers(0, 63), st.integers(1, 255))
def test_the_verifiers_ed25519_agrees_with_the_library(seed: bytes, message: bytes, at: int, flip: int) -> None:
    signer = Ed25519Signer("n", seed)
    signature = signer.sign(message)
    assert ed25519.is_signed(signer.public, message, signature)
    broken = signature[:at] + bytes((signature[at] ^ flip,)) + signature[at + 1 :]
    assert ed25519.is_signed(signer.public, message, broken) == is_signed(signer.public, message, broken) is False
    s = int.from_bytes(signature[32:], "little") + ORDER
    if s < 1 << 256:
        assert not ed25519.is_signed(signer.public, message, signature[:32] + s.to_bytes(32, "little")), "one signature, one form"


@given(st.binary(min_size=32, max_size=32))
def test_a_key_that_is_no_point_signs_nothing(public: bytes) -> None:
    assert not ed25519.is_signed(public, b"", bytes(64)) or is_signed(public, b"", bytes(64))
    assert not ed25519.is_signed(public[:-1], b"", bytes(64))

"""A sealed record as a document: read only as it is written, whatever JSON or base64 would also allow."""

from __future__ import annotations

from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallyroll.adapters.crypto.primitives import AesGcm
from tallyroll.audit.ledger.chain import Draft, Part, Writer
from tallyroll.audit.ledger.envelope import document_of, record_in
from tallyroll.audit.ledger.layout import Kind, PartType, pack_record
from tallyroll.errors import Undecodable
from tallyroll.ports import Enrolment

SEALED = Writer(b"l" * 16, Enrolment(b"w" * 16, 1, b"k" * 32, "token", 0), AesGcm(), rule_set="1").seal(
    3, Draft(Kind.ENTRY, b'{"action":"read"}', (Part(PartType.SUBJECT, b"h" * 16, b"d" * 32, b"text!"),)), 7
)[-1]
TEXT = b64encode(SEALED.packed()).decode()


def document(text: str) -> bytes:
    return b'{"specversion":"1.0","id":"id","type":"audit.sealed","data_base64":"%s","sequence":"1"}' % text.encode()


def test_what_is_written_is_read_with_its_id_and_its_bytes() -> None:
    value = document_of(SEALED.packed(), "some-id", "agent:a", "here", b"2026-01-01T00:00:00Z")
    assert record_in(value) == ("some-id", SEALED.record, SEALED.packed())
    assert pack_record(SEALED.record) == SEALED.packed()


def test_json_may_write_a_character_in_another_way() -> None:
    escaped = TEXT.replace("/", "\\/").replace("Q", "\\u0051")
    assert escaped != TEXT
    assert record_in(document(escaped)) == ("id", SEALED.record, SEALED.packed())


@pytest.mark.parametrize("end", ["", "=", "==", "\\n", " ", "=A==", "AAAA====", "\\u00e9"])
def test_base64_with_another_end_is_refused(end: str) -> None:
    if end != TEXT[len(TEXT.rstrip("=")) :]:
        with pytest.raises(Undecodable):
            record_in(document(TEXT.rstrip("=") + end))


@given(st.integers(0, len(TEXT) - 1), st.sampled_from("ABCDQRgwxyz059+/=-_ \n\té"))
def test_another_character_anywhere_is_another_record_or_none(place: int, character: str) -> None:
    if character == TEXT[place]:
        return
    try:
        _, _, raw = record_in(document(TEXT[:place] + character + TEXT[place + 1 :]))
    except Undecodable:
        return
    assert raw != SEALED.packed()
    assert b64encode(raw).decode() == TEXT[:place] + character + TEXT[place + 1 :]


def test_bits_that_base64_has_too_many_are_zero() -> None:
    """The only other way to write the same bytes, if the decoder lets it pass."""
    spare = len(TEXT) - len(TEXT.rstrip("="))
    assert spare, "another length of the text is needed"
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    last = len(TEXT) - spare - 1
    other = alphabet[alphabet.index(TEXT[last]) + 1]
    with pytest.raises(Undecodable, match="canonical"):
        record_in(document(TEXT[:last] + other + TEXT[last + 1 :]))

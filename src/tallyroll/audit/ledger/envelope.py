"""A sealed record as a document on the topic: a CloudEvent like every other, with the record's bytes as its data.

Pure: no clock, no randomness, no I/O.
"""

from __future__ import annotations

from base64 import b64encode
from functools import lru_cache
from typing import Final

import msgspec

from tallyroll.audit.ledger.layout import Record, unpack_record
from tallyroll.errors import Undecodable

SEALED_TYPE: Final = "audit.sealed"
"""The type of every record on the audit topic."""

_AROUND: Final = 400  # bytes of the document beside source, key, id and data, rounded up


class _Sealed(msgspec.Struct):
    specversion: str
    id: str
    type: str
    data_base64: msgspec.Raw


_decode: Final = msgspec.json.Decoder(_Sealed).decode
_decode_text: Final = msgspec.json.Decoder(str).decode
_decode_bytes: Final = msgspec.json.Decoder(bytes).decode  # from base64, as strict as ``binascii`` and twice as fast
_encode: Final = msgspec.json.Encoder().encode
_TO_ID: Final = b'{"specversion":"1.0","datacontenttype":"application/octet-stream","id":"'
_CACHED_KEYS: Final = 4_096  # agents; some 2 MB


def key_of(agent_id: str | None, writer: bytes) -> str:
    """The key of a record: that of its agent, else that of its writer; never a person's or a thing's."""
    return f"agent:{agent_id}" if agent_id else f"audit:{writer.hex()}"


def document_of(packed: bytes, event_id: str, key: str, source: str, time: bytes) -> bytes:
    """The document of a packed record, without the publisher's link. ``time`` is in ISO 8601, UTC; ``event_id`` the entry's id, a UUID."""
    id_to_time, time_to_data = _around(key, source)
    return b"".join((_TO_ID, event_id.encode(), id_to_time, time, time_to_data, _encode(packed), b"}"))


@lru_cache(_CACHED_KEYS)
def _around(key: str, source: str) -> tuple[bytes, bytes]:
    """What stands between id and time, and between time and data: the same in every document of a key."""
    kind, _, name = key.partition(":")
    id_to_time = b'","source":%s,"type":"%s","subject":%s,"time":"' % (_encode(source), SEALED_TYPE.encode(), _encode(key))
    return id_to_time, b'","aggregatetype":%s,"aggregateid":%s,"data_base64":' % (_encode(kind), _encode(name))


def size_of(record_bytes: int, names_bytes: int) -> int:
    """At most how large a record of so many bytes becomes as a document; key, its name and source take ``names_bytes``."""
    return _AROUND + names_bytes + (record_bytes + 2) // 3 * 4


def record_in(value: bytes | None) -> tuple[str, Record, bytes]:
    """The id and the record in a document, also packed. Raises Undecodable for another, and for base64 that can be written otherwise."""
    try:
        document = _decode(value or b"")
        text = bytes(document.data_base64)
        raw = _decode_bytes(text)
        if b"\\" in text:  # JSON may be written in several ways
            text = b'"%s"' % _decode_text(text).encode()
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError):
        raise Undecodable("not_an_event", "no document with a sealed record") from None
    if document.specversion != "1.0" or document.type != SEALED_TYPE or not _is_canonical(text, raw):
        raise Undecodable("bad_data", "another type of document, or base64 that is not canonical")
    return document.id, unpack_record(raw), raw


def _is_canonical(text: bytes, raw: bytes) -> bool:
    """Whether what was decoded strictly would be encoded so: all but the bits that the last four characters may have too many."""
    last = raw[-((len(raw) - 1) % 3 + 1) :]
    return len(text) == (len(raw) + 2) // 3 * 4 + 2 and text[-5:-1] == b64encode(last)

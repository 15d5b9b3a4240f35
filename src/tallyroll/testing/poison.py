"""Record values that no event can be read from, and for each the reason that a reader has to give.

For suites of codecs, followers and replays: each has to put these aside, keep their bytes, and go on with the next record.

Not promised: completeness. Whatever a log brings, a reader raises ``Undecodable`` and nothing else.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple


class Poison(NamedTuple):
    """One bad value. ``first_seen`` tells whether the head is already unreadable, or only the event behind it."""

    name: str
    value: bytes | None
    reason: str
    first_seen: Literal["head", "event"] = "head"


_GOOD: Final = (
    b'{"specversion":"1.0","id":"1","source":"s","type":"task.started","subject":"task:t-1","time":"2026-01-31T12:00:00Z"'
    b',"aggregatetype":"task","aggregateid":"t-1","data":{"a":1}}'
)


def _instead(old: bytes, new: bytes) -> bytes:
    if old not in _GOOD:
        raise ValueError(f"{old!r} is not in the good value")
    return _GOOD.replace(old, new)


def _data(value: bytes) -> bytes:
    return _instead(b'{"a":1}', value)


POISON: Final[tuple[Poison, ...]] = (
    Poison("no value", None, "empty"),
    Poison("empty value", b"", "empty"),
    Poison("white space", b" \n", "not_json"),
    Poison("text", b"task completed", "not_json"),
    Poison("binary", bytes(range(256)), "not_json"),
    Poison("schema registry prefix", b"\x00\x00\x00\x00\x07" + _GOOD, "not_json"),
    Poison("byte order mark", b"\xef\xbb\xbf" + _GOOD, "not_json"),
    Poison("UTF-16", _GOOD.decode().encode("utf-16"), "not_json"),
    Poison("cut off", _GOOD[:-7], "not_json"),
    Poison("two documents", _GOOD * 2, "not_json"),
    Poison("trailing comma", _GOOD[:-1] + b",}", "not_json"),
    Poison("invalid UTF-8 in an attribute", _instead(b'"id":"1"', b'"id":"\xff\xfe"'), "not_json"),
    Poison("lone surrogate in an attribute", _instead(b'"id":"1"', b'"id":"\\ud800"'), "not_json"),
    Poison("JSON null", b"null", "not_an_event"),
    Poison("JSON number", b"42", "not_an_event"),
    Poison("JSON text", b'"task.completed"', "not_an_event"),
    Poison("JSON array", b"[" + _GOOD + b"]", "not_an_event"),
    Poison("empty object", b"{}", "not_an_event"),
    Poison("no id", _instead(b'"id":"1",', b""), "not_an_event"),
    Poison("no source", _instead(b'"source":"s",', b""), "not_an_event"),
    Poison("no type", _instead(b'"type":"task.started",', b""), "not_an_event"),
    Poison("no specversion", _instead(b'"specversion":"1.0",', b""), "not_an_event"),
    Poison("other specversion", _instead(b'"specversion":"1.0"', b'"specversion":"0.3"'), "not_an_event"),
    Poison("number as specversion", _instead(b'"specversion":"1.0"', b'"specversion":1.0'), "not_an_event"),
    Poison("number as id", _instead(b'"id":"1"', b'"id":1'), "not_an_event"),
    Poison("null as type", _instead(b'"type":"task.started"', b'"type":null'), "not_an_event"),
    Poison("list as subject", _instead(b'"subject":"task:t-1"', b'"subject":[]'), "not_an_event"),
    Poison("number as chain number", _GOOD[:-1] + b',"chainsession":"s","chainnumber":7}', "not_an_event"),
    Poison("no aggregate", _instead(b'"subject":"task:t-1"', b'"subject":""').replace(b'"t-1"', b'""'), "no_aggregate"),
    Poison("subject without an id", _instead(b'"subject":"task:t-1"', b'"subject":"task:"').replace(b'"t-1"', b'""'), "no_aggregate"),
    Poison("bytes as data", _GOOD[:-1] + b',"data_base64":"AAEC"}', "bad_data"),
    Poison("no time", _instead(b',"time":"2026-01-31T12:00:00Z"', b""), "bad_time", "event"),
    Poison("time that is none", _instead(b"2026-01-31", b"2026-02-31"), "bad_time", "event"),
    Poison("time without a zone", _instead(b"12:00:00Z", b"12:00:00"), "bad_time", "event"),
    Poison("time before the year 1", _instead(b"2026-01-31T12:00:00Z", b"0001-01-01T00:00:00+01:00"), "bad_time", "event"),
    Poison("time after the year 9999", _instead(b"2026-01-31T12:00:00Z", b"9999-12-31T23:59:59-01:00"), "bad_time", "event"),
    Poison("createdat that is none", _GOOD[:-1] + b',"createdat":"yesterday"}', "bad_time", "event"),
    Poison("createdat after the year 9999", _GOOD[:-1] + b',"createdat":"9999-12-31T23:59:59-01:00"}', "bad_time", "event"),
    Poison("null as data", _data(b"null"), "bad_data", "event"),
    Poison("text as data", _data(b'"hello"'), "bad_data", "event"),
    Poison("array as data", _data(b"[1,2]"), "bad_data", "event"),
    Poison("deep data", _data(b'{"a":' * 50_000 + b"1" + b"}" * 50_000), "too_deep"),
    Poison("invalid UTF-8 in data", _data(b'{"a":"\xff"}'), "bad_data", "event"),
    Poison("lone surrogate in data", _data(b'{"a":"\\ud800"}'), "not_json"),
    Poison("a number of 5,000 digits in data", _data(b'{"a":' + b"9" * 5_000 + b"}"), "bad_data", "event"),
    Poison("a number beyond doubles in data", _data(b'{"a":1e400}'), "bad_data", "event"),
    Poison("NaN in data", _data(b'{"a":NaN}'), "not_json"),
    Poison("infinity in data", _data(b'{"a":Infinity}'), "not_json"),
    Poison("huge, and no JSON", b"x" * 1_000_000, "not_json"),
    Poison("huge, and never closed", b"[" * 1_000_000, "not_an_event"),
    Poison("deep attribute", _GOOD[:-1] + b',"deep":' + b"[" * 50_000 + b"]" * 50_000 + b"}", "too_deep"),
)  # fmt: skip

"""Turning what callers offer as payload into plain JSON values, or saying which field cannot be one.

The result shares nothing with the input, so a later change by the caller alters no event.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from math import isfinite
from typing import Any, Final
from uuid import UUID

import msgspec

from tallyroll.errors import InvalidEvent

MAX_PAYLOAD_BYTES: Final = 900_000  # below the broker's and librdkafka's default of 1,000,000, with room for the envelope
MAX_DEPTH: Final = 64  # far above real payloads, far below the decoder's recursion limit
_INT_MIN: Final = -(2**63)
_INT_MAX: Final = 2**63 - 1  # what every JSON reader with 64-bit integers, and our state, can hold
_AS_IS: Final = frozenset({str, bool, type(None)})

_encoder: Final = msgspec.json.Encoder()


def clean_payload(payload: object) -> dict[str, Any]:
    """A deep copy of ``payload`` in JSON values: dict, list, str, int, float, bool, None.

    datetime and date become ISO 8601 text (aware datetimes only), UUID and Decimal their text, enums their value, tuples
    lists, sets sorted lists. Raises InvalidEvent with the path of the field for NaN, infinities, integers beyond 64 bits
    signed, keys that are not text, text that is not Unicode, foreign objects, nesting beyond 64, and more than 900,000
    bytes of JSON.
    """
    if type(payload) is not dict and not isinstance(payload, dict):
        raise InvalidEvent("payload", f"expected a dict, got {type(payload).__name__}")
    cleaned = _clean_dict(payload, "payload", 1)
    try:
        size = len(_encoder.encode(cleaned))
    except UnicodeEncodeError:
        raise InvalidEvent("payload", "holds text that is not valid Unicode (a lone surrogate)") from None
    if size > MAX_PAYLOAD_BYTES:
        raise InvalidEvent("payload", f"{size} bytes as JSON, at most {MAX_PAYLOAD_BYTES} are allowed")
    return cleaned


def _clean_dict(value: dict[Any, Any], path: str, depth: int) -> dict[str, Any]:
    if depth > MAX_DEPTH:
        raise InvalidEvent(path, f"nested deeper than {MAX_DEPTH}")
    result: dict[str, Any] = {}
    for key, item in value.items():
        if type(key) is not str:
            if not isinstance(key, str):
                raise InvalidEvent(path, f"keys are text, got {type(key).__name__}")
            key = str(key.value) if isinstance(key, Enum) else str(key)  # noqa: PLW2901  # str subclasses become plain text
        kind = type(item)
        # The common cases first and without a call: this runs for every field of every event.
        if kind in _AS_IS or (kind is int and _INT_MIN <= item <= _INT_MAX) or (kind is float and isfinite(item)):
            result[key] = item
        else:
            result[key] = _clean(item, f"{path}.{key}", depth)
    return result


def _clean_list(value: Iterable[Any], path: str, depth: int) -> list[Any]:
    if depth > MAX_DEPTH:
        raise InvalidEvent(path, f"nested deeper than {MAX_DEPTH}")
    result: list[Any] = []
    for index, item in enumerate(value):
        kind = type(item)
        if kind in _AS_IS or (kind is int and _INT_MIN <= item <= _INT_MAX) or (kind is float and isfinite(item)):
            result.append(item)
        else:
            result.append(_clean(item, f"{path}[{index}]", depth))
    return result


def _clean(value: Any, path: str, depth: int) -> Any:  # noqa: ANN401, C901, PLR0911, PLR0912  # one branch per accepted kind
    if isinstance(value, dict):
        return _clean_dict(value, path, depth + 1)
    if isinstance(value, (list, tuple)):
        return _clean_list(value, path, depth + 1)
    if isinstance(value, Enum):
        return _clean(value.value, path, depth)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        if not _INT_MIN <= value <= _INT_MAX:
            raise InvalidEvent(path, "integers are 64 bits signed; send larger ones as text")
        return int(value)
    if isinstance(value, float):
        if not isfinite(value):
            raise InvalidEvent(path, "NaN and infinities have no JSON form; leave the field out or send None")
        return float(value)
    if isinstance(value, (set, frozenset)):
        try:
            return sorted(_clean_list(value, path, depth + 1))
        except TypeError:
            raise InvalidEvent(path, "a set is sent sorted, and these items cannot be ordered") from None
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise InvalidEvent(path, "a datetime without a zone could mean any hour; make it aware")
        return value.isoformat()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, Decimal):
        if not value.is_finite():
            raise InvalidEvent(path, "NaN and infinities have no JSON form; leave the field out or send None")
        return str(value)
    raise InvalidEvent(path, f"{type(value).__name__} has no JSON form; send text, numbers, lists or dicts")

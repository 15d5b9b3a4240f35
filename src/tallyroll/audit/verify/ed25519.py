"""Whether an Ed25519 signature holds: RFC 8032, section 5.1.7, in plain integers. Some milliseconds each.

Only for checking, where there is no secret to give away by timing. Strict: S below the group order, points in their one
canonical form, and no cofactor, as OpenSSL does it.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha512
from typing import Final

_P: Final = 2**255 - 19
_L: Final = 2**252 + 27742317777372353535851937790883648493
_D: Final = -121665 * pow(121666, -1, _P) % _P
_ROOT: Final = pow(2, (_P - 1) // 4, _P)
_WINDOW: Final = 4

_Point = tuple[int, int, int, int]  # extended coordinates: x = X/Z, y = Y/Z, T = XY/Z


def is_signed(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether it is the key's signature of the message."""
    if len(public) != 32 or len(signature) != 64:
        return False
    s = int.from_bytes(signature[32:], "little")
    key = _decoded(public)
    if s >= _L or key is None:
        return False
    h = int.from_bytes(sha512(signature[:32] + public + message).digest(), "little") % _L
    x, y, z, t = key
    return _encoded(_add(_times(s, _base()), _times(h, (-x % _P, y, z, -t % _P)))) == signature[:32]


def _add(first: _Point, second: _Point) -> _Point:
    a = (first[1] - first[0]) * (second[1] - second[0]) % _P
    b = (first[1] + first[0]) * (second[1] + second[0]) % _P
    c = 2 * first[3] * second[3] * _D % _P
    d = 2 * first[2] * second[2] % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _times(scalar: int, point: _Point) -> _Point:
    table = [(0, 1, 1, 0), point]
    while len(table) < 1 << _WINDOW:
        table.append(_add(table[-1], point))
    found: _Point = (0, 1, 1, 0)
    for shift in range(252, -1, -_WINDOW):
        for _ in range(_WINDOW):
            found = _add(found, found)
        found = _add(found, table[scalar >> shift & 15])
    return found


def _encoded(point: _Point) -> bytes:
    inverse = pow(point[2], -1, _P)
    x, y = point[0] * inverse % _P, point[1] * inverse % _P
    return (y | (x & 1) << 255).to_bytes(32, "little")


@lru_cache(maxsize=64)
def _decoded(raw: bytes) -> _Point | None:
    number = int.from_bytes(raw, "little")
    y, sign = number & (1 << 255) - 1, number >> 255
    if y >= _P:
        return None
    x = _x_of(y, sign)
    return None if x is None else (x, y, 1, x * y % _P)


def _x_of(y: int, sign: int) -> int | None:
    square = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P
    x = pow(square, (_P + 3) // 8, _P)
    if (x * x - square) % _P:
        x = x * _ROOT % _P
    if (x * x - square) % _P or (not x and sign):
        return None
    return _P - x if x & 1 != sign else x


@lru_cache(maxsize=1)
def _base() -> _Point:
    y = 4 * pow(5, -1, _P) % _P
    x = _x_of(y, 0) or 0
    return x, y, 1, x * y % _P

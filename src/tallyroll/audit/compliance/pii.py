"""Personal data in texts and values: what has the form of it, and passes the check that its kind has. Pure.

Finds e-mail addresses, phone, card and account numbers, US social security numbers, IP addresses and dates of birth, and what
stands under a key such as ``name`` or ``address``. It does not find names of people in free text: seal free text.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from ipaddress import ip_address
from itertools import accumulate
from typing import Final, NamedTuple

from tallyroll.audit.compliance.checksums import is_card_number, is_iban, is_us_ssn
from tallyroll.audit.entry import has_value
from tallyroll.ports import PiiCandidate, PiiFinder

_PHONE: Final = r"(?:\(?\d{1,4}\)?[ ./-]{0,2}){2,5}\d{2,4}"
PATTERNS: Final[Mapping[str, str]] = {
    "email": r"(?i)\b([a-z0-9._%+-]{1,64}@[a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63}){0,4}\.[a-z]{2,24})\b",
    "card_number": r"\b((?:\d[ -]?){12,18}\d)\b",
    "iban": r"\b([A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?)\b",
    "us_ssn": r"\b(\d{3}[- ]\d{2}[- ]\d{4})\b",
    "ip_address": r"(?i)\b((?:\d{1,3}\.){3}\d{1,3}|[0-9a-f]{1,4}:[0-9a-f:]{2,34}[0-9a-f])\b",
    "phone": r"(?i)(\+\d{1,3}[ ./-]{0,2}" + _PHONE + r"|\(\d{3}\) ?\d{3}[ .-]\d{4}|\b\d{3}[.-]\d{3}[.-]\d{4})\b",
    "phone_by_context": r"(?i)\b(?:tel|telephone|phone|mobile|cell|fax|call|telefon|handy)\b[^\d+\n]{0,12}(" + _PHONE + r")\b",
    "birth_date": r"(?i)\b(?:born|dob|birth|birthdate|birthday|geboren)\b[^\d\n]{0,15}(\d{1,4}[./-]\d{1,2}[./-]\d{1,4})\b",
}
"""By kind, a pattern that RE2 and ``re`` read alike; the value is group 1. No part repeats without bound: ``re`` stays linear.

None goes across the end of a line, nor does a check that follows: so texts can be searched together, one a line.
"""

SEALED_PREFIX: Final = "sealed:1:"
"""A text that begins with it stands in the place of a personal value; see ``publish.privacy``."""

PERSONAL_KEYS: Final = frozenset({
    "name", "firstname", "lastname", "fullname", "surname", "givenname", "familyname", "maidenname", "address", "streetaddress",
    "homeaddress", "street", "postcode", "zipcode", "birth", "birthdate", "birthday", "dateofbirth", "dob", "placeofbirth", "email",
    "emailaddress", "phone", "phonenumber", "mobile", "mobilenumber", "telephone", "fax", "ssn", "socialsecuritynumber",
    "nationalid", "passport", "passportnumber", "driverslicense", "taxid", "iban", "bankaccount", "accountnumber", "cardnumber",
    "creditcard", "ipaddress", "gender", "ethnicity", "religion", "nationality", "diagnosis",
})  # fmt: skip
"""Keys whose values are personal, in lower case, without what stands between words."""

MAX_PEOPLE: Final = 100
"""A group of more would be erased with any of them; what names so many is no data of anybody in particular."""

_NOT_DOMAINS: Final = ("png", "jpg", "jpeg", "gif", "svg", "webp", "js", "css", "py", "json", "md")
_CARD_GROUPS: Final = re.compile(r"\d+|\d{4}(?:[ -]\d{4}){2,3}(?:[ -]\d{1,4})?|\d{4}[ -]\d{6}[ -]\d{4,5}", re.ASCII)
_PHONE_DIGITS: Final = range(7, 16)
_MAX_SHAPE: Final = 64  # keys of an object that is remembered by them
_BEFORE: Final = 12  # characters that a check sees of what stands before


class PersonalText(NamedTuple):
    """A stretch of a text, in characters, and what it is."""

    kind: str
    start: int
    end: int


class PersonalField(NamedTuple):
    """A field that holds personal data: its path of keys and indices, and what kinds were found. ``key``: by its key alone."""

    path: tuple[str | int, ...]
    kinds: tuple[str, ...]


class ReFinder:
    """Implements ``ports.PiiFinder`` with ``re``, for where RE2 is not installed. Slower: every kind is looked for in every text."""

    def __init__(self, patterns: Mapping[str, str]) -> None:
        self._kinds = [(kind, re.compile(pattern, re.ASCII)) for kind, pattern in patterns.items()]

    def candidates(self, text: str) -> Sequence[PiiCandidate]:
        return [PiiCandidate(kind, *match.span(1)) for kind, pattern in self._kinds for match in pattern.finditer(text)]


class PiiScanner:
    """Tells what is personal in a text or a value. ``keys`` are the keys whose values are personal whatever they hold."""

    def __init__(self, finder: PiiFinder, *, keys: Collection[str] = PERSONAL_KEYS) -> None:
        self._finder = finder
        self._keys = frozenset(map(plain_key, keys))

    def in_text(self, text: str) -> list[PersonalText]:
        """What is personal, in its order; of two that overlap, the longer one."""
        candidates = self._finder.candidates(text)
        if not candidates:
            return []
        found = [PersonalText(_KINDS.get(item.kind, item.kind), *item[1:]) for item in candidates if _is_one(text, item)]
        kept: list[PersonalText] = []
        for item in sorted(found, key=lambda item: (item.start, -item.end, item.kind)):
            if not kept or kept[-1].end <= item.start:
                kept.append(item)
            elif item.end - item.start > kept[-1].end - kept[-1].start:
                kept[-1] = item
        return kept

    def in_any(self, texts: Sequence[str]) -> list[bool]:
        """Of each text whether something in it is personal: as ``in_text`` of each, but in one search, a third of the work."""
        joined, personal = "\n".join(texts), [False] * len(texts)
        candidates = self._finder.candidates(joined)
        if candidates:
            starts = list(accumulate((len(text) + 1 for text in texts), initial=0))
            for item in candidates:
                at = bisect_right(starts, item.start) - 1
                personal[at] = personal[at] or _is_one(joined, item)
        return personal

    def in_lines(self, text: str) -> Collection[int]:
        """Which lines have something personal, counted from 0: as ``in_any`` of them, for who has them together."""
        candidates = self._finder.candidates(text)
        if not candidates:
            return ()
        ends = list(accumulate(len(line) + 1 for line in text.split("\n")))
        return {bisect_right(ends, item.start) for item in candidates if _is_one(text, item)}

    def in_value(self, value: object) -> list[PersonalField]:
        """The fields that hold personal data: texts, numbers, and what stands under a personal key, at any depth.

        A key that is itself personal, such as an address as a key, makes its value's field one.
        """
        found: list[PersonalField] = []
        waiting: list[tuple[tuple[str | int, ...], object]] = [((), value)]
        while waiting:
            path, item = waiting.pop()
            if isinstance(item, Mapping):
                for key, inner in item.items():
                    kinds = self._of_key(str(key), inner)
                    if kinds:
                        found.append(PersonalField((*path, key), kinds))
                    else:
                        waiting.append(((*path, key), inner))
            elif isinstance(item, (list, tuple)):
                waiting += [((*path, index), inner) for index, inner in enumerate(item)]
            elif isinstance(item, (str, int, float)) and not isinstance(item, bool) and (texts := self.in_text(str(item))):
                found.append(PersonalField(path, tuple(sorted({text.kind for text in texts}))))
        return sorted(found, key=lambda field: tuple(map(str, field.path)))

    def _of_key(self, key: str, value: object) -> tuple[str, ...]:
        if plain_key(key) in self._keys and has_value(value):
            return ("key",)
        return tuple(sorted({text.kind for text in self.in_text(key)}))


def plain_key(key: str) -> str:
    """A key in lower case without what stands between words: ``date_of_birth``, ``dateOfBirth`` and ``Date of birth`` are one."""
    return "".join(filter(str.isalnum, key)).lower()


def people_named(value: object, fields: Collection[str]) -> tuple[str, ...]:
    """The people whom these fields name, at any depth of a value, sorted; nobody where there are more than ``MAX_PEOPLE``."""
    keys = _plain_keys(tuple(fields))
    found: list[str] = []
    waiting: list[object] = [value] if value and keys else []
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            for key in (_naming if len(item) <= _MAX_SHAPE else _naming.__wrapped__)(tuple(item), keys):
                found += _names(item[key])
            waiting += [inner for inner in item.values() if isinstance(inner, (dict, list))]
        elif isinstance(item, list):
            waiting += [inner for inner in item if isinstance(inner, (dict, list))]
    people = sorted(set(found)) if len(found) > 1 else found
    return tuple(people) if len(people) <= MAX_PEOPLE else ()


def is_name(value: object) -> bool:
    """Whether a value can name somebody; what was sealed in its place cannot, and is another text each time."""
    if isinstance(value, str):
        return bool(value.strip()) and not value.startswith(SEALED_PREFIX)
    return isinstance(value, int) and not isinstance(value, bool)


def _names(value: object) -> list[str]:
    if type(value) is str:  # the usual case
        return [value] if is_name(value) else []
    return [str(one) for one in (value if isinstance(value, list) else [value]) if is_name(one)]


@lru_cache(64)
def _plain_keys(fields: tuple[str, ...]) -> frozenset[str]:
    return frozenset(map(plain_key, fields))


@lru_cache(4_096)
def _naming(keys: tuple[str, ...], fields: frozenset[str]) -> tuple[str, ...]:
    """Those of an object's keys whose values name people: most objects have the keys of many others."""
    return tuple([key for key in keys if plain_key(key) in fields])


def _is_one(text: str, item: PiiCandidate) -> bool:
    return _CHECKS[item.kind](text[item.start : item.end], text[max(0, item.start - _BEFORE) : item.start], text[item.end : item.end + 2])


def _is_email(value: str, _before: str, _after: str) -> bool:
    local, _, domain = value.rpartition("@")
    if domain.rpartition(".")[2].lower() in _NOT_DOMAINS or "-." in domain or ".-" in domain or domain.startswith("-"):
        return False
    return not (local.startswith(".") or local.endswith(".") or ".." in local)


def _is_card(value: str, before: str, _after: str) -> bool:
    return not before.endswith((".", "-", "#")) and _CARD_GROUPS.fullmatch(value) is not None and is_card_number(value)


def _is_ssn(value: str, before: str, after: str) -> bool:
    return not before.endswith("-") and not after.startswith("-") and is_us_ssn(value)


def _is_ip(value: str, before: str, after: str) -> bool:
    dotted = "." in value
    if before.endswith((".", ":", "-")) or (dotted and (after[:1] in ("-", "/") or (after[:1] == "." and after[1:].isdigit()))):
        return False
    if dotted and re.search(r"(?:\bv|version|release|build)[ :=]{0,2}\Z", before, re.IGNORECASE):
        return False
    try:
        address = ip_address(value)
    except ValueError:
        return False
    return not (address.is_unspecified or address.is_loopback)


def _is_phone(value: str, before: str, after: str) -> bool:
    digits = sum(map(str.isdigit, value))
    return digits in _PHONE_DIGITS and not before.endswith((".", "-", "_", "=")) and not re.match(r"[.-]\d", after)


def _is_date(value: str, _before: str, _after: str) -> bool:
    first, month, last = map(int, re.split(r"[./-]", value))
    years = [number for number in (first, last) if 1890 <= number <= 2100]  # noqa: PLR2004  # people who live
    return len(years) == 1 and 1 <= month <= 31 and 1 <= min(first, last) <= 31  # noqa: PLR2004  # day and month in either order


_KINDS: Final = {"phone_by_context": "phone"}
_CHECKS: Final[Mapping[str, Callable[[str, str, str], bool]]] = {
    "email": _is_email,
    "card_number": _is_card,
    "iban": lambda value, _before, _after: is_iban(value),
    "us_ssn": _is_ssn,
    "ip_address": _is_ip,
    "phone": _is_phone,
    "phone_by_context": _is_phone,
    "birth_date": _is_date,
}

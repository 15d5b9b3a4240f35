"""A corpus of made-up texts, with and without personal data in them, and how well a scanner does on it.

Nothing in it belongs to anybody: names of hosts end in reserved names, numbers are drawn. Deterministic for a seed. What has no
form, names of people and what is written to deceive, is in it under ``hard``, and forms that the patterns were not written for
under ``unusual``: a pattern finds little of that, and shall not pretend to. Among what is not personal there are numbers that
nobody can tell from the real thing, a part number that looks like a social security number for one.

Patterns and corpus come from one hand. What it says is an upper bound of what texts from elsewhere would.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from random import Random
from typing import Final, NamedTuple

from tallyroll.audit.compliance.checksums import is_card_number, is_iban
from tallyroll.audit.compliance.pii import PiiScanner

HARD: Final = "hard"
"""The kind of personal data that has no form, or one that is made to deceive."""

UNUSUAL: Final = "unusual"
"""The kind of personal data that is written as people write it, and as no pattern expects it."""


class LabelledText(NamedTuple):
    """A text, and what is personal in it: (kind, value)."""

    text: str
    personal: tuple[tuple[str, str], ...] = ()


class Quality(NamedTuple):
    """How often a scanner was right and wrong about a kind. ``found`` counts what is there and was found, as a whole."""

    there: int
    found: int
    wrong: int

    @property
    def precision(self) -> float:
        """Of what was found, how much is there; 1 where nothing was found."""
        return self.found / (self.found + self.wrong) if self.found + self.wrong else 1.0

    @property
    def recall(self) -> float:
        """Of what is there, how much was found."""
        return self.found / self.there if self.there else 1.0


def corpus(size: int, seed: int = 1) -> list[LabelledText]:
    """So many texts: a half holds personal data, a tenth of these without a form, a tenth in an unusual one; the other half is none."""
    draw = Random(seed)  # noqa: S311  # test data, not keys
    texts = []
    for number in range(size):
        if number % 2:
            texts.append(LabelledText(draw.choice(_FRAMES).format(draw.choice(_NEGATIVES)(draw))))
            continue
        make, frames, kind = _EVERY_TWENTIETH.get(number % 20) or draw.choice(_POSITIVES)
        value = make(draw)
        texts.append(LabelledText(draw.choice(frames).format(value), ((kind, value),)))
    return texts


def quality(scanner: PiiScanner, texts: Iterable[LabelledText]) -> dict[str, Quality]:
    """By kind. A find counts if kind, start and end are right; what is found inside a hard or unusual value counts for it, once."""
    there: Counter[str] = Counter()
    found: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    for text, personal in texts:
        spans = {(kind, text.index(value), text.index(value) + len(value)) for kind, value in personal}
        there.update(kind for kind, _, _ in spans)
        for item in scanner.in_text(text):
            loose = (span for span in spans if span[0] in (HARD, UNUSUAL) and span[1] <= item.start and item.end <= span[2])
            known = tuple(item) if tuple(item) in spans else next(loose, None)
            if known is None:
                wrong[item.kind] += 1
            else:
                found[str(known[0])] += 1
                spans.discard(known)
    return {kind: Quality(there[kind], found[kind], wrong[kind]) for kind in sorted({*there, *wrong})}


def _digits(draw: Random, count: int) -> str:
    return "".join(draw.choices("0123456789", k=count))


def _until(make: Callable[[], str], right: Callable[[str], bool]) -> str:
    while not right(text := make()):
        pass
    return text


def _spaced(text: str, *groups: int, by: str = " ") -> str:
    parts, start = [], 0
    for group in groups:
        parts.append(text[start : start + group])
        start += group
    return by.join(part for part in [*parts, text[start:]] if part)


def _email(draw: Random) -> str:
    local = draw.choice(["anna", "bert.meier", "c_lopez", "d.o-neil", "e+news", "f1987", "GRETA"])
    return f"{local}@{draw.choice(['mail.example', 'corp.example.com', 'uni-x.example.org', 'a.b.example.net'])}"


def _card(draw: Random) -> str:
    prefix = draw.choice(["4", "51", "55", "34", "37", "6011", "2221", "3528"])
    length = 15 if prefix in ("34", "37") else 16
    card = _until(lambda: prefix + _digits(draw, length - len(prefix)), is_card_number)
    groups = (4, 6) if length == 15 else (4, 4, 4)  # noqa: PLR2004  # as it stands on the cards
    return draw.choice([card, _spaced(card, *groups), _spaced(card, *groups, by="-")])


def _iban(draw: Random) -> str:
    country, rest = draw.choice([("DE", 18), ("FR", 23), ("NL", 14), ("AT", 16), ("ES", 20), ("CH", 17)])
    body = _digits(draw, rest)
    iban = next(text for check in range(100) if is_iban(text := f"{country}{check:02}{body}"))
    return draw.choice([iban, _spaced(iban, *[4] * (len(iban) // 4))])


def _ssn(draw: Random) -> str:
    area = draw.choice([number for number in range(1, 900) if number != 666])  # noqa: PLR2004  # never given out
    return f"{area:03}-{draw.randint(1, 99):02}-{draw.randint(1, 9999):04}"


def _ip(draw: Random) -> str:
    four = f"{draw.randint(1, 126)}." + ".".join(str(draw.randint(1, 254)) for _ in range(3))  # 127 is everybody's
    return draw.choice(
        [four, "2001:db8:" + ":".join(f"{draw.randint(1, 65535):x}" for _ in range(6)), f"2001:db8::{draw.randint(1, 65535):x}"]
    )


def _phone(draw: Random) -> str:
    four, last = _digits(draw, 4), f"01{_digits(draw, 1)}-{_digits(draw, 4)}"
    return draw.choice(
        [
            f"+49 30 {four} {_digits(draw, 4)}",
            f"+44 20 7946 {four}",
            f"+1 (555) {last}",
            f"(555) {last}",
            f"555-{last}",
            f"+336{four}{four}",
        ]
    )


def _national(draw: Random) -> str:
    return draw.choice(
        [
            f"030 {_digits(draw, 4)} {_digits(draw, 3)}",
            f"0171/{_digits(draw, 7)}",
            f"01 {_digits(draw, 2)} {_digits(draw, 2)} {_digits(draw, 2)}",
        ]
    )


def _date(draw: Random) -> str:
    year, month, day = draw.randint(1930, 2010), draw.randint(1, 12), draw.randint(1, 28)
    return draw.choice([f"{year}-{month:02}-{day:02}", f"{day:02}.{month:02}.{year}", f"{month}/{day}/{year}"])


def _hard(draw: Random) -> str:
    number = _digits(draw, 9)
    known = ["anna at mail dot example", "Anna Maier from Ulm", "bert (at) corp.example.com", "the patient with the red scarf"]
    return draw.choice([*known, f"my number is {number}", f"social {number}", f"four one one one, then {number}"])


def _unusual(draw: Random) -> str:
    card, ssn = _until(lambda: "4" + _digits(draw, 15), is_card_number), _ssn(draw)
    return draw.choice([
        _iban(draw).lower(), _spaced(card, 4, 4, 4, by="."), _spaced(card, 2, 5, 5), ssn.replace("-", ""), ssn.replace("-", "."),
        "jürgen@büro.example", "anna@[192.0.2.7]", _email(draw).replace("@", " @ "), f"{_ip(draw)}:8080", f"0171-{_digits(draw, 7)}",
        f"0049{_digits(draw, 10)}", "12 March 1971 in Ulm", f"born in March {draw.randint(1940, 1999)}",
    ])  # fmt: skip


def _wrong_card(draw: Random) -> str:
    return _until(lambda: draw.choice("456") + _digits(draw, 15), lambda text: not is_card_number(text))


_FRAMES: Final = (
    "The user wrote {} in the ticket.", "see {}", "{}", "(was {}) and is done", "Found: {}, {{}} ignored", "Bitte an {} wenden",
    'the value "{}" came from the form', "tool returned {}; retrying",
)  # fmt: skip
_POSITIVES: Final[tuple[tuple[Callable[[Random], str], tuple[str, ...], str], ...]] = (
    (_email, (*_FRAMES, "<{}>", "mailto:{}?subject=hi"), "email"),
    (_card, (*_FRAMES, "card {} exp 12/29"), "card_number"),
    (_iban, (*_FRAMES, "IBAN: {}"), "iban"),
    (_ssn, (*_FRAMES, "SSN {}"), "us_ssn"),
    (_ip, (*_FRAMES, "client={}"), "ip_address"),
    (_phone, (*_FRAMES, "phone: {}"), "phone"),
    (_national, ("phone: {}", "please call {} tomorrow", "Tel. {}", "Fax {}"), "phone"),
    (_date, ("born {}", "date of birth: {}", "DOB {}", "geboren am {}", "birthday is {}"), "birth_date"),
)
_EVERY_TWENTIETH: Final = {0: (_hard, _FRAMES, HARD), 10: (_unusual, _FRAMES, UNUSUAL)}
_NEGATIVES: Final[tuple[Callable[[Random], str], ...]] = (
    lambda draw: _spaced(f"{draw.getrandbits(128):032x}", 8, 4, 4, 4, by="-"),
    lambda draw: f"{draw.getrandbits(256):064x}",
    lambda draw: f"{draw.getrandbits(160):040x}",
    lambda draw: f"version {draw.randint(1, 20)}.{draw.randint(0, 40)}.{draw.randint(0, 99)}.{draw.randint(0, 9)}",
    lambda draw: f"v{draw.randint(1, 20)}.{draw.randint(0, 40)}.{draw.randint(0, 99)}.{draw.randint(0, 9)}-rc1",
    lambda draw: f"{draw.randint(1, 20)}.{draw.randint(0, 40)}.{draw.randint(0, 99)}",
    lambda draw: f"order {_digits(draw, 3)}-{_digits(draw, 7)}-{_digits(draw, 7)}",
    lambda draw: f"INV-{draw.randint(2000, 2030)}-{_digits(draw, 6)}",
    _wrong_card,
    lambda draw: f"2026-01-1{draw.randint(0, 9)}T12:{draw.randint(10, 59)}:{draw.randint(10, 59)}.{_digits(draw, 6)}Z",
    lambda draw: f"17{_digits(draw, 11)}",
    lambda draw: f"{draw.randint(1, 999)},{_digits(draw, 3)}.{_digits(draw, 2)} EUR",
    lambda draw: ":".join(f"{draw.getrandbits(8):02x}" for _ in range(6)),
    lambda draw: f"icon@{draw.randint(2, 4)}x.png",
    lambda draw: f"pkg@{draw.randint(1, 9)}.{draw.randint(0, 20)}.{draw.randint(0, 9)}",
    lambda draw: f"pages {draw.randint(100, 400)}-{draw.randint(401, 999)}",
    lambda draw: f"sku {_digits(draw, 3)}-{_digits(draw, 2)}-{_digits(draw, 4)}-{_digits(draw, 2)}",
    lambda draw: f"std::{draw.choice(['map', 'add', 'face'])}::bad",
    lambda draw: f"took {draw.random():.15f} s",
    lambda draw: f"part {_digits(draw, 3)}-{_digits(draw, 2)}-{_digits(draw, 4)}",
    lambda draw: f"firmware {draw.randint(1, 20)}.{draw.randint(0, 40)}.{draw.randint(0, 99)}.{draw.randint(0, 9)}",
    lambda draw: f"ticket {_digits(draw, 3)}-{_digits(draw, 3)}-{_digits(draw, 4)}",
    lambda draw: f"tracking {draw.choice('456')}{_digits(draw, 15)}",
    lambda draw: f"DE{_digits(draw, 2)} lot {_digits(draw, 4)}",
)

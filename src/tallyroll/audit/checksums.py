"""Numbers that check themselves: what has the form of a card number, and is none, is told from what is one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

CARD: Final = re.compile(r"(?<![\w.])(?:\d[ -]?){12,18}\d(?![\w])", re.ASCII)
_CARD_LENGTHS: Final = range(13, 20)
_BRANDS: Final = re.compile(r"4|5[1-5]|2(?:22[1-9]|2[3-9]|[3-6]|7[01]|720)|3[47]|3(?:0[0-5]|[689])|35|6", re.ASCII)
_DOUBLED: Final = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)


def luhn(digits: str) -> bool:
    """Whether the last digit is the Luhn check digit of the others."""
    return (sum(map(int, digits[-1::-2])) + sum(_DOUBLED[int(digit)] for digit in digits[-2::-2])) % 10 == 0


def is_card_number(text: str) -> bool:
    """Whether it is a payment card number: a brand's first digits, 13 to 19 digits in all, and the check digit."""
    digits = re.sub(r"[ -]", "", text)
    if not digits.isascii() or not digits.isdigit() or len(digits) not in _CARD_LENGTHS:
        return False
    return _BRANDS.match(digits) is not None and len(set(digits)) > 1 and luhn(digits)


def card_numbers(text: str) -> Iterator[tuple[int, int]]:
    """Where card numbers stand in a text."""
    return (found.span() for found in CARD.finditer(text) if is_card_number(found.group()))

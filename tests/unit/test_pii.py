"""What is found of personal data, what is left alone, and that both finders find the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallyroll.adapters.re2 import Re2Finder
from tallyroll.audit.compliance.checksums import is_card_number, is_iban
from tallyroll.audit.compliance.pii import MAX_PEOPLE, PATTERNS, PersonalField, PiiScanner, ReFinder, people_named
from tallyroll.testing.pii_corpus import HARD, UNUSUAL, corpus, quality

FINDERS = {"re2": Re2Finder(PATTERNS), "re": ReFinder(PATTERNS)}
SCANNERS = {name: PiiScanner(finder) for name, finder in FINDERS.items()}
SEED = 2026  # not the one that the patterns were written by
LOOKALIKES = {"ip_address": 0.6, "phone": 0.7, "us_ssn": 0.65}  # firmware, ticket and part numbers that nobody can tell apart


@pytest.fixture(params=SCANNERS)
def scanner(request: pytest.FixtureRequest) -> PiiScanner:
    return SCANNERS[request.param]


def found(scanner: PiiScanner, text: str) -> list[tuple[str, str]]:
    return [(item.kind, text[item.start : item.end]) for item in scanner.in_text(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("write to anna.b+x@mail.example, or not", [("email", "anna.b+x@mail.example")]),
        ("<a@b.example.com>", [("email", "a@b.example.com")]),
        ("card 4111-1111-1111-1111 exp", [("card_number", "4111-1111-1111-1111")]),
        ("amex 378282246310005", [("card_number", "378282246310005")]),
        ("DE89 3704 0044 0532 0130 00 please", [("iban", "DE89 3704 0044 0532 0130 00")]),
        ("GB82WEST12345698765432", [("iban", "GB82WEST12345698765432")]),
        ("ssn 078-05-1120.", [("us_ssn", "078-05-1120")]),
        ("from 10.1.2.3: denied", [("ip_address", "10.1.2.3")]),
        ("from 2001:db8::7 denied", [("ip_address", "2001:db8::7")]),
        ("ring +44 20 7946 0958 now", [("phone", "+44 20 7946 0958")]),
        ("(555) 010-9999", [("phone", "(555) 010-9999")]),
        ("Tel. 030 1234567", [("phone", "030 1234567")]),
        ("born on 12.03.1971 in Ulm", [("birth_date", "12.03.1971")]),
        ("ä 😀 a@b.example ü", [("email", "a@b.example")]),
        ("\ud800 a@b.example", [("email", "a@b.example")]),
        ("a@b.example and 4111111111111111", [("email", "a@b.example"), ("card_number", "4111111111111111")]),
    ],
)
def test_what_is_personal_is_found_whole(scanner: PiiScanner, text: str, expected: list[tuple[str, str]]) -> None:
    assert found(scanner, text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nothing here",
        "4111 1111 1111 1112",
        "DE88 3704 0044 0532 0130 00",
        "000-12-3456 666-12-3456 900-12-3456 123-00-4567 123-45-0000",
        "999.1.2.3 and 1.2.3.4.5 and version 1.2.3.4 and 127.0.0.1",
        "12:34:56 and aa:bb:cc:dd:ee:ff",
        "image@2x.png a..b@c.example.",
        "3f2b8c1e-9d4a-4f6b-8e21-0a1b2c3d4e5f",
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "2026-11-26T14:23:07.123456Z",
        "due 12.03.2031",
        "1764166987123",
    ],
)
def test_what_only_looks_like_it_is_left_alone(scanner: PiiScanner, text: str) -> None:
    assert found(scanner, text) in ([], [("email", "b@c.example")])


def test_fields_are_found_at_any_depth_by_content_and_by_key(scanner: PiiScanner) -> None:
    value = {
        "note": "call +44 20 7946 0958",
        "customer": {"FirstName": "Anna", "date_of_birth": "1971", "name": "", "score": 3, "ok": True},
        "cards": [1, 4111111111111111, ("a@b.example and 10.1.2.3",)],
        "a@b.example": "as a key",
        "none": None,
        "tool_name": "search",
    }
    assert scanner.in_value(value) == [
        PersonalField(("a@b.example",), ("email",)),
        PersonalField(("cards", 1), ("card_number",)),
        PersonalField(("cards", 2, 0), ("email", "ip_address")),
        PersonalField(("customer", "FirstName"), ("key",)),
        PersonalField(("customer", "date_of_birth"), ("key",)),
        PersonalField(("note",), ("phone",)),
    ]
    assert PiiScanner(FINDERS["re2"], keys=["Score"]).in_value({"score": 3}) == [PersonalField(("score",), ("key",))]


def test_a_text_itself_is_a_field_without_a_path(scanner: PiiScanner) -> None:
    assert scanner.in_value("a@b.example") == [PersonalField((), ("email",))]
    assert scanner.in_value(7) == scanner.in_value(None) == scanner.in_value({}) == []


def test_no_depth_is_too_deep(scanner: PiiScanner) -> None:
    value: object = "a@b.example"
    for _ in range(3_000):
        value = [value]
    [field] = scanner.in_value(value)
    assert (len(field.path), field.kinds) == (3_000, ("email",))


@pytest.mark.slow
def test_the_corpus_is_found_by_both_alike_and_its_checks_are_right() -> None:
    texts = corpus(4_000, SEED)
    figures = quality(SCANNERS["re2"], texts)
    assert quality(SCANNERS["re"], texts) == figures
    for kind in figures.keys() - {HARD, UNUSUAL}:
        assert figures[kind].there > 100
        assert figures[kind].precision >= LOOKALIKES.get(kind, 0.93), kind
        assert figures[kind].recall >= 0.97, kind
    assert figures[HARD].recall < 0.2  # what has no form is not found: seal free text
    assert figures[UNUSUAL].recall < 0.5
    for text in texts:
        for kind, value in text.personal:
            assert {"card_number": is_card_number, "iban": is_iban}.get(kind, bool)(value)


def test_a_scanner_that_finds_nothing_or_everything_is_seen_by_the_corpus() -> None:
    class Finds:
        def __init__(self, kinds):
            self.kinds = kinds

        def candidates(self, text):
            return [item for item in FINDERS["re2"].candidates(text) if item.kind in self.kinds]

    texts = corpus(400, SEED)
    blind = quality(PiiScanner(Finds(())), texts)
    assert {figure.recall for figure in blind.values()} == {0.0}
    assert quality(PiiScanner(Finds(set(PATTERNS) - {"email"})), texts)["email"].recall == 0.0

    class SeesEmailEverywhere:
        def in_text(self, text):
            return [SCANNERS["re2"].in_text("a@b.example")[0]._replace(end=len(text))]

    assert quality(SeesEmailEverywhere(), texts)["email"].precision < 0.3


@given(st.text(alphabet=st.sampled_from("0123456789 -.+@:abcdefDE()/\n"), max_size=80))
def test_both_finders_find_the_same(text: str) -> None:
    assert SCANNERS["re2"].in_text(text) == SCANNERS["re"].in_text(text)


@given(st.text())
def test_what_is_found_is_inside_the_text_in_order_and_apart(text: str) -> None:
    end = 0
    for item in SCANNERS["re2"].in_text(text):
        assert end <= item.start < item.end <= len(text)
        end = item.end


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["a", "1 ", "+1", "a@", "1.1.", "ab:", "1-", "DE12 ", "a@b.example "])
def test_no_text_is_too_long(scanner: PiiScanner, unit: str) -> None:
    text = unit * (100_000 // len(unit))
    assert len(scanner.in_text(text)) <= len(text)


FRAGMENTS = [
    "", "4111 1111 1111 1111", "a@b.example", "ring", "tel", "+44 20 7946", "0958", "version", "10.1.2.3", "078-05", "-1120", "1",
    "born on", "12.03.1971", "DE89 3704 0044", "0532 0130 00", ".", "-", "#", "(555) 010", "\n", "x", "\ud800", "ä",
]  # fmt: skip


@pytest.mark.parametrize("name", FINDERS)
@given(data=st.data())
def test_texts_searched_together_are_told_apart(name: str, data: st.DataObject) -> None:
    """Whatever one text ends with does not make the next one personal, nor the other way round."""
    pieces = st.sampled_from(FRAGMENTS) | st.sampled_from([one.text for one in corpus(40, SEED)])
    texts = data.draw(st.lists(st.lists(pieces, max_size=3).map("".join), max_size=6))
    assert SCANNERS[name].in_any(texts) == [bool(SCANNERS[name].in_text(text)) for text in texts]


MANY = {f"field_{number}": number for number in range(100)}


@pytest.mark.parametrize(
    ("value", "people"),
    [
        ({"customer_id": "bert"}, ("bert",)),
        ({"customer_id": 7}, ("7",)),
        ({"customer_id": " "}, ()),
        ({"customer_id": True}, ()),
        ({"customer_id": ["carl", "bert", "carl", {"customerId": "anna"}]}, ("anna", "bert", "carl")),
        ({"Customer-ID": "bert", "a": [[{"b": {"customer_id": "anna"}}]]}, ("anna", "bert")),
        ({**MANY, "customer_id": "bert", "a": {**MANY, "customer_id": "anna"}}, ("anna", "bert")),
        ({"customer_id": [f"c-{number}" for number in range(MAX_PEOPLE + 1)]}, ()),
        ({"note": "bert"}, ()),
        ("bert", ()),
        ({}, ()),
    ],
)
def test_people_are_those_that_the_fields_name_at_any_depth(value: object, people: tuple[str, ...]) -> None:
    for _ in range(2):  # the second time its keys are known
        assert people_named(value, ["customer_id"]) == people
    assert people_named(value, []) == people_named(value, ["nobody_id"]) == ()

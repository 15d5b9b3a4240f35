"""What every key ring must do: the behaviour of ``ports.KeyRing``, as cases that any adapter can run.

::

    def test_my_ring():
        for case in CASES:
            case(open_my_ring)

``open_my_ring`` opens a ring, each time the same one, as other processes and later ones would see it; it must be empty when a
case begins. A case raises AssertionError with the promise that was broken, and closes what it opened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from typing import Final

from tallyroll.audit.ledger.chain import Draft, Sealed, Writer
from tallyroll.audit.ledger.layout import Kind
from tallyroll.audit.ledger.subjects import part_about, text_of
from tallyroll.errors import KeyGone
from tallyroll.ports import Cipher, Enrolment, KeyRing
from tallyroll.testing.contract import expect, expect_equal
from tallyroll.testing.ledger import NonceWatch

__all__ = ["CASES", "SEALING_CASES", "Case", "OpenRing", "SealingCase"]

OpenRing = Callable[[], KeyRing]
"""Opens the ring under test."""

Case = Callable[[OpenRing], None]
SealingCase = Callable[[OpenRing, Cipher], None]

_NOW_US: Final = 1_800_000_000_000_000
_LOG: Final = bytes(range(16))
_KEY_BYTES: Final = 32
_HANDLE_BYTES: Final = 16
_ODD_NAMES: Final = ("anna", "Anna", "anna ", "änna", "a\u0308nna", "", "漢 🙂", "x" * 5_000)


@contextmanager
def _opened(*openers: OpenRing) -> Iterator[list[KeyRing]]:
    with ExitStack() as stack:
        yield [stack.enter_context(closing(opener())) for opener in openers]


def _gone(what: str, ask: Callable[[], object]) -> None:
    try:
        ask()
    except KeyGone:
        return
    raise AssertionError(f"{what}: KeyGone is raised")


def no_epoch_is_given_twice(opener: OpenRing) -> None:
    """New writers are new; the epochs of one rise, over openings and above what the caller knows; every first key is its own."""
    given: list[Enrolment] = []
    writer: bytes | None = None
    for after in (0, 0, 7, 0):
        with _opened(opener, opener) as rings:
            for ring in rings:
                own = ring.enrol(_NOW_US, writer=writer, after=after)
                given += [own, ring.enrol(_NOW_US)]
                writer = writer or own.writer
    epochs = [item.epoch for item in given if item.writer == writer]
    expect(epochs == sorted(set(epochs)) and len(epochs) == len(given) // 2, "the epochs of a writer only rise")
    expect(epochs[4] > 7, "an epoch is above the newest one that the caller knows")  # noqa: PLR2004  # the third round's first
    expect_equal(len({(item.writer, item.epoch) for item in given}), len(given), "epochs given once")
    expect_equal(len({item.k0 for item in given}), len(given), "first keys of their own")
    expect(all(len(item.k0) == _KEY_BYTES and item.opened_us == _NOW_US for item in given), "what an enrolment says")


def an_enrolment_can_be_checked_later(opener: OpenRing) -> None:
    """The first key stays for who verifies, and only the right token admits."""
    with _opened(opener) as [ring]:
        one, other = ring.enrol(_NOW_US), ring.enrol(_NOW_US)
    with _opened(opener) as [ring]:
        expect_equal(ring.k0(one.writer, one.epoch), one.k0, "the first key of an epoch")
        expect(ring.admits(one.writer, one.epoch, one.token), "the right token admits")
        expect(not ring.admits(one.writer, one.epoch, other.token), "another's token does not admit")
        expect(not ring.admits(one.writer, one.epoch + 1, one.token), "a token does not admit another epoch")
        expect(not ring.admits(one.writer, one.epoch, "ü"), "what is no token does not admit")
        _gone("the first key of an epoch that never was", lambda: ring.k0(one.writer, one.epoch + 1))


def a_subject_keeps_its_key(opener: OpenRing) -> None:
    """The same name gives the same key in every opening, another name another one, whatever the names look like."""
    with _opened(opener) as [ring]:
        first = list(ring.subjects(_ODD_NAMES))
        expect_equal(ring.subjects([]), [], "no names, no keys")
    with _opened(opener) as [ring]:
        expect_equal(list(ring.subjects([*reversed(_ODD_NAMES)])), first[::-1], "keys in the order of the names, in a later opening")
        expect_equal([ring.key(key.handle) for key in first], [key.key for key in first], "keys by their handles")
        expect_equal([ring.handle_of(name) for name in _ODD_NAMES], [key.handle for key in first], "handles by name")
        expect_equal(ring.handle_of("bert"), None, "the handle of who has no key")
    expect_equal(len({key.key for key in first}), len(first), "keys of their own")
    expect(all(len(key.key) == _KEY_BYTES and len(key.handle) == _HANDLE_BYTES for key in first), "lengths of keys and handles")


def drawn_keys_are_all_different(opener: OpenRing) -> None:
    """Keys of nobody known are new each time, and stay."""
    with _opened(opener) as [ring]:
        drawn = [*ring.draw(3), *ring.draw(2)]
    with _opened(opener) as [ring]:
        expect_equal([ring.key(key.handle) for key in drawn], [key.key for key in drawn], "drawn keys in a later opening")
    expect_equal(len({key.key for key in drawn}), 5, "drawn keys of their own")


def a_destroyed_key_is_gone_everywhere(opener: OpenRing) -> None:
    """Gone at once in every opening, with its groups; its neighbours stay; the same name gets another key afterwards."""
    with _opened(opener, opener) as [here, there]:
        anna, bert, carl = here.subjects(["anna", "bert", "carl"])
        with_bert, without = here.group([anna.handle, bert.handle]), here.group([carl.handle, anna.handle])
        expect_equal(there.group([bert.handle, anna.handle]), with_bert, "the handle of the same group")
        expect_equal(there.key(bert.handle), bert.key, "a key in another opening")
        expect_equal(list(there.groups_with(anna.handle)), sorted([with_bert, without]), "the groups of a member")
        before = there.destructions()
        expect_equal(there.destructions(), before, "what tells of destructions while nothing was destroyed")
        expect_equal(list(here.destroy([bert.handle])), sorted([bert.handle, with_bert]), "what died")
        expect(there.destructions() not in (before, b""), "another opening sees that keys were destroyed")
        for ring in (here, there):
            _gone("a destroyed key", partial(ring.key, bert.handle))
            _gone("a group of a destroyed key", partial(ring.members, with_bert))
            _gone("a new group with a destroyed key", partial(ring.group, [anna.handle, bert.handle]))
            expect_equal(ring.key(anna.handle), anna.key, "the key of a neighbour")
            expect_equal(sorted(ring.members(without)), sorted([anna.handle, carl.handle]), "the group of neighbours")
            expect_equal(ring.handle_of("bert"), None, "the handle of who was erased")
            expect_equal(list(ring.groups_with(anna.handle)), [without], "the groups that are left")
        expect_equal(list(there.destroy([bert.handle, bytes(16)])), [], "what dies of a second destruction")
        [again] = there.subjects(["bert"])
        expect(again.key != bert.key and again.handle != bert.handle, "who comes back gets another key and handle")
    with _opened(opener) as [ring]:
        _gone("a destroyed key in a later opening", lambda: ring.key(bert.handle))
        ring.rotate()
        _gone("a destroyed key after a rotation", lambda: ring.key(bert.handle))


def what_is_missing_is_told_of_many_at_once(opener: OpenRing) -> None:
    """Keys that were destroyed, that never were, and groups that have lost a member; over openings and rotations."""
    with _opened(opener, opener) as [here, there]:
        anna, bert = here.subjects(["anna", "bert"])
        one, other = here.draw(2)
        group = here.group([anna.handle, bert.handle])
        handles = [anna.handle, bert.handle, one.handle, other.handle, group]
        stranger = bytes(_HANDLE_BYTES)
        expect_equal(list(there.missing([])), [], "what is missing of nothing")
        expect_equal(list(there.missing([stranger, *handles])), [stranger], "what never was")
        here.destroy([bert.handle, other.handle])
        there.rotate()
        gone = sorted([bert.handle, other.handle, group])
        expect_equal(sorted(there.missing({*handles})), gone, "what was destroyed, and a group with such a member")
    with _opened(opener) as [ring]:
        expect_equal(sorted(ring.missing(tuple(handles))), gone, "what is missing in a later opening")


def a_rotation_changes_no_answer(opener: OpenRing) -> None:
    """Keys, groups and epochs are as before, in openings from before and after; the number of the key rises."""
    with _opened(opener, opener) as [here, there]:
        anna, bert = here.subjects(["anna", "bert"])
        group, writer = here.group([anna.handle, bert.handle]), here.enrol(_NOW_US)
        first = here.rotate()
        expect(there.rotate() > first, "the number of the ring's key rises")
    with _opened(opener) as [ring]:
        for asked in (here, ring):
            expect_equal(list(asked.subjects(["anna", "bert"])), [anna, bert], "keys after a rotation")
            expect_equal(sorted(asked.members(group)), sorted([anna.handle, bert.handle]), "a group after a rotation")
            expect_equal(asked.k0(writer.writer, writer.epoch), writer.k0, "a first key after a rotation")
        expect(ring.enrol(_NOW_US, writer=writer.writer).epoch > writer.epoch, "epochs rise over a rotation")


def nothing_shown_holds_a_key_or_a_name(opener: OpenRing) -> None:
    """No repr, and no text of an error."""
    with _opened(opener) as [ring]:
        [key] = ring.subjects(["anna-of-the-contract"])
        enrolment = ring.enrol(_NOW_US)
        shown = repr((ring, key, enrolment))
        ring.destroy([key.handle])
        try:
            ring.key(key.handle)
        except KeyGone as error:
            shown += repr(error) + str(error)
        for secret in (key.key, enrolment.k0):
            expect(secret.hex() not in shown and repr(secret) not in shown, "no key is shown")
        expect("anna-of" not in shown and enrolment.token not in shown, "no name and no token is shown")


def no_nonce_is_used_twice(opener: OpenRing, cipher: Cipher) -> None:
    """Writers side by side, after an end without a farewell, and going on as the same writer, all about the same subjects."""
    watched = NonceWatch(cipher)
    writer: bytes | None = None
    for _ in range(3):
        with _opened(opener, opener) as rings:
            for ring in rings:
                enrolment = ring.enrol(_NOW_US, writer=writer)
                writer = writer or enrolment.writer
                for sealed in (Writer(_LOG, given, watched, rule_set="1") for given in (enrolment, ring.enrol(_NOW_US))):
                    for partition in (0, 1, 0):
                        _seal(sealed, ring, partition, ("anna",), ("anna", "bert"), ())


def sealed_parts_live_and_die_with_their_subjects(opener: OpenRing, cipher: Cipher) -> None:
    """Readable in a later opening and after a rotation; unreadable as soon as one of the subjects is erased."""
    with _opened(opener) as [ring]:
        [record] = _seal(Writer(_LOG, ring.enrol(_NOW_US), cipher, rule_set="1"), ring, 0, ("anna",), ("anna", "bert"), ())[1:]
    with _opened(opener) as [ring]:
        ring.rotate()
        expect_equal([text_of(ring, cipher, record.record, part) for part in range(3)], [b"part 0", b"part 1", b"part 2"], "the texts")
        [bert] = ring.subjects(["bert"])
        ring.destroy([bert.handle])
        expect_equal(text_of(ring, cipher, record.record, 0), b"part 0", "the text about the other subject")
        _gone("a text about two, one of them erased", lambda: text_of(ring, cipher, record.record, 1))
        expect_equal(text_of(ring, cipher, record.record, 2), b"part 2", "the text about nobody known")


def _seal(writer: Writer, ring: KeyRing, partition: int, *subjects: tuple[str, ...]) -> list[Sealed]:
    parts = [part_about(ring, b"part %d" % index, names) for index, names in enumerate(subjects)]
    return writer.seal(partition, Draft(Kind.ENTRY, b"{}", parts), _NOW_US)


CASES: Final[tuple[Case, ...]] = (
    no_epoch_is_given_twice,
    an_enrolment_can_be_checked_later,
    a_subject_keeps_its_key,
    drawn_keys_are_all_different,
    drawn_keys_are_all_different,
    a_destroyed_key_is_gone_everywhere,
    what_is_missing_is_told_of_many_at_once,
    a_rotation_changes_no_answer,
    nothing_shown_holds_a_key_or_a_name,
)
SEALING_CASES: Final[tuple[SealingCase, ...]] = (no_nonce_is_used_twice, sealed_parts_live_and_die_with_their_subjects)

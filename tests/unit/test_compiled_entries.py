"""Entries from the compiled core are byte for byte those that are made without it, or it leaves them to others."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.unit.json_texts import anything, objects, scalars, some_records, strings, wire

from tallyroll.adapters.crypto import AesGcm
from tallyroll.audit import compiled
from tallyroll.audit.compiled import FOLLOWS, LINKED, ODD, STRAYS, UNLINKED
from tallyroll.audit.compliance.pii import PiiScanner, ReFinder
from tallyroll.audit.ledger.chain import Draft, Drafts, Part, Run, Writer
from tallyroll.audit.ledger.layout import Kind, PartType
from tallyroll.audit.ledger.tree import node_hash, parents
from tallyroll.audit.sealing.deriving import Derived, Deriver
from tallyroll.audit.sealing.publishers import Publishers
from tallyroll.errors import Undecodable
from tallyroll.events.batch import Batch
from tallyroll.events.chain import Chain
from tallyroll.events.codec import encode
from tallyroll.ports import Enrolment
from tallyroll.simulate import Fleet

pytest.importorskip("tallyroll_core", reason="the compiled core is not installed: scripts/core builds it where cargo is there")

NAMES: Final = ("agent_id", "task_id", "workflow_id", "count", "tags", "name", "customer", "e-mail", "note", "ü", "", "traceparent")
SCANNER: Final = PiiScanner(ReFinder({"email": r"(?i)\b([a-z0-9.]+@[a-z.]+\.org)\b"}))
TRACE: Final = f"00-{'4b' * 16}-{'7a' * 8}-01"
PLAIN: Final = {
    "specversion": "1.0", "id": "01a22298-1471-7709-8287-62bf47edf357", "source": "test", "type": "task.completed",
    "time": "2026-01-31T12:00:00.000001Z", "aggregatetype": "task", "aggregateid": "t-1", "data": {"count": 3, "note": "x"},
}  # fmt: skip


def deriver(*, core: bool) -> Deriver:
    return Deriver(bytes(range(16)), subject_fields=["customer"], scanner=SCANNER, compiled=core)


def batch_of(values: Sequence[bytes | None], start: int = 7) -> Batch:
    none = [None] * len(values)
    return Batch("task-events", 1, offsets=range(start, start + len(values)), keys=none, values=values, timestamps_ms=[-1] * len(values))


def shown(found: Sequence[Derived | Undecodable]) -> list[object]:
    return [one if isinstance(one, Derived) else str(one) for one in found]


def check(*batches: Sequence[bytes | None]) -> bytes:
    """That both ways make the same of some batches of one partition, known and unknown. How the core took the last, once all is known."""
    ways = deriver(core=True), deriver(core=False)
    for _ in range(2):  # the core is told what is plain only when it has been met
        made = []
        for way in ways:
            publishers = Publishers()
            made.append([shown(way.derive(batch_of(values), publishers)) for values in batches])
        assert made[0] == made[1], batches
    core = ways[0]._core
    assert core is not None
    return core.derive("task-events/1/", range(len(batches[-1])), batches[-1]).fits


def record(**changed: Any) -> bytes:
    members = {name: held for name, held in {**PLAIN, **changed}.items() if held is not ...}
    return json.dumps(members, ensure_ascii=False, separators=(",", ":")).encode()


# Records of every kind -------------------------------------------------------------------------------------------------------------

anywhere = anything(NAMES)
payloads = objects(anywhere, NAMES)
texts = st.one_of(st.text(max_size=12).map(json.dumps), st.text(max_size=12).map(lambda one: json.dumps(one, ensure_ascii=False)), strings)
identifiers = st.uuids().map(lambda one: json.dumps(str(one))) | st.from_regex(r'"[0-9a-zA-Z-]{14}7[0-9a-z-]{21}"', fullmatch=True)
some_envelope = {
    **dict.fromkeys(("specversion", "source", "aggregateid", "subject", "time", "expects", "sequence", "chainprev", "chainvoids"), texts),
    **dict.fromkeys(
        ("tenantid", "correlationid", "sessionid", "userid", "traceparent", "data_base64", "chainsession", "x"), scalars | texts
    ),
    "aggregatetype": texts | st.sampled_from(['"agent"', '"task"', '"workflow"', '""', "null"]),
    "type": texts | st.sampled_from(['"auth.denied"', '"data.accessed"', '"task.failed"', '"agent"']),
    "id": texts | identifiers,
    "data": payloads | anywhere,
    "chainnumber": st.sampled_from(['"1"', '"2"', '"0"', '"01"', '""', '"²"', '"999999999999999999"', '"1000000000000000000"', "7"]),
}
records = some_records(PLAIN, payloads, some_envelope, changes=3)


@given(st.lists(records.map(wire) | st.sampled_from([None, b"", record()]), min_size=1, max_size=4))
def test_entries_are_the_same_both_ways(values):
    check(values)


@given(st.lists(payloads.map(wire), min_size=1, max_size=3))
def test_so_are_those_of_every_payload(data):
    check([record().replace(b'{"count":3,"note":"x"}', one) for one in data])


damage = st.one_of(st.integers(0, 255), st.sampled_from(b'"\\{}[],:0 \n'), st.sampled_from(b"aznT7-"), st.sampled_from(b"aznT7-"))


@given(st.lists(records.map(wire) | st.just(record()), min_size=1, max_size=3), st.data())
def test_so_are_those_of_damaged_records(values, data):
    for at, value in enumerate(values):
        mutable = bytearray(value)
        for _ in range(data.draw(st.integers(1, 2))):
            mutable[data.draw(st.integers(0, len(mutable) - 1))] = data.draw(
                st.one_of(st.integers(0, 255), st.sampled_from(b'"\\{}[],:0 \n'))
            )
        values[at] = bytes(mutable[: data.draw(st.integers(0, len(mutable)))]) if data.draw(st.integers(0, 3)) == 0 else bytes(mutable)
    check(values)


plain_texts = st.text(st.characters(codec="utf-8", exclude_characters='"\\', exclude_categories=["Cc", "Cs"]), max_size=20)


@given(plain_texts, plain_texts, plain_texts, plain_texts | st.none(), plain_texts | st.none(), st.sampled_from(["agent", "task", "x"]))
@example("\x7f\u2028\u00ad", "\x7f", "\u2028\ufeff", "\x7f", "😀", "task")
def test_texts_that_need_no_escape_are_taken_as_they_stand(source, owner, named, tenant, correlation, kind):  # noqa: PLR0913  # texts
    value = record(
        source=source, aggregatetype=kind, aggregateid=f"a{owner}", tenantid=tenant, correlationid=correlation,
        data={"agent_id": named, "task_id": named, "workflow_id": named},
    )  # fmt: skip
    personal = SCANNER.in_any([json.dumps({"agent_id": named})])[0]
    assert check([value]) == bytes([UNLINKED]) or personal


@pytest.mark.parametrize(
    ("changed", "taken"),
    [
        ({}, True),
        ({"userid": None, "tenantid": "t", "expects": "x", "sessionid": "s", "more": [{"name": 1}]}, True),
        ({"data": {}}, True),
        ({"data": {"tags": [[1, {"count": [{}]}]]}}, True),
        ({"data": {"agent_id": 7, "task_id": None, "workflow_id": ["w"]}}, True),
        ({"data": {"count": 2**70, "note": 1e300}}, True),
        ({"data": {"count": "["}}, True),
        ({"traceparent": TRACE}, True),
        ({"traceparent": TRACE, "x": "{"}, True),
        ({"traceparent": TRACE, "x": {}}, False),
        ({"traceparent": ""}, False),
        ({"userid": "anna"}, False),
        ({"userid": ""}, False),
        ({"data": {"name": "anna"}}, False),
        ({"data": {"name": None}}, False),
        ({"data": {"tags": [{"customer": "c-1"}]}}, False),
        ({"type": "auth.denied"}, False),
        ({"type": "data.accessed"}, False),
        ({"data": {"note": ["["] * 40}}, True),
        ({"data": {"note": "x" * 65_000}}, True),
        ({"data": {"note": "x" * 66_000}}, False),
        ({"source": "a\nb"}, False),
        ({"source": 'a"b'}, False),
        ({"id": "ü"}, False),
        ({"data_base64": "eA=="}, False),
        ({"aggregateid": ""}, False),
        ({"specversion": "0.3"}, False),
        ({"data": ["a"]}, False),
    ],
)
def test_what_is_plain_is_taken_and_nothing_else(changed, taken):
    assert check([record(**changed)]) == bytes([UNLINKED if taken else ODD])


@pytest.mark.parametrize(
    "event_id",
    [
        "01a22298-1471-7709-8287-62bf47edf357", "01A22298-1471-7709-8287-62BF47EDF357", "01a22298-1471-4709-8287-62bf47edf357",
        "01a2_298-1471-7709-8287-62bf47edf357", "01a22298-14-1-7709-8287-62bf47edf357", "01a22298x1471x7709x8287x62bf47edf357",
        "01a22298-1471-7709-8287-62bf47edf35", "01a22298-1471-7709-8287-62bf47edf3577", "", "7",
    ],
)  # fmt: skip
def test_every_id_gives_the_same_id_of_its_entry(event_id):
    assert check([record(id=event_id)]) == bytes([UNLINKED])


@pytest.mark.parametrize(
    ("session", "number", "fits"),
    [
        ("a", "1", LINKED), ("a", "7", LINKED), ("a", "9" * 18, LINKED), ("a", "9" * 19, ODD), ("a", "0", ODD), ("a", "01", ODD),
        ("a", "", ODD), ("a", "²", ODD), ("a", "1 ", ODD), ("a", ..., ODD), ("", "1", ODD), (..., "1", UNLINKED), (..., "x", UNLINKED),
    ],
)  # fmt: skip
def test_a_link_of_another_form_is_left_to_others(session, number, fits):
    value = record(chainsession=session, chainnumber=number, chainprev="0" * 64)
    assert check([value, value]) == bytes([fits, fits])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b',"traceparent"', b', "traceparent"'),
        (b'"traceparent":', b'"traceparent": '),
        (b'"traceparent":', b'"traceparent" :'),
        (b'"traceparent"', b'"x":{"a":1,"traceparent":"%b"},"traceparent"' % TRACE.encode()),
        (b'"data":{', b'"x":{},"data":{'),
        (b"-01", b"\\u002d01"),
        (b'"a"}', b'"a", "chainsession":"b"}'),
    ],
)
@pytest.mark.parametrize("linked", [False, True])
def test_a_trace_is_left_out_where_it_stands_as_publishers_write_it(old, new, *, linked):
    value = record(data={"note": "a"}, traceparent=TRACE)
    assert old in value
    early = value.replace(b',"traceparent":"%b"' % TRACE.encode(), b"").replace(b'"time"', b'"traceparent":"%b","time"' % TRACE.encode())
    for changed in (value.replace(old, new, 1), early):
        check([Chain("a" * 32).link(changed, 1) if linked else changed])


@pytest.mark.parametrize("depth", [1, 20, 30, 31, 32, 33, 40, 70])
@pytest.mark.parametrize("pair", ["[]", "{}"])
def test_what_nobody_looks_into_is_left_to_who_takes_it_for_personal(depth, pair):
    data = pair[0] * depth + pair[1] * depth if pair == "[]" else '{"a":' * depth + "1" + "}" * depth
    fits = check([record().replace(b'{"count":3,"note":"x"}', b'{"a":%b}' % data.encode())])
    assert fits == bytes([UNLINKED if depth <= 20 else ODD])  # between them either would do


def test_a_member_that_comes_twice_is_left_to_others_where_it_is_named():
    assert check([record().replace(b'"count":3', b'"task_id":"a","task_id":"b"')]) == bytes([ODD])
    assert check([record().replace(b'"count":3', b'"count":"a","count":"b"')]) == bytes([UNLINKED])
    assert check([record().replace(b'"time"', b'"source":"x","time"')]) == bytes([ODD])


def test_a_text_that_is_personal_keeps_its_entry_sealed_whoever_read_it():
    values = [record(data={"note": note}) for note in ("x", "to a@b.org", "y", "z", "and c@d.org")]
    assert check([*values, b"[", *values]) == bytes([UNLINKED] * 5 + [ODD] + [UNLINKED] * 5)
    made = deriver(core=True).derive(batch_of(values * 200), Publishers())
    assert [bool(one.sentences) for one in made if isinstance(one, Derived)] == [False, True, False, False, True] * 200


def test_what_tallyroll_writes_is_taken():
    events = list(Fleet(seed=3, agents=20, start=datetime(2026, 1, 5, tzinfo=UTC)).run(events=1_500))
    chain = Chain("0" * 32)
    values = [chain.link(encode(event), 1) for event in events]
    way = deriver(core=True)
    way.derive(batch_of(values), Publishers())
    assert way._core is not None
    fits = way._core.derive("task-events/1/", range(len(values)), values).fits
    assert fits[0] == LINKED
    assert set(fits[1:]) == {FOLLOWS}
    check(values)


# Chains ----------------------------------------------------------------------------------------------------------------------------


@st.composite
def partitions(draw: st.DrawFn) -> list[list[bytes]]:
    """Batches of some publishers' records, of which some were lost, doubled, moved, altered, or are odd."""
    chains, values = [Chain(letter * 32) for letter in "abc"[: draw(st.integers(1, 3))]], list[bytes]()
    for number in range(draw(st.integers(1, 24))):
        trace = {"traceparent": TRACE} if draw(st.integers(0, 3)) == 0 else {}
        person = {"data": {"name": "anna"}} if draw(st.integers(0, 9)) == 0 else {}
        body = record(id=f"id-{number}", **person, **trace)
        chain = draw(st.sampled_from(chains))
        if draw(st.integers(0, 15)) == 0:
            chain.void(chain.session, chain.number, f"{number:032}")
        values.append(chain.link(body, number) if draw(st.integers(0, 9)) else body)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(values) - 1))
        what = draw(st.sampled_from(["lost", "doubled", "moved", "altered", "odd", "spaced"]))
        if what == "altered":
            values[at] = values[at].replace(b"test", b"TEST")
        elif what == "odd":
            values[at] = draw(st.sampled_from([b"", b"[", values[at].replace(b"test", b'\\"')]))
        elif what == "spaced":
            values[at] = draw(st.sampled_from([values[at] + b" ", values[at].replace(b',"chain', b', "chain'), b" " + values[at]]))
        else:
            taken = values[at] if what == "doubled" else values.pop(at)
            if what != "lost" or not values:
                values.insert(draw(st.integers(0, len(values))), taken)
    cuts = sorted(draw(st.lists(st.integers(0, len(values)), max_size=3)))
    batches = [values[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(values)], strict=True) if start < stop]
    return [*batches, *(batches[: draw(st.integers(0, 2))] if draw(st.booleans()) else [])]


@given(partitions())
@settings(max_examples=200)
def test_how_records_fit_is_the_same_both_ways(batches):
    check(*batches)


def test_records_with_the_next_numbers_are_told_together():
    chain, other = Chain("a" * 32), Chain("b" * 32)
    one, two, three, four, five = (chain.link(record(id=f"i{number}"), number) for number in range(5))
    assert check([one, two, three]) == bytes([LINKED, FOLLOWS, FOLLOWS])
    assert check([one, two.replace(b"test", b"TEST"), three, four]) == bytes([LINKED, FOLLOWS, STRAYS, FOLLOWS])
    assert check([one, three, four, record(), five]) == bytes([LINKED, LINKED, FOLLOWS, UNLINKED, LINKED])
    assert check([one, other.link(record(), 1), two, b"", three]) == bytes([LINKED, LINKED, LINKED, ODD, LINKED])
    assert check([one, two, three], [one, two, three, four, five]) == bytes([LINKED] + [FOLLOWS] * 4)


# Sealing ---------------------------------------------------------------------------------------------------------------------------


class Failing:
    """A cipher that fails so many calls from now on."""

    def __init__(self) -> None:
        self.inner, self.left = AesGcm(), 1 << 30

    def seal(self, key: bytes, nonce: bytes, plain: bytes, aad: bytes) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise OSError
        return self.inner.seal(key, nonce, plain, aad)

    def open(self, key: bytes, nonce: bytes, sealed: bytes, aad: bytes) -> bytes:
        return self.inner.open(key, nonce, sealed, aad)


def writer(cipher: Any = None, *, core: bool) -> Writer:
    enrolment = Enrolment(b"w" * 16, 3, sha256(b"k0").digest(), "token", 1_000_000)
    return Writer(b"l" * 16, enrolment, cipher or AesGcm(), rule_set="1", compiled=core)


sealed_parts = st.builds(
    Part, st.sampled_from([PartType.SUBJECT, PartType.UNKNOWN]), st.just(b"h" * 16), st.just(b"k" * 32), st.binary(max_size=9)
)
some_parts = st.lists(sealed_parts, max_size=2).map(tuple) | st.just(())
entries = st.lists(st.tuples(st.binary(max_size=300), some_parts, st.sampled_from([20_000, 20_001])), min_size=1, max_size=12)


@given(st.lists(st.tuples(entries, st.integers(0, 3), st.integers(0, 2), st.integers(0, 2**50)), max_size=5))
def test_records_are_sealed_the_same_both_ways(calls):
    ways = [writer(core=True), writer(core=False)]
    second = 0
    for some, later, partition, ts_us in calls:
        second += later
        runs = []
        for way in ways:
            way.advance(second)
            runs.append(way.seal_entries(partition, Drafts(*map(list, zip(*some, strict=True))), ts_us))
        assert runs[0] == runs[1]
        assert ways[0].heads == ways[1].heads
    own = [way.seal(0, Draft(Kind.HEADS, b"{}"), 7) for way in ways]
    assert own[0] == own[1]


@given(entries, entries, st.integers(0, 8))
def test_after_a_failure_both_go_on_as_if_nothing_had_been_sealed(some, more, left):
    ways = []
    for core in (True, False):
        cipher = Failing()
        way = writer(cipher, core=core)
        begun = [way.seal_entries(0, Drafts([b"{}"], [()], [20_000]), 7)]
        cipher.left = left
        heads = way.heads
        drafts = Drafts(*map(list, zip(*some, strict=True)))
        try:
            begun.append(way.seal_entries(0, drafts, 8))
        except OSError:
            assert way.heads == heads
        cipher.left = 1 << 30
        ways.append([*begun, way.seal_entries(0, Drafts(*map(list, zip(*more, strict=True))), 9)])
    assert ways[0] == ways[1]


@given(st.binary(max_size=5_000))
@example(bytes(range(256)) * 300)
def test_hashes_are_those_of_the_library_that_everybody_has(env):
    sealer = compiled.run_sealer()
    assert sealer is not None
    (packed,), (leaf,) = sealer.seal([env], bytes(135), bytearray(64))
    assert packed[103:135] == sha256(env).digest()
    assert leaf == sha256(b"\0" + packed[:135]).digest()


@given(st.lists(st.binary(min_size=32, max_size=32), max_size=70))
def test_parents_are_the_same_both_ways(nodes):
    assert parents(nodes) == [node_hash(left, right) for left, right in zip(nodes[::2], nodes[1::2], strict=False)]


def test_a_number_behind_the_last_is_refused():
    sealer = compiled.run_sealer()
    assert sealer is not None
    core = bytes(44) + (2**64 - 1).to_bytes(8) + bytes(83)
    with pytest.raises(ValueError, match="no record can have"):
        sealer.seal([b"a", b"b"], core, bytearray(64))


@pytest.mark.parametrize(
    "given_",
    [([b"a", bytearray(b"b")], bytes(135), bytearray(64)), ([b"a"], bytes(134), bytearray(64)), ([b"a"], bytes(135), bytearray(32))],
)
def test_what_is_of_another_form_is_not_sealed(given_):
    sealer = compiled.run_sealer()
    assert sealer is not None
    with pytest.raises(ValueError, match="is no bytes, or core or key"):
        sealer.seal(*given_)


def test_a_run_says_where_its_chain_stands():
    run = writer(core=True).seal_entries(4, Drafts([b"{}", b"[]"], [(), ()], [1, 1]), 7)
    assert isinstance(run, Run)
    assert (run.chain.partition, run.last, len(run.packed), len(run.leaves)) == (4, 2, 3, 3)  # the genesis is the first


def test_nothing_is_no_fault():
    core = compiled.plain_deriver(b"x")
    assert core is not None
    library, out = core._library, ctypes.byref(core._out)
    places = core._places
    assert places.find([record()]) == 1
    offsets = (ctypes.c_int64 * 1)(7)
    given_ = (core._made, places.starts, places.lengths, offsets, 1, b"p", 1, out)
    assert library.tr_derive(*given_) == 0
    for missing in (0, 1, 2, 3, 5, 7):
        assert library.tr_derive(*given_[:missing], None, *given_[missing + 1 :]) == -1
    room = ctypes.create_string_buffer(2_000)
    sealing = (places.starts, places.lengths, 1, bytes(135), room, room, 2_000, room)
    for missing in (0, 1, 3, 4, 5, 7):
        assert library.tr_seal(*sealing[:missing], None, *sealing[missing + 1 :]) == 0
    assert library.tr_seal(*sealing[:6], 100, room) == 0
    library.tr_parents(None, 4, room)
    library.tr_deriver_learn(None, b"a\n", 2, b"", 0)
    library.tr_deriver_free(None)
    assert library.tr_deriver_new(None, 1) is None

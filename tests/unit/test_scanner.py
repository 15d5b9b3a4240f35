"""The compiled scanner reads what the reader reads, or leaves it to it; and it leaves nothing to it that tallyroll writes."""

from __future__ import annotations

import ctypes
import json
import math
import struct
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.json_texts import anything, numbers, objects, scalars, some_records, strings, wire

from tallyroll.analytics.moments import moments
from tallyroll.analytics.reading import Reader, envelope_of
from tallyroll.analytics.scanner import FIXED, Kind, Scan, Scanner, scanner
from tallyroll.events.codec import encode
from tallyroll.events.event import iso
from tallyroll.events.moments import EPOCH
from tallyroll.simulate import Fleet

pytest.importorskip("tallyroll_core", reason="the compiled core is not installed: scripts/core builds it where cargo is there")

SLOTS: Final[Sequence[tuple[Kind, str]]] = (
    ("text", "agent_id"),
    ("number", "duration_ms"),
    ("text", "status"),
    ("truth", "success"),
    ("number", "mixed"),
    ("text", "mixed"),
    ("truth", "mixed"),
    ("text", "result.status"),
    ("number", "result.depth"),
    ("number", "deep"),
    ("text", "deep"),
    ("number", "deep.er.still"),
    ("text", "ü"),
)
NAMES: Final = (
    "agent_id",
    "duration_ms",
    "status",
    "success",
    "mixed",
    "result",
    "deep",
    "er",
    "still",
    "depth",
    "ü",
    "other",
    "a_name_of_more_than_thirty_two_bytes",
)
PLAIN: Final = {
    "specversion": "1.0", "id": "0190-1", "source": "urn:x", "type": "task.completed", "time": "2026-01-31T12:00:00.000001Z",
    "aggregatetype": "task", "aggregateid": "t-1", "schemaversion": "1.0", "data": {},
}  # fmt: skip


class _AllCurrent:
    def is_current(self, event_type: str, version: str) -> bool:
        del event_type, version
        return True

    def upcast(self, event_type: str, version: str, payload: dict[str, Any]) -> list[dict[str, Any]]:
        raise AssertionError((event_type, version, payload))


READER: Final = Reader([(f"payload.{path}", kind) for kind, path in SLOTS], _AllCurrent())
COLUMNS: Final = [READER.column(f"payload.{path}", kind) for kind, path in SLOTS]
SCANNER: Final = Scanner(SLOTS)


def scanned(values: Sequence[bytes | None]) -> Scan | None:
    """A scan of all; None where one of them is odd."""
    scan = SCANNER.scan(list(values))
    return scan if len(scan.times_us) == len(values) else None


def row_of(scan: Scan, row: int = 0) -> list[Any]:
    """What a scan holds of one record."""
    texts = [None if code < 0 else scan.names[code] for code in scan.texts[:, row].tolist()]
    sparse = []
    for rows, values in scan.sparse:
        found = values[rows == row].tolist()
        assert len(found) <= 1
        sparse.append(bits(found[0]) if found else None)
    return [scan.ids[row], int(scan.times_us[row]), int(scan.numbers[row]), *texts, *sparse]


def bits(value: float) -> bytes:
    """A number with its sign; every NaN is the same."""
    return struct.pack("<d", math.nan if math.isnan(value) else value)


def read(value: bytes) -> list[Any] | None:
    """The same by the reader; None for a record that it does not take, or not without fault."""
    at, documents = READER.read([value], None)
    if not documents:
        return None
    found = READER.members(envelope_of(documents), at, [value])
    if not found.members or found.invalid:
        return None
    envelope = {name: column[0] for name, column in found.envelope.items()}
    members = READER.columns(found.members)
    taken = [column.take(members)[0] for column in COLUMNS]
    number = envelope["chainnumber"]
    return [
        envelope["id"],
        int(moments([envelope["time"]])[0]),
        int(number) if number.isdecimal() else number or 0,
        *(envelope[name] for name in FIXED),
        *(one for one, (kind, _) in zip(taken, SLOTS, strict=True) if kind == "text"),
        *(None if one is None else bits(one) for one, (kind, _) in zip(taken, SLOTS, strict=True) if kind != "text"),
    ]


def odd_or_equal(value: bytes) -> bool:
    """Whether it was read."""
    scan = scanned([value])
    if scan is None:
        return False
    expected = read(value)
    assert expected is not None, value
    row = row_of(scan)
    for name in ("expects", "chainsession"):
        place = 3 + FIXED.index(name)
        row[place] = row[place] or ""
    assert row == expected, value
    return True


# What may stand in a record --------------------------------------------------------------------------------------------------------

anywhere = anything(NAMES)
payloads = objects(anywhere, NAMES)
times = st.one_of(
    st.datetimes().map(lambda one: one.isoformat(timespec="microseconds") + "Z"),
    st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat),
    st.from_regex(r"20[0-9]{2}-[01][0-9]-[0-2][0-9]T[01][0-9]:[0-5][0-9]:[0-5][0-9](\.[0-9]{0,7})?Z", fullmatch=True),
    st.from_regex(r"[0-9]{4}-[0-3][0-9]-[0-3][0-9]T[0-2][0-9]:[0-6][0-9]:[0-6][0-9]\.[0-9]{6}Z", fullmatch=True),
    st.sampled_from(["", "2024-02-29T23:59:59.999999Z"]),
    st.sampled_from(["1900-02-29T00:00:00.000000Z", "0000-01-01T00:00:00.000000Z", "2026-01-31T12:00:60.000000Z"]),
).map(json.dumps)  # fmt: skip
some_envelope = {
    **dict.fromkeys(("specversion", "id", "source", "type", "aggregatetype", "aggregateid", "schemaversion"), strings),
    **dict.fromkeys(("tenantid", "expects", "chainsession", "data_base64", "subject", "sequence", "x"), scalars),
    "time": times,
    "data": payloads | anywhere,
    "chainnumber": st.one_of(st.integers(-1, 10**19).map(lambda one: f'"{one}"'), st.sampled_from(['"01"', '""', '"²"', "7", "null"])),
}
records = some_records(PLAIN, payloads, some_envelope, changes=2)


def record(**changed: Any) -> bytes:
    return json.dumps({**PLAIN, **changed}, ensure_ascii=False, separators=(",", ":")).encode()


# The promises ----------------------------------------------------------------------------------------------------------------------


@given(records.map(wire))
def test_a_record_is_odd_or_read_as_the_reader_reads_it(value):
    odd_or_equal(value)


@given(payloads.map(wire))
def test_so_is_every_payload(data):
    odd_or_equal(record().replace(b'"data":{}', b'"data":' + data))


@given(times.map(str.encode))
def test_so_is_every_time(time):
    odd_or_equal(record().replace(b'"2026-01-31T12:00:00.000001Z"', time))


@given(numbers.map(str.encode))
def test_so_is_every_number(number):
    odd_or_equal(record().replace(b'"data":{}', b'"data":{"duration_ms":%b,"other":[%b]}' % (number, number)))


@given(records.map(wire), st.data())
def test_so_is_one_with_bytes_changed_or_cut_off(value, data):
    mutable = bytearray(value)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(mutable) - 1))
        mutable[at] = data.draw(st.one_of(st.integers(0, 255), st.sampled_from(b'"\\{}[],:0-e. \n')))
    odd_or_equal(bytes(mutable))
    odd_or_equal(bytes(mutable[: data.draw(st.integers(0, len(mutable)))]))


@given(st.lists(records.map(wire), min_size=2, max_size=3))
def test_records_are_read_together_as_they_are_alone(values):
    alone = [scanned([value]) for value in values]
    together = scanned(values)
    if any(scan is None for scan in alone):
        assert together is None
    else:
        assert together is not None
        assert [row_of(together, row) for row in range(len(values))] == [row_of(scan) for scan in alone if scan is not None]


@given(st.lists(records.map(wire), min_size=1, max_size=4), st.integers(0, 4), st.integers(0, 4))
def test_what_lies_before_an_odd_record_is_read(values, fewer, more):
    plain = [value for value in values if scanned([value]) is not None]
    for odd in (None, b"", record(time="soon"), record(id="odd", aggregateid="nobody", data={"mixed": 7, "deep": [2], "status": 7})):
        scan = SCANNER.scan([*plain, odd, *values[:more]])
        assert len(scan.times_us) == len(scan.ids) == len(plain)
        assert [row_of(scan, row) for row in range(len(plain))] == [row_of(SCANNER.scan([value])) for value in plain]
        assert all(len(rows) <= len(plain) and (rows < len(plain)).all() for rows, _ in scan.sparse)
        part = scan.first(fewer)
        assert [row_of(part, row) for row in range(len(plain[:fewer]))] == [row_of(scan, row) for row in range(len(plain[:fewer]))]
        assert all((rows < fewer).all() for rows, _ in part.sparse)


plain_texts = st.text(st.characters(codec="utf-8"), max_size=40)
plain_payloads = st.fixed_dictionaries(
    {},
    optional={
        "agent_id": plain_texts | st.none(),
        "duration_ms": st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.none(),
        "status": plain_texts,
        "success": st.booleans() | st.none(),
        "mixed": plain_texts | st.booleans() | st.floats(0, 1) | st.none(),
        "result": st.fixed_dictionaries({"status": plain_texts, "depth": st.integers(0, 9), "x": st.just([{"y": None}])}) | plain_texts,
        "deep": st.fixed_dictionaries({"er": st.fixed_dictionaries({"still": st.floats(0, 1)})}) | st.integers(0, 9) | st.just([]),
        "other": st.recursive(plain_texts | st.floats(0, 1), lambda some: st.lists(some) | st.dictionaries(plain_texts, some)),
    },
)  # fmt: skip


plain_times = st.datetimes(timezones=st.just(UTC))


@given(st.lists(st.tuples(plain_payloads, st.uuids(), plain_times, plain_texts, st.integers(0, 10**18 - 1)), min_size=1, max_size=8))
def test_what_is_canonical_is_never_odd(made):
    """Against what was written, not against another reader."""
    values = []
    for payload, event_id, time, text, number in made:
        changed = {
            "id": str(event_id),
            "time": iso(time),
            "tenantid": text,
            "chainnumber": str(number or ""),
        }
        values.append(msgspec.json.encode({**PLAIN, **changed, "aggregateid": f"x{text}", "data": payload}))
    scan = scanned(values)
    assert scan is not None
    for row, (payload, event_id, time, text, number) in enumerate(made):
        expected: list[Any] = [str(event_id), (time - EPOCH) // timedelta(microseconds=1), number]
        expected += ["task.completed", "task", f"x{text}", "1.0", text, None, None]
        for wanted in ("text", "other"):
            for kind, path in SLOTS:
                if (kind == "text") == (wanted == "text"):
                    expected.append(_value_of(payload, kind, path))
        assert row_of(scan, row) == expected


def _value_of(payload: Any, kind: Kind, path: str) -> Any:
    held: Any = payload
    for name in path.split("."):
        held = held.get(name) if isinstance(held, dict) else None
    if held is None:
        return None
    if kind == "text":
        return held if isinstance(held, str) else None
    if kind == "truth":
        return bits(held) if isinstance(held, bool) else None
    return bits(math.nan if isinstance(held, bool) or not isinstance(held, int | float) else held)


def test_what_tallyroll_writes_is_never_odd():
    values = [encode(event) for event in Fleet(seed=3, agents=20, start=datetime(2026, 1, 5, tzinfo=UTC)).run(events=2_000)]
    scan = scanned(values)
    assert scan is not None
    for row, value in enumerate(values):
        found = row_of(scan, row)
        expected = read(value)
        assert expected is not None
        assert [one or "" for one in found[3:10]] == [one or "" for one in expected[3:10]]
        assert (found[:3], found[10:]) == (expected[:3], expected[10:])


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"{}",
        b"[]",
        b"null",
        record()[:-1],
        record() + b"x",
        record() + b"{}",
        b"\xef\xbb\xbf" + record(),
        record().replace(b'"1.0"', b'"1.1"', 1),
        record(id=1),
        record(id="a\nb"),
        record(aggregateid=""),
        record(aggregatetype=""),
        record(data=None),
        record(data=[]),
        record(data_base64="eA=="),
        record(expects=None),
        record(chainnumber="0"),
        record(chainnumber="01"),
        record(chainnumber="1" * 19),
        record(chainnumber=1),
        record(time="2026-01-31T12:00:00+00:00"),
        record(time="2026-02-29T12:00:00.000000Z"),
        record(tenantid=1),
        record(data={"duration_ms": True}),
        record(data={"duration_ms": "1"}),
        record(data={"duration_ms": 2**53 + 1}),
        record(data={"status": 1}),
        record(data={"success": 1}),
        record(data={"success": []}),
        record(data={"agent_id": {}}),
        record(data={"mixed": []}),
        record().replace(b'"data":{}', b'"data":{"status":"a","status":"a"}'),
        record().replace(b'"data":{}', b'"data":{"other":1e999}'),
        record().replace(b'"data":{}', b'"data":{"other":"\xff"}'),
        record().replace(b'"data":{}', b'"data":{"other":"\xed\xa0\x80"}'),
        record().replace(b'"data":{}', b'"data":{"other":"\\ud83d"}'),
        record().replace(b'"data":{}', b'"data":{"other":' + b"[" * 64 + b"]" * 64 + b"}"),
        record().replace(b'"data":{}', b'"data":{"other":' + b"[" * 100_000),
        record().replace(b'"data":{}', b'"data":{' + b'"deep":{' * 10_000),
        record().replace(b'{"specversion"', b'{"source":"urn:x","specversion"'),
        *(json.dumps({name: held for name, held in PLAIN.items() if name != missing}).encode() for missing in PLAIN),
    ],
)  # fmt: skip
def test_what_is_odd_is_left_to_the_reader(value):
    assert scanned([record(), value, record()]) is None


def test_results_stay_as_they_are_when_more_is_scanned():
    first = scanned([record(data={"duration_ms": 1, "status": "x"}), record(data={})])
    assert first is not None
    before = [row_of(first, row) for row in range(2)]
    assert scanned([record(id="other", data={"duration_ms": 2, "status": "y"})] * 5_000) is not None
    assert [row_of(first, row) for row in range(2)] == before


def test_many_distinct_texts_have_a_code_each():
    values = [record(aggregateid=f"t-{number}", data={"status": f"s-{number % 7}", "agent_id": f"a\n{number}"}) for number in range(20_000)]
    scan = scanned(values)
    assert scan is not None
    assert [scan.names[code] for code in scan.texts[FIXED.index("aggregateid")]] == [f"t-{number}" for number in range(20_000)]
    assert [scan.names[code] for code in scan.texts[len(FIXED)]] == [f"a\n{number}" for number in range(20_000)]
    assert len(set(scan.names)) == len(scan.names)
    again = scanned(values[:2])
    assert again is not None
    assert len(again.names) == 9  # nothing is left of the scan before


def test_no_records_are_no_columns():
    scan = scanned([])
    assert scan is not None
    assert scan.texts.shape == (len(FIXED) + sum(kind == "text" for kind, _ in SLOTS), 0)
    assert (len(scan.ids), len(scan.names), len(scan.times_us)) == (0, 0, 0)
    assert [len(rows) for rows, _ in scan.sparse] == [0] * sum(kind != "text" for kind, _ in SLOTS)


def test_columns_have_the_types_that_are_promised():
    scan = scanned([record(data={"duration_ms": 1})])
    assert scan is not None
    rows, values = scan.sparse[0]
    assert [one.dtype for one in (scan.times_us, scan.numbers, scan.texts, rows, values)] == [
        np.int64,
        np.int64,
        np.int32,
        np.int32,
        np.float64,
    ]


@pytest.mark.parametrize("path", ["", "a..b", ".a", "a.", "a\nb", "a\tb", "a\nt\tb", ".".join("a" * 40)])
def test_a_path_that_cannot_be_told_has_no_scanner(path):
    assert scanner([("text", path)]) is None


def test_one_path_may_be_read_as_several_kinds_but_once_as_each():
    assert scanner([("text", "a"), ("number", "a"), ("truth", "a")]) is not None
    assert scanner([("text", "a"), ("text", "a")]) is None


def test_members_beyond_what_is_learnt_are_skipped():
    for turn in range(40):
        payload = {f"m{turn}_{number}": number for number in range(20)}
        assert odd_or_equal(record(data={**payload, "status": "x", "y" * 100: 1}))


def borrowed(value: bytes) -> tuple[np.ndarray[Any, np.dtype[np.uintp]], np.ndarray[Any, np.dtype[np.intp]]]:
    """Where a record lies, and how long it is, as the library wants it."""
    places = SCANNER._places
    assert places.find([value]) == 1
    return np.array(places.starts[:1], np.uintp), np.array(places.lengths[:1], np.intp)


@pytest.mark.parametrize("length", [0, -1, -(2**63)])
def test_what_has_no_length_is_not_looked_at(length):
    starts, _ = borrowed(record())
    told = np.array([length], np.intp)
    out = ctypes.byref(SCANNER._room.out)
    assert SCANNER._library.tr_scan(SCANNER._made, starts.ctypes.data, told.ctypes.data, 1, out) == 0


def test_nothing_is_no_fault():
    library, room = SCANNER._library, SCANNER._room
    value = record()
    starts, lengths = borrowed(value)
    nowhere, out = np.zeros(1, np.uintp), ctypes.byref(room.out)
    given = (SCANNER._made, starts.ctypes.data, lengths.ctypes.data, 1, out)
    assert library.tr_scan(*given) == 1
    for missing in (0, 1, 2, 4):
        assert library.tr_scan(*given[:missing], None, *given[missing + 1 :]) == 0
    assert library.tr_scan(SCANNER._made, nowhere.ctypes.data, lengths.ctypes.data, 1, out) == 0
    assert library.tr_ids_size(None) == 0
    library.tr_scanner_free(None)


def test_beyond_the_room_nothing_is_written():
    room, value = SCANNER._room, record()
    starts, lengths = (np.repeat(one, room.rows + 1) for one in borrowed(value))
    out = ctypes.byref(room.out)
    assert SCANNER._library.tr_scan(SCANNER._made, starts.ctypes.data, lengths.ctypes.data, room.rows + 1, out) == 0
    assert SCANNER._library.tr_scan(SCANNER._made, starts.ctypes.data, lengths.ctypes.data, room.rows, out) == room.rows


@pytest.mark.parametrize("other", [None, "text", 7, bytearray(record()), memoryview(record())])
def test_what_is_no_bytes_is_left_to_the_reader(other):
    assert len(SCANNER.scan([record(), other, record()]).times_us) == 1


@given(st.integers(0, 3_000), st.integers(0, 3_000))
@settings(max_examples=15)
def test_a_scan_of_many_records_is_as_one(count, odd):
    made = [record(id=f"i{at}", aggregateid=f"t-{at % 1_300}", data={"duration_ms": at, "status": f"s-{at % 5}"}) for at in range(count)]
    scan = SCANNER.scan([*made[:odd], b"", *made[odd:]])
    whole = min(odd, count)
    assert list(scan.ids) == [f"i{at}" for at in range(whole)]
    assert [scan.names[code] for code in scan.texts[FIXED.index("aggregateid")]] == [f"t-{at % 1_300}" for at in range(whole)]
    assert scan.sparse[0][0].tolist() == scan.sparse[0][1].tolist() == list(range(whole))
    assert len(set(scan.names)) == len(scan.names)


def test_a_record_does_not_go_on_in_the_next():
    whole = record(data={"status": "x"})
    for cut in range(1, len(whole)):
        assert scanned([whole[:cut], whole[cut:]]) is None
        assert scanned([whole + whole[:cut], whole[cut:]]) is None


@pytest.mark.parametrize("length", range(1, 200, 7))
def test_strings_of_every_length_are_read_wherever_they_begin(length):
    """Words and blocks of bytes are looked at together: what stands at their edges is where one would go wrong."""
    for text in ("x" * length, "é" * length, '\\"' * length, "\n" + "x" * length):
        assert odd_or_equal(record(source=text, data={"status": text, "y" * length: 1, "agent_id": text[1:]}))

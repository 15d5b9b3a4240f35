"""What derived entries make of payloads, and of batches of any length."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from tallyroll.audit.compliance.pii import PiiScanner, ReFinder
from tallyroll.audit.sealing.deriving import Derived, Deriver
from tallyroll.audit.sealing.publishers import Publishers
from tallyroll.errors import Undecodable
from tallyroll.events.batch import Batch
from tallyroll.events.chain import Chain

PLAIN = b'{"count":3,"tags":["a","b"]}'


def record(number: int, data: bytes = PLAIN) -> bytes:
    return (
        b'{"specversion":"1.0","id":"id-%d","source":"test","type":"task.completed","time":"2026-01-01T00:00:00Z","aggregatetype":"task",'
        b'"aggregateid":"t-%d","data":%s}' % (number, number, data)
    )


def batch_of(values: Sequence[bytes]) -> Batch:
    none = [None] * len(values)
    return Batch("task-events", 1, offsets=range(7, 7 + len(values)), keys=none, values=values, timestamps_ms=[-1] * len(values))


def derived(values: Sequence[bytes], deriver: Deriver | None = None) -> list[Derived | Undecodable]:
    return (deriver or Deriver(bytes(16), subject_fields=["customer"])).derive(batch_of(values), Publishers())


def is_sealed(data: bytes) -> bool:
    """Whether its hashes are in a sealed part, with the same keys seen before and not."""
    deriver = Deriver(bytes(16), subject_fields=["customer"])
    first, again = derived([record(1, data), record(2, data)], deriver)
    assert isinstance(first, Derived)
    assert isinstance(again, Derived)
    assert bool(first.sentences) == bool(again.sentences) == (b'"digest"' not in first.env)
    return bool(first.sentences)


@pytest.mark.parametrize(
    ("data", "sealed"),
    [
        (PLAIN, False),
        (b'{"a":[[["x"]],[1]]}', False),
        (b'{"a":[[{"name":"x"}]]}', True),
        (b'{"a":{"b":{"customer":"c-1"}}}', True),
        (b'{"a":{"b":{"c":"{"}}}', False),
        (b'{"a":"{[{["}', False),
        (b'{"name":"x"}', True),
        (b'{"a":' + b"[" * 31 + b"]" * 31 + b"}", False),
        (b'{"a":' + b"[" * 40 + b"]" * 40 + b"}", True),  # nobody looks that deep
        (b'{"a":' + b'{"b":' * 40 + b"1" + b"}" * 40 + b"}", True),
        (b'{"a":["' + b"[" * 100 + b'"]}', False),
    ],
)
def test_what_is_personal_at_any_depth_keeps_the_hashes_sealed(data: bytes, sealed: bool) -> None:  # noqa: FBT001  # a case
    assert is_sealed(data) is sealed


@pytest.mark.parametrize("count", [1, 63, 64, 65, 200])
def test_a_batch_of_any_length_gives_what_its_records_give_one_by_one(count: int) -> None:
    chain = Chain("0" * 32)
    notes = [b"{}", b'{"note":"write to a.person@example.org"}', b'{"note":"nothing"}', b"[1]", b'{"customer":"c-1"}']
    values = [chain.link(record(number, notes[number % 5]), number) for number in range(count)]
    scanner = PiiScanner(ReFinder({"email": r"(?i)\b([a-z0-9.]+@[a-z.]+)\b"}))
    together = Deriver(bytes(16), subject_fields=["customer"], scanner=scanner).derive(batch_of(values), Publishers())
    publishers, single = Publishers(), Deriver(bytes(16), subject_fields=["customer"], scanner=scanner)
    whole = batch_of(values)
    apart = [one for at in range(count) for one in single.derive(whole.slice(at, at + 1), publishers)]
    assert list(map(_shown, together)) == list(map(_shown, apart))
    assert [isinstance(one, Undecodable) for one in together] == [number % 5 == 3 for number in range(count)]
    positions = [msgspec.json.decode(one.env)["position"] for one in together if isinstance(one, Derived)]
    assert positions == [f"task-events/1/{7 + number}" for number in range(count) if number % 5 != 3]


def _shown(one: Derived | Undecodable) -> object:
    return one if isinstance(one, Derived) else str(one)

"""One partition's way into the log."""

from __future__ import annotations

from itertools import count

from tallyroll.events.chain import ChainChecker
from tallyroll.events.codec import decode_head
from tallyroll.events.position import TopicPartition
from tallyroll.publish.lane import _MAX_SEQUENCES as MOST
from tallyroll.publish.lane import Lane

BODY = b'{"specversion":"1.0","id":"1","source":"s","type":"t","aggregatetype":"a","aggregateid":"1"}'


def lane(*, write_ahead=False):
    names = count(1)
    return Lane(TopicPartition("t", 0), write_ahead=write_ahead, new_session=lambda: f"s{next(names)}")


def heads(values):
    return [decode_head(value) for value in values]


def test_sequences_count_per_key():
    one = lane()
    values = [one.link(key, BODY) for key in (b"a", b"b", b"a", b"a", b"b")]
    assert [head.sequence for head in heads(values)] == ["1", "1", "2", "3", "2"]


def test_records_are_chained_over_all_keys():
    one, checker = lane(), ChainChecker()
    values = [one.link(key, BODY) for key in (b"a", b"b", b"a")]
    assert [checker.feed(offset, value, head.link()) for offset, (value, head) in enumerate(zip(values, heads(values), strict=True))] == [
        None
    ] * 3
    assert checker.linked == 3


def test_after_a_void_the_next_record_begins_a_session_that_names_it():
    one = lane()
    one.link(b"a", BODY)
    refused = decode_head(one.link(b"a", BODY)).link()
    one.void(refused.session, refused.number)
    head = decode_head(one.link(b"a", BODY))
    assert (head.chainsession, head.chainnumber, head.chainvoids) == ("s2", "1", "s1/2")


def test_the_keys_remembered_are_bounded():
    one = lane()
    for number in range(MOST + 5):
        one.link(str(number).encode(), BODY)
    assert len(one._sequences) <= MOST
    assert decode_head(one.link(b"0", BODY)).sequence == "1", "a forgotten count begins a new run"


def test_a_write_ahead_lane_spools_from_the_start():
    assert lane(write_ahead=True).spooling
    assert not lane().spooling


def test_a_lane_is_stalled_when_the_same_record_stays_the_oldest():
    one, first, second = lane(), object(), object()
    assert not one.stalled(first, 10.0, 1.0)
    assert not one.stalled(first, 10.9, 1.0)
    assert one.stalled(first, 11.0, 1.0)
    assert not one.stalled(second, 11.1, 1.0), "something moved"
    assert not one.stalled(None, 20.0, 1.0)
    assert not one.stalled(second, 20.1, 1.0), "counted anew after a pause"

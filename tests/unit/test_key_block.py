"""Blocks of keys: a destroyed key cannot be made again from what is kept, and every other one can."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallyroll.adapters.crypto.key_block import KeyBlock

SEED = sha256(b"seed").digest()


@given(st.integers(1, 40), st.data())
def test_what_is_destroyed_is_gone_and_the_rest_is_as_before(count: int, data: st.DataObject) -> None:
    block = KeyBlock.of(SEED, count)
    keys = block.keys(count)
    assert len(set(keys)) == count
    gone = data.draw(st.lists(st.integers(0, count - 1), unique=True))
    assert block.destroy(gone) == gone
    assert block.destroy(gone) == []
    assert [block.key(number) for number in range(count)] == [None if number in gone else key for number, key in enumerate(keys)]
    assert not any(above_or_at(block, number) for number in gone), "nothing that is kept leads to a destroyed key"
    assert len(block.nodes) <= 1 + len(gone) * block.size.bit_length()


def above_or_at(block: KeyBlock, number: int) -> bool:
    leaf = block.size + number
    return any(leaf >> depth in block.nodes for depth in range(leaf.bit_length()))


@pytest.mark.parametrize("number", [-1, 4, 1 << 31])
def test_there_are_no_keys_beside_the_block(number: int) -> None:
    block = KeyBlock.of(SEED, 3)
    assert block.key(number) is None
    assert block.destroy([number]) == []
    assert block.nodes == {1: SEED}


def test_a_million_keys_are_kept_in_little_room() -> None:
    block = KeyBlock.of(SEED, 1 << 20)
    key = block.key(123_456)
    block.destroy([123_455])
    assert block.key(123_456) == key
    assert len(block.nodes) == 20


def test_a_node_left_behind_would_be_noticed() -> None:
    block = KeyBlock.of(SEED, 8)
    block.destroy([3])
    block.nodes[1] = SEED
    assert block.key(3) is not None
    assert above_or_at(block, 3)

"""The tree of RFC 6962: published roots, and both implementations against the definition in the RFC, word for word."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallyroll.audit.ledger import tree
from tallyroll.audit.ledger.layout import leaf_hash
from tallyroll.audit.ledger.tree import CompactRange, Tree
from tallyroll.audit.verify import merkle

INPUTS = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
SIZES = [*range(70), 255, 256, 257]


def leaves_of(size: int) -> list[bytes]:
    return [sha256(b"\0" + number.to_bytes(4)).digest() for number in range(size)]


# The definitions of RFC 6962, section 2.1, over leaf hashes


def mth(leaves: list[bytes]) -> bytes:
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = largest_power_below(len(leaves))
    return sha256(b"\1" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def path(m: int, leaves: list[bytes]) -> list[bytes]:
    if len(leaves) == 1:
        return []
    k = largest_power_below(len(leaves))
    return [*path(m, leaves[:k]), mth(leaves[k:])] if m < k else [*path(m - k, leaves[k:]), mth(leaves[:k])]


def proof(m: int, leaves: list[bytes], *, whole: bool = True) -> list[bytes]:
    if m == len(leaves):
        return [] if whole else [mth(leaves)]
    k = largest_power_below(len(leaves))
    if m <= k:
        return [*proof(m, leaves[:k], whole=whole), mth(leaves[k:])]
    return [*proof(m - k, leaves[k:], whole=False), mth(leaves[:k])]


def largest_power_below(count: int) -> int:
    power = 1
    while power * 2 < count:
        power *= 2
    return power


def test_published_roots() -> None:
    leaves = [leaf_hash(bytes.fromhex(text)) for text in INPUTS]
    for size, root in enumerate(ROOTS):
        assert mth(leaves[:size]).hex() == root
        assert Tree(leaves[:size]).root().hex() == root
        growing = merkle.Growing(0, [])
        growing.extend(leaves[:size])
        assert growing.root().hex() == root


@pytest.mark.parametrize("size", [*SIZES[1:], 1000])
def test_roots_and_inclusion(size: int) -> None:
    leaves = leaves_of(size)
    whole = Tree(leaves)
    assert whole.root() == mth(leaves) == tree.root(size, whole.node)
    for index in {0, 1, size // 2, size - 2, size - 1} & set(range(size)):
        found = tree.inclusion(index, size, whole.node)
        assert found == path(index, leaves)
        assert merkle.root_over(leaves[index], index, size, found) == mth(leaves)
        assert tree.root_from_inclusion(leaves[index], index, size, found) == mth(leaves)


@pytest.mark.parametrize("new", SIZES)
def test_consistency(new: int) -> None:
    leaves = leaves_of(new)
    whole = Tree(leaves)
    for old in range(new + 1) if new < 70 else (1, 127, 128, 129, 254, new - 1):
        found = tree.consistency(old, new, whole.node)
        assert found == (proof(old, leaves) if old else [])
        assert tree.is_consistent(old, mth(leaves[:old]), new, mth(leaves), found)
        if 0 < old < new:
            assert merkle.begins(old, mth(leaves[:old]), new, mth(leaves), found)


@given(st.integers(1, 200), st.data())
def test_a_proof_proves_nothing_else(new: int, data: st.DataObject) -> None:
    old = data.draw(st.integers(1, new))
    leaves = leaves_of(new)
    whole = Tree(leaves)
    found = tree.consistency(old, new, whole.node)
    old_root, new_root = mth(leaves[:old]), mth(leaves)
    another = sha256(b"another").digest()
    assert not tree.is_consistent(old, another, new, new_root, found)
    assert not tree.is_consistent(old, old_root, new, another, found)
    assert not merkle.begins(old, another, new, new_root, found)
    assert not merkle.begins(old, old_root, new, another, found)
    for wrong in ([*found, another], found[:-1] if found else [another]):
        assert not tree.is_consistent(old, old_root, new, new_root, wrong)
        assert not merkle.begins(old, old_root, new, new_root, wrong)
    index = data.draw(st.integers(0, new - 1))
    good = tree.inclusion(index, new, whole.node)
    assert merkle.root_over(another, index, new, good) != new_root
    assert merkle.root_over(leaves[index], index, new, [*good, another]) is None
    assert tree.root_from_inclusion(another, index, new, good) != new_root
    assert tree.root_from_inclusion(leaves[index], index, new, [*good, another]) is None
    if good:
        assert merkle.root_over(leaves[index], index, new, good[:-1]) is None


@given(st.lists(st.integers(0, 40), max_size=8))
def test_leaves_may_come_in_any_portions(portions: list[int]) -> None:
    leaves = leaves_of(sum(portions))
    compact, growing, nodes, at = CompactRange(), merkle.Growing(0, []), {}, 0
    for portion in portions:
        for height, first, hashes in compact.extend(leaves[at : at + portion]):
            nodes.update({(height, first + number): found for number, found in enumerate(hashes)})
        growing.extend(leaves[at : at + portion])
        at += portion
        assert compact.root() == growing.root() == mth(leaves[:at])
    whole = Tree(leaves)
    assert all(whole.node(*name) == found for name, found in nodes.items())
    assert compact.peaks == whole.peaks(at)
    for resumed in (CompactRange(at, compact.peaks), merkle.Growing(at, compact.peaks)):
        resumed.extend(leaves_of(at + 5)[at:])
        assert resumed.root() == mth(leaves_of(at + 5))


def test_a_node_is_no_leaf() -> None:
    left, right = leaves_of(2)
    assert tree.node_hash(left, right) != leaf_hash(left + right), "else an inner node could be shown as an entry"


def test_what_is_no_tree_is_refused() -> None:
    whole = Tree(leaves_of(5))
    with pytest.raises(ValueError, match="5 leaves has 2 peaks"):
        CompactRange(5, [bytes(32)])
    with pytest.raises(ValueError, match="no leaf 5"):
        tree.inclusion(5, 5, whole.node)
    with pytest.raises(ValueError, match="not a size before"):
        tree.consistency(6, 5, whole.node)
    assert merkle.root_over(bytes(32), 5, 5, []) is None
    assert tree.root_from_inclusion(bytes(32), 5, 5, []) is None
    assert not tree.is_consistent(3, bytes(32), 2, bytes(32), [])
    assert not tree.is_consistent(0, bytes(32), 2, bytes(32), []), "nothing is the beginning of everything, but it has one root"

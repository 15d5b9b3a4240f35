"""What is in a key ring: keys by handle, subjects, groups and first MAC keys, in two layers. Pure but for drawing at random."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import msgspec

from tallyroll.adapters.crypto.key_block import KeyBlock
from tallyroll.errors import KeyGone
from tallyroll.ports import DataKey

_BLOCK_NAME: Final = 12  # of the 16 bytes of a handle; the rest is the number in the block


class Ring(msgspec.Struct, dict=True):
    """One layer, as it is stored."""

    subjects: dict[str, bytes] = {}
    keys: dict[bytes, bytes] = {}
    groups: dict[bytes, tuple[bytes, ...]] = {}
    k0: dict[bytes, bytes] = {}
    blocks: dict[bytes, KeyBlock] = {}

    def __repr__(self) -> str:
        """Without names and keys."""
        return f"Ring({self.size} things)"

    @cached_property
    def group_of(self) -> dict[tuple[bytes, ...], bytes]:
        """Groups by their members; made once, so ask only a layer that is not changed any more."""
        return {members: handle for handle, members in self.groups.items()}

    @property
    def size(self) -> int:
        """How many things are in it."""
        return len(self.keys) + len(self.groups) + len(self.k0) + sum(len(block.nodes) for block in self.blocks.values())

    def key(self, handle: bytes) -> bytes | None:
        """The key behind a handle."""
        found = self.keys.get(handle)
        if found is None and (block := self.blocks.get(handle[:_BLOCK_NAME])) is not None:
            return block.key(int.from_bytes(handle[_BLOCK_NAME:], "big"))
        return found

    def has_key(self, handle: bytes) -> bool:
        """Whether there is a key behind a handle."""
        if handle in self.keys:
            return True
        block = self.blocks.get(handle[:_BLOCK_NAME])
        return block is not None and block.has(int.from_bytes(handle[_BLOCK_NAME:], "big"))

    def draw_for(self, name: str) -> None:
        """A new key for a subject."""
        self.subjects[name] = handle = os.urandom(16)
        self.keys[handle] = os.urandom(32)

    def draw_block(self, count: int) -> list[DataKey]:
        """Keys that are kept as one seed; the handle of each is the block's name and its number there."""
        name, block = os.urandom(_BLOCK_NAME), KeyBlock.of(os.urandom(32), count)
        self.blocks[name] = block
        return [DataKey(name + number.to_bytes(4, "big"), key) for number, key in enumerate(block.keys(count))]

    def copy(self) -> Ring:
        """Another one that can be changed; blocks are changed only by ``drop``, in a copy of their own."""
        return Ring(dict(self.subjects), dict(self.keys), dict(self.groups), dict(self.k0), dict(self.blocks))

    def drop(self, handles: Collection[bytes]) -> list[bytes]:
        """Drops keys, and groups with such a member; returns the handles of all that died."""
        gone = set(handles)
        died = {handle for handle in gone if self.keys.pop(handle, None)}
        died |= {handle for handle in gone - died if self._puncture(handle)}
        died |= {group for group, members in self.groups.items() if group in gone or gone.intersection(members)}
        self.groups = {group: members for group, members in self.groups.items() if group not in died}
        self.subjects = {name: handle for name, handle in self.subjects.items() if handle not in gone}
        return sorted(died)

    def _puncture(self, handle: bytes) -> bool:
        name = handle[:_BLOCK_NAME]
        known = self.blocks.get(name)
        if known is None:
            return False
        block = KeyBlock(known.size, dict(known.nodes))
        died = bool(block.destroy([int.from_bytes(handle[_BLOCK_NAME:], "big")]))
        self.blocks[name] = block
        if not block.nodes:
            del self.blocks[name]
        return died


class Guard(msgspec.Struct):
    """What is kept apart from the ring: its keys, what was destroyed, and which epochs were given."""

    current: int
    keys: dict[int, bytes]
    ready: bool = False
    destroyed: list[bytes] = []
    epochs: dict[bytes, int] = {}

    def __repr__(self) -> str:
        """Without keys."""
        return f"Guard({self.current})"


@dataclass(frozen=True, slots=True, repr=False)
class Layers:
    """A ring as it is used: the main layer, which is large, and what came since, which is small. Neither is changed in use."""

    main: Ring
    recent: Ring

    def subject(self, name: str) -> bytes | None:
        """The handle of a subject."""
        return self.recent.subjects.get(name) or self.main.subjects.get(name)

    def key(self, handle: bytes) -> bytes:
        """The key behind a handle. Raises KeyGone."""
        found = self.recent.key(handle) or self.main.key(handle)
        if found is None:
            raise KeyGone(handle)
        return found

    def missing(self, handles: Collection[bytes]) -> list[bytes]:
        """Those handles that stand for no key, and for no group of which every member has one."""
        return [handle for handle in handles if not self._has_key(handle) and not self._has_group(handle)]

    def _has_key(self, handle: bytes) -> bool:
        return self.main.has_key(handle) or self.recent.has_key(handle)

    def _has_group(self, handle: bytes) -> bool:
        members = self.main.groups.get(handle) or self.recent.groups.get(handle) or ()
        return bool(members) and all(map(self._has_key, members))

    def k0(self, epoch: bytes) -> bytes | None:
        """A first MAC key."""
        return self.recent.k0.get(epoch) or self.main.k0.get(epoch)

    def members(self, group: bytes) -> Sequence[bytes]:
        """The members of a group. Raises KeyGone."""
        found = self.recent.groups.get(group) or self.main.groups.get(group)
        if found is None:
            raise KeyGone(group)
        return found

    def group_of(self, members: tuple[bytes, ...]) -> bytes | None:
        """The group of these members, if there is one. Raises KeyGone for an unknown member."""
        for member in members:
            self.key(member)
        return self.recent.group_of.get(members) or self.main.group_of.get(members)

    def groups_with(self, handle: bytes) -> list[bytes]:
        """The groups that a handle is a member of."""
        return sorted({group for layer in (self.main, self.recent) for group, members in layer.groups.items() if handle in members})

    def joined(self) -> Ring:
        """Both as one layer, to be changed."""
        ring, recent = self.main.copy(), self.recent
        ring.subjects |= recent.subjects
        ring.keys |= recent.keys
        ring.groups |= recent.groups
        ring.k0 |= recent.k0
        ring.blocks |= {name: block for name, block in recent.blocks.items() if name not in ring.blocks}
        return ring

    def without(self, handles: Collection[bytes]) -> Layers:
        """The same without what was destroyed; the same object where there is none of it."""
        gone = [handle for handle in handles if self.main.key(handle) or self.recent.key(handle)]
        if not gone:
            return self
        main, recent = self.main.copy(), self.recent.copy()
        main.drop(gone)
        recent.drop(gone)
        return Layers(main, recent)

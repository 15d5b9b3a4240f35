"""The key ring in local files: the ring, sealed as a whole under a key of its own, and that key, sealed under a secret.

Two files, because they want different care. The ring, ``PATH``, is what backups are made of. The guard, ``PATH.guard``,
holds the key of the ring, what was destroyed and which epochs were given; it is kept apart from the backups, so that an old
ring can be put back and still has no destroyed key and gives no epoch twice.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from hmac import compare_digest, digest
from pathlib import Path
from typing import Final, Protocol, TypeVar

import msgspec

from tallyroll.adapters.crypto import sealed_file
from tallyroll.adapters.crypto.key_block import KeyBlock
from tallyroll.adapters.crypto.sealed_file import Fault
from tallyroll.errors import KeyGone, KeyRingUnavailable, SettingsError
from tallyroll.ports import DataKey, Enrolment

MIN_SECRET_BYTES: Final = 32
_RING: Final = b"TRKR1"  # then the number of its key, 4 bytes
_GUARD: Final = b"TRKG1"  # then what tells a wrong secret from a damaged file, 32 bytes
_RING_HEAD: Final = len(_RING) + 4
_GUARD_HEAD: Final = len(_GUARD) + 32
_MAX_EPOCH: Final = 2**32 - 1
_BLOCK_NAME: Final = 12  # of the 16 bytes of a handle; the rest is the number in the block
_T = TypeVar("_T")


class Root(Protocol):
    """What everything of one ledger's keys comes from; it stays where it is. ``setting`` is the setting that names it."""

    setting: str

    def derive(self, label: bytes) -> bytes:
        """32 bytes for a purpose; the same for the same label, and telling nothing of the root or of other purposes."""


class SecretRoot:
    """A root that is a secret of at least 32 bytes: HMAC-SHA256 of the label. Raises SettingsError for a shorter one."""

    setting = "AUDIT_SECRET_KEY"

    def __init__(self, secret: bytes) -> None:
        if len(secret) < MIN_SECRET_BYTES:
            raise SettingsError(self.setting, f"at least {MIN_SECRET_BYTES} bytes are needed")
        self._secret = secret

    def derive(self, label: bytes) -> bytes:
        return digest(self._secret, label, sha256)

    def __repr__(self) -> str:
        """Without the secret."""
        return "SecretRoot()"


class _Ring(msgspec.Struct):
    subjects: dict[str, bytes] = {}
    keys: dict[bytes, bytes] = {}
    groups: dict[bytes, tuple[bytes, ...]] = {}
    k0: dict[bytes, bytes] = {}
    blocks: dict[bytes, KeyBlock] = {}

    def draw(self) -> DataKey:
        new = DataKey(os.urandom(16), os.urandom(32))
        self.keys[new.handle] = new.key
        return new

    def draw_block(self, count: int) -> list[DataKey]:
        """Keys that are kept as one seed; the handle of each is the block's name and its number there."""
        name, block = os.urandom(_BLOCK_NAME), KeyBlock.of(os.urandom(32), count)
        self.blocks[name] = block
        return [DataKey(name + number.to_bytes(4, "big"), key) for number, key in enumerate(block.keys(count))]

    def key(self, handle: bytes) -> bytes | None:
        found = self.keys.get(handle)
        if found is None and (block := self.blocks.get(handle[:_BLOCK_NAME])) is not None:
            return block.key(int.from_bytes(handle[_BLOCK_NAME:], "big"))
        return found

    def drop(self, handles: Collection[bytes]) -> list[bytes]:
        """Drops keys, and groups with such a member; returns the handles of all that died."""
        gone = set(handles)
        died = {handle for handle in gone if self.keys.pop(handle, None)}
        for handle in gone - died:
            block = self.blocks.get(handle[:_BLOCK_NAME])
            if block is not None and block.destroy([int.from_bytes(handle[_BLOCK_NAME:], "big")]):
                died.add(handle)
                if not block.nodes:
                    del self.blocks[handle[:_BLOCK_NAME]]
        died |= {group for group, members in self.groups.items() if group in gone or gone.intersection(members)}
        self.groups = {group: members for group, members in self.groups.items() if group not in died}
        self.subjects = {name: handle for name, handle in self.subjects.items() if handle not in gone}
        return sorted(died)


class _Guard(msgspec.Struct):
    current: int
    keys: dict[int, bytes]
    ready: bool = False
    destroyed: list[bytes] = []
    epochs: dict[bytes, int] = {}


_read_ring: Final = msgspec.msgpack.Decoder(_Ring).decode
_read_guard: Final = msgspec.msgpack.Decoder(_Guard).decode
_write: Final = msgspec.msgpack.Encoder().encode


def _no_fault(_point: str) -> None:
    pass


class FileKeyRing:
    """Implements ``ports.KeyRing`` in two files of mode 0600 and a backup of the ring, ``PATH.backup``.

    Each change rewrites the ring: meant for some ten thousand subjects. Keys of nobody known take no room until one of them is
    destroyed, if they are drawn many at a time. Before a change the ring that was there becomes the
    backup; after a destruction or a rotation the backup is made anew, so that it holds nothing more than the ring.
    Threads and processes of one host may share the ring. Not promised: use over a network file system.
    """

    def __init__(self, path: Path, root: Root | bytes, *, restore_from: Path | None = None, fault: Fault = _no_fault) -> None:
        """Makes the ring where there is none; see ``restore`` for putting back a backup.

        ``root`` is what the ring is sealed under, a secret of at least 32 bytes or a key elsewhere. Raises SettingsError where
        it is not the one that the ring was made with.
        """
        self._path = path
        self._guard_path = path.with_name(f"{path.name}.guard")
        self._backup = path.with_name(f"{path.name}.backup")
        self._root = SecretRoot(root) if isinstance(root, bytes) else root
        self._fault = fault
        self._seen = b""
        self._ring = _Ring()  # never changed in place: another thread may be reading it
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise KeyRingUnavailable(str(path), os.strerror(error.errno or 0)) from None
        with self._turn(fcntl.LOCK_EX):
            if restore_from is None:
                self._make()
            else:
                self._read_ring(restore_from, self._read_guard())
                self._store(path, sealed_file.read(restore_from))
            self._load()

    def __repr__(self) -> str:
        """Without keys and names."""
        return f"FileKeyRing({str(self._path)!r})"

    # The port

    def enrol(self, opened_us: int, *, writer: bytes | None = None, after: int = 0) -> Enrolment:
        with self._changing() as (ring, guard):
            known = guard.epochs.get(writer, 0) if writer else 0
            if writer is None or not known or max(known, after) >= _MAX_EPOCH:
                writer, known, after = os.urandom(16), 0, 0
            epoch, k0 = max(known, after) + 1, os.urandom(32)
            guard.epochs[writer] = epoch
            self._store_guard(guard)  # first: a number is skipped by a crash, never given twice
            ring.k0[_epoch_key(writer, epoch)] = k0
            self._store_ring(ring, guard)
        return Enrolment(writer, epoch, k0, _token(k0, writer, epoch), opened_us)

    def admits(self, writer: bytes, epoch: int, token: str) -> bool:
        k0 = self._now().k0.get(_epoch_key(writer, epoch))
        return k0 is not None and compare_digest(_token(k0, writer, epoch).encode(), token.encode())

    def k0(self, writer: bytes, epoch: int) -> bytes:
        return _found(self._now().k0, _epoch_key(writer, epoch))

    def subjects(self, names: Sequence[str]) -> Sequence[DataKey]:
        ring = self._now()
        if not all(name in ring.subjects for name in names):
            with self._changing() as (ring, guard):
                for name in names:
                    if name not in ring.subjects:
                        ring.subjects[name] = ring.draw().handle
                self._store_ring(ring, guard)
        return [DataKey(handle, ring.keys[handle]) for handle in (ring.subjects[name] for name in names)]

    def draw(self, count: int) -> Sequence[DataKey]:
        with self._changing() as (ring, guard):
            drawn = ring.draw_block(count) if count else []
            self._store_ring(ring, guard)
        return drawn

    def group(self, members: Collection[bytes]) -> bytes:
        wanted = tuple(sorted(set(members)))
        if (known := _group_of(self._now(), wanted)) is not None:
            return known
        with self._changing() as (ring, guard):
            if (known := _group_of(ring, wanted)) is not None:
                return known  # another process was faster
            handle = os.urandom(16)
            ring.groups[handle] = wanted
            self._store_ring(ring, guard)
        return handle

    def members(self, group: bytes) -> Sequence[bytes]:
        return _found(self._now().groups, group)

    def groups_with(self, handle: bytes) -> Sequence[bytes]:
        return sorted(group for group, members in self._now().groups.items() if handle in members)

    def key(self, handle: bytes) -> bytes:
        key = self._now().key(handle)
        if key is None:
            raise KeyGone(handle)
        return key

    def handle_of(self, name: str) -> bytes | None:
        return self._now().subjects.get(name)

    def destroy(self, handles: Collection[bytes]) -> Sequence[bytes]:
        with self._changing() as (ring, guard):
            died = ring.drop(handles)
            guard.destroyed = sorted({*guard.destroyed, *handles})
            self._store_guard(guard)  # from here on the keys are gone, whatever becomes of the ring
            self._store_ring(ring, guard)
            self._store(self._backup, _sealed(ring, guard))
        return died

    def rotate(self) -> int:
        with self._changing() as (ring, guard):
            guard.current += 1
            guard.keys[guard.current] = os.urandom(32)
            self._store_guard(guard)  # both keys: a crash leaves a ring that one of them opens
            self._store_ring(ring, guard)
            self._store(self._backup, _sealed(ring, guard))
            self._read_ring(self._backup, guard)  # it can be restored, seen before the old key goes
            guard.keys = {guard.current: guard.keys[guard.current]}
            guard.destroyed = []  # no copy that holds them can be read
            self._store_guard(guard)
        return guard.current

    def close(self) -> None:
        self._seen, self._ring = b"", _Ring()

    # Files

    @contextmanager
    def _turn(self, kind: int) -> Iterator[None]:
        """Waits for the others: many may read at a time, one may write alone."""
        lock = self._path.with_name(f"{self._path.name}.lock")
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise KeyRingUnavailable(str(self._path), os.strerror(error.errno or 0)) from None
        try:
            fcntl.flock(descriptor, kind)
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def _changing(self) -> Iterator[tuple[_Ring, _Guard]]:
        """The ring and its guard as the files say, to be changed and stored; others see them when all is stored."""
        with self._turn(fcntl.LOCK_EX):
            ring, guard = self._read()
            yield ring, guard
            self._ring, self._seen = ring, self._stamp()

    def _now(self) -> _Ring:
        """The ring as the files say now; another process may have changed it."""
        if not self._seen or self._stamp() != self._seen:
            with self._turn(fcntl.LOCK_SH):
                self._load()
        return self._ring

    def _stamp(self) -> bytes:
        """Tells one content of the files from any other: the random nonces of their seals."""
        try:
            with self._path.open("rb") as ring, self._guard_path.open("rb") as guard:
                return ring.read(_RING_HEAD + sealed_file.NONCE) + guard.read(_GUARD_HEAD + sealed_file.NONCE)
        except OSError as error:
            raise KeyRingUnavailable(str(self._path), os.strerror(error.errno or 0)) from None

    def _make(self) -> None:
        if not self._guard_path.exists() and not self._path.exists() and not self._backup.exists():
            self._store_guard(_Guard(1, {1: os.urandom(32)}))
        guard = self._read_guard()
        if not guard.ready:  # also where a crash has left the making unfinished
            self._store(self._path, _sealed(_Ring(), guard))
            guard.ready = True
            self._store_guard(guard)

    def _load(self) -> None:
        (ring, _), self._seen = self._read(), self._stamp()
        self._ring = ring

    def _read(self) -> tuple[_Ring, _Guard]:
        guard = self._read_guard()
        ring = self._read_ring(self._path, guard)
        ring.drop(guard.destroyed)
        return ring, guard

    def _read_guard(self) -> _Guard:
        content = sealed_file.read(self._guard_path)
        if not content.startswith(_GUARD) or len(content) < _GUARD_HEAD:
            raise KeyRingUnavailable(str(self._guard_path), "it is no guard of a key ring")
        if not compare_digest(content[len(_GUARD) : _GUARD_HEAD], self._derived(b"check")):
            raise SettingsError(self._root.setting, "is not the one that the key ring was made with")
        return _decoded(_read_guard, self._guard_path, sealed_file.unseal(self._guard_path, content, _GUARD_HEAD, self._derived(b"guard")))

    def _read_ring(self, path: Path, guard: _Guard) -> _Ring:
        content = sealed_file.read(path)
        if not content.startswith(_RING) or len(content) < _RING_HEAD:
            raise KeyRingUnavailable(str(path), "it is no key ring")
        key = guard.keys.get(int.from_bytes(content[len(_RING) : _RING_HEAD], "big"))
        if key is None:
            raise KeyRingUnavailable(str(path), "no key for it is left: it is from before a rotation, or of another ring")
        return _decoded(_read_ring, path, sealed_file.unseal(path, content, _RING_HEAD, key))

    def _store_guard(self, guard: _Guard) -> None:
        head = _GUARD + self._derived(b"check")
        self._store(self._guard_path, sealed_file.seal(head, self._derived(b"guard"), _write(guard)))

    def _store_ring(self, ring: _Ring, guard: _Guard) -> None:
        self._store(self._backup, sealed_file.read(self._path))
        self._store(self._path, _sealed(ring, guard))

    def _store(self, path: Path, content: bytes) -> None:
        sealed_file.replace(path, content, self._fault)

    def _derived(self, label: bytes) -> bytes:
        return self._root.derive(b"tallyroll/keyring/" + label)


def restore(path: Path, root: Root | bytes, backup: Path | None = None) -> FileKeyRing:
    """Puts a backup, ``PATH.backup`` unless another is named, in the place of the ring. What was destroyed stays so.

    The guard is needed. Raises KeyRingUnavailable for a backup from before the newest rotation: nobody can read it any more.
    """
    return FileKeyRing(path, root, restore_from=backup or path.with_name(f"{path.name}.backup"))


def _sealed(ring: _Ring, guard: _Guard) -> bytes:
    return sealed_file.seal(_RING + guard.current.to_bytes(4, "big"), guard.keys[guard.current], _write(ring))


def _group_of(ring: _Ring, members: tuple[bytes, ...]) -> bytes | None:
    for member in members:
        if ring.key(member) is None:
            raise KeyGone(member)
    return next((handle for handle, present in ring.groups.items() if present == members), None)


def _found(table: dict[bytes, _T], handle: bytes) -> _T:
    value = table.get(handle)
    if value is None:
        raise KeyGone(handle)
    return value


def _decoded(decode: Callable[[bytes], _T], path: Path, text: bytes) -> _T:
    try:
        return decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise KeyRingUnavailable(str(path), "it was written by another version") from None


def _epoch_key(writer: bytes, epoch: int) -> bytes:
    return writer + epoch.to_bytes(4, "big")


def _token(k0: bytes, writer: bytes, epoch: int) -> str:
    return digest(k0, b"aud1/token" + _epoch_key(writer, epoch), sha256).hex()

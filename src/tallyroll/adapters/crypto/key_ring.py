"""The key ring in local files: the ring, sealed as a whole under a key of its own, and that key, sealed under a secret.

They are apart because they want different care. The ring, ``PATH`` and ``PATH.recent``, is what backups are made of. The
guard, ``PATH.guard``, holds the key of the ring, what was destroyed and which epochs were given; it is kept apart from the
backups, so that an old ring can be put back and still has no destroyed key and gives no epoch twice.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from hmac import compare_digest, digest
from pathlib import Path
from typing import Final, NamedTuple, Protocol, TypeVar

import msgspec

from tallyroll.adapters.crypto import sealed_file
from tallyroll.adapters.crypto.ring_content import Guard, Layers, Ring
from tallyroll.adapters.durable import Fault, no_fault
from tallyroll.errors import KeyGone, KeyRingUnavailable, SettingsError
from tallyroll.ports import DataKey, Enrolment

MIN_SECRET_BYTES: Final = 32
_RING: Final = b"TRKR1"  # then the number of its key, 4 bytes
_RECENT: Final = b"TRKN1"  # likewise
_GUARD: Final = b"TRKG1"  # then what tells a wrong secret from a damaged file, 32 bytes
_SETTING: Final = "AUDIT_SECRET_KEY"
_RING_HEAD: Final = len(_RING) + 4
_GUARD_HEAD: Final = len(_GUARD) + 32
_MAX_EPOCH: Final = 2**32 - 1
_MOST_RECENT: Final = 512  # things; a file of some 40 kB
_T = TypeVar("_T")


class Root(Protocol):
    """What everything of one ledger's keys comes from; it stays where it is."""

    def wrong(self) -> SettingsError | KeyRingUnavailable:
        """What to raise where a ring was made with another one: it names where this one was read."""

    def derive(self, label: bytes) -> bytes:
        """32 bytes for a purpose; the same for the same label, and telling nothing of the root or of other purposes."""


class SecretRoot:
    """A root that is a secret of at least 32 bytes: HMAC-SHA256 of the label. Raises SettingsError for a shorter one.

    ``path`` is the file that it was read from; None: it came with the setting.
    """

    def __init__(self, secret: bytes, path: Path | None = None) -> None:
        if len(secret) < MIN_SECRET_BYTES:
            raise SettingsError(_SETTING, f"at least {MIN_SECRET_BYTES} bytes are needed")
        self._secret = secret
        self._path = path

    def wrong(self) -> SettingsError | KeyRingUnavailable:
        if self._path is None:
            return SettingsError(_SETTING, "is not the one that the key ring was made with")
        return KeyRingUnavailable(str(self._path), "it is not the one that the key ring was made with; restore it from a copy")

    def derive(self, label: bytes) -> bytes:
        return digest(self._secret, label, sha256)

    def __repr__(self) -> str:
        """Without the secret."""
        return "SecretRoot()"


_read_ring: Final = msgspec.msgpack.Decoder(Ring).decode
_read_guard: Final = msgspec.msgpack.Decoder(Guard).decode
_write: Final = msgspec.msgpack.Encoder().encode


class Stamp(NamedTuple):
    """How the three files begin."""

    ring: bytes
    recent: bytes
    guard: bytes


_UNSEEN: Final = Stamp(b"", b"", b"")


class FileKeyRing:
    """Implements ``ports.KeyRing`` in three files of mode 0600 and a backup of the ring, ``PATH.backup``.

    What is added goes into ``PATH.recent``, which is small and is joined to the ring when it holds some hundred things: so an
    addition costs the same however many subjects there are. Keys of nobody known take no room until one of them is destroyed,
    if they are drawn many at a time. The backup is rewritten after the ring and says the same: with ``PATH.recent`` it makes
    up for a ring that was damaged.
    Threads and processes of one host may share the ring. Not promised: use over a network file system; nor less memory than
    the ring has.
    """

    def __init__(self, path: Path, root: Root | bytes, *, restore_from: Path | None = None, fault: Fault = no_fault) -> None:
        """Makes the ring where there is none; see ``restore`` for putting back a backup.

        ``root`` is what the ring is sealed under, a secret of at least 32 bytes or a key elsewhere. Raises SettingsError where
        it is not the one that the ring was made with, KeyRingUnavailable where its file holds another one.
        """
        self._path = path
        self._recent, self._guard_path, self._backup = (path.with_name(f"{path.name}{end}") for end in (".recent", ".guard", ".backup"))
        self._root = SecretRoot(root) if isinstance(root, bytes) else root
        self._fault = fault
        self._seen = _UNSEEN
        self._layers = Layers(Ring(), Ring())  # never changed in place: another thread may be reading it
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
        with self._adding() as (_, recent, guard):
            known = guard.epochs.get(writer, 0) if writer else 0
            if writer is None or not known or max(known, after) >= _MAX_EPOCH:
                writer, known, after = os.urandom(16), 0, 0
            epoch, k0 = max(known, after) + 1, os.urandom(32)
            guard.epochs[writer] = epoch
            self._store_guard(guard)  # first: a number is skipped by a crash, never given twice
            recent.k0[_epoch_key(writer, epoch)] = k0
        return Enrolment(writer, epoch, k0, _token(k0, writer, epoch), opened_us)

    def admits(self, writer: bytes, epoch: int, token: str) -> bool:
        k0 = self._now().k0(_epoch_key(writer, epoch))
        return k0 is not None and compare_digest(_token(k0, writer, epoch).encode(), token.encode())

    def k0(self, writer: bytes, epoch: int) -> bytes:
        k0 = self._now().k0(_epoch_key(writer, epoch))
        if k0 is None:
            raise KeyGone(_epoch_key(writer, epoch))
        return k0

    def subjects(self, names: Sequence[str]) -> Sequence[DataKey]:
        layers = self._now()
        if any(layers.subject(name) is None for name in names):
            with self._adding() as (known, recent, _):
                for name in names:
                    if known.subject(name) is None and name not in recent.subjects:
                        recent.draw_for(name)
            layers = self._layers
        handles = [layers.subject(name) or b"" for name in names]
        return [DataKey(handle, layers.key(handle)) for handle in handles]

    def draw(self, count: int) -> Sequence[DataKey]:
        if count == 0:
            return []
        with self._adding() as (_, recent, _guard):
            return recent.draw_block(count)

    def group(self, members: Collection[bytes]) -> bytes:
        wanted = tuple(sorted(set(members)))
        if (known := self._now().group_of(wanted)) is not None:
            return known
        with self._adding() as (layers, recent, _):
            handle = layers.group_of(wanted)
            if handle is None:  # else another process was faster
                recent.groups[handle := os.urandom(16)] = wanted
        return handle

    def members(self, group: bytes) -> Sequence[bytes]:
        return self._now().members(group)

    def groups_with(self, handle: bytes) -> Sequence[bytes]:
        return self._now().groups_with(handle)

    def key(self, handle: bytes) -> bytes:
        return self._now().key(handle)

    def missing(self, handles: Collection[bytes]) -> Sequence[bytes]:
        return self._now().missing(handles)

    def handle_of(self, name: str) -> bytes | None:
        return self._now().subject(name)

    def destroy(self, handles: Collection[bytes]) -> Sequence[bytes]:
        with self._rewriting() as (ring, guard):
            died = ring.drop(handles)
            guard.destroyed = sorted({*guard.destroyed, *handles})
            self._store_guard(guard)  # from here on the keys are gone, whatever becomes of the ring
            self._store_ring(ring, guard)
        return died

    def destructions(self) -> bytes:
        return self._stamp().guard  # written before anything else of a destruction

    def rotate(self) -> int:
        with self._rewriting() as (ring, guard):
            guard.current += 1
            guard.keys[guard.current] = os.urandom(32)
            self._store_guard(guard)  # both keys: a crash leaves a ring that one of them opens
            self._store_ring(ring, guard)
            self._read_ring(self._backup, guard)  # it can be restored, seen before the old key goes
            guard.keys = {guard.current: guard.keys[guard.current]}
            guard.destroyed = []  # no copy that holds them can be read
            self._store_guard(guard)
        return guard.current

    def copy_to(self, path: Path) -> None:
        """Writes the whole ring into one file, for a backup; ``restore`` takes it."""
        with self._turn(fcntl.LOCK_SH):
            layers, guard = self._load()
        self._store(path, _sealed(_RING, layers.joined(), guard))

    def close(self) -> None:
        self._seen, self._layers = _UNSEEN, Layers(Ring(), Ring())

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
    def _adding(self) -> Iterator[tuple[Layers, Ring, Guard]]:
        """The ring as the files say, and a copy of its recent layer to be added to; stored when the block ends without error."""
        with self._turn(fcntl.LOCK_EX):
            layers, guard = self._load()
            recent = layers.recent.copy()
            yield layers, recent, guard
            if recent.size > _MOST_RECENT:
                self._store_ring(Layers(layers.main, recent).joined(), guard)
                self._load()
            elif recent.size != layers.recent.size:
                self._store(self._recent, _sealed(_RECENT, recent, guard))
                self._layers, self._seen = Layers(layers.main, recent), self._stamp()

    @contextmanager
    def _rewriting(self) -> Iterator[tuple[Ring, Guard]]:
        """The ring as one layer, to be changed and stored by the block."""
        with self._turn(fcntl.LOCK_EX):
            layers, guard = self._load()
            yield layers.joined(), guard
            self._load()

    def _now(self) -> Layers:
        """The ring as the files say now; another process may have changed it."""
        if self._stamp() != self._seen:
            with self._turn(fcntl.LOCK_SH):
                self._load()
        return self._layers

    def _stamp(self) -> Stamp:
        """Tells one content of the files from any other: the random nonces of their seals. No stamp is _UNSEEN."""
        try:
            return Stamp(*(_begin(path, head + sealed_file.NONCE) for path, head in self._files()))
        except OSError as error:
            raise KeyRingUnavailable(str(error.filename or self._path), os.strerror(error.errno or 0)) from None

    def _files(self) -> Iterator[tuple[Path, int]]:
        return iter(((self._path, _RING_HEAD), (self._recent, _RING_HEAD), (self._guard_path, _GUARD_HEAD)))

    def _make(self) -> None:
        if not any(path.exists() for path in (self._guard_path, self._path, self._recent, self._backup)):
            self._store_guard(Guard(1, {1: os.urandom(32)}))
        guard = self._read_guard()
        if not guard.ready:  # also where a crash has left the making unfinished
            self._store_ring(Ring(), guard)
            guard.ready = True
            self._store_guard(guard)

    def _load(self) -> tuple[Layers, Guard]:
        """Reads what has changed since, for one who has a turn."""
        now, guard = self._stamp(), self._read_guard()
        known = self._layers
        same_ring = now.ring == self._seen.ring and now.guard == self._seen.guard
        layers = Layers(known.main if same_ring else self._read_ring(self._path, guard), self._read_ring(self._recent, guard))
        self._layers, self._seen = layers.without(guard.destroyed), now
        return self._layers, guard

    def _read_guard(self) -> Guard:
        content = sealed_file.read(self._guard_path)
        if not content.startswith(_GUARD) or len(content) < _GUARD_HEAD:
            raise KeyRingUnavailable(str(self._guard_path), "it is no guard of a key ring")
        if not compare_digest(content[len(_GUARD) : _GUARD_HEAD], self._derived(b"check")):
            raise self._root.wrong()
        return _decoded(_read_guard, self._guard_path, sealed_file.unseal(self._guard_path, content, _GUARD_HEAD, self._derived(b"guard")))

    def _read_ring(self, path: Path, guard: Guard) -> Ring:
        content = sealed_file.read(path)
        magic = _RECENT if path == self._recent else _RING
        if not content.startswith(magic) or len(content) < _RING_HEAD:
            raise KeyRingUnavailable(str(path), "it is no key ring")
        key = guard.keys.get(int.from_bytes(content[len(magic) : _RING_HEAD], "big"))
        if key is None:
            raise KeyRingUnavailable(str(path), "no key for it is left: it is from before a rotation, or of another ring")
        return _decoded(_read_ring, path, sealed_file.unseal(path, content, _RING_HEAD, key))

    def _store_guard(self, guard: Guard) -> None:
        head = _GUARD + self._derived(b"check")
        self._store(self._guard_path, sealed_file.seal(head, self._derived(b"guard"), _write(guard)))

    def _store_ring(self, ring: Ring, guard: Guard) -> None:
        """The whole ring; then there is nothing recent. A crash between leaves the recent things in both, which harms nothing."""
        sealed = _sealed(_RING, ring, guard)
        self._store(self._path, sealed)
        self._store(self._backup, sealed)
        self._store(self._recent, _sealed(_RECENT, Ring(), guard))

    def _store(self, path: Path, content: bytes) -> None:
        sealed_file.replace(path, content, self._fault)

    def _derived(self, label: bytes) -> bytes:
        return self._root.derive(b"tallyroll/keyring/" + label)


def restore(path: Path, root: Root | bytes, backup: Path | None = None) -> FileKeyRing:
    """Puts a backup, ``PATH.backup`` unless another is named, in the place of the ring. What was destroyed stays so.

    The guard is needed. Raises KeyRingUnavailable for a backup from before the newest rotation: nobody can read it any more.
    """
    return FileKeyRing(path, root, restore_from=backup or path.with_name(f"{path.name}.backup"))


def _sealed(magic: bytes, ring: Ring, guard: Guard) -> bytes:
    return sealed_file.seal(magic + guard.current.to_bytes(4, "big"), guard.keys[guard.current], _write(ring))


def _begin(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        return file.read(size)


def _decoded(decode: Callable[[bytes], _T], path: Path, text: bytes) -> _T:
    try:
        return decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise KeyRingUnavailable(str(path), "it was written by another version") from None


def _epoch_key(writer: bytes, epoch: int) -> bytes:
    return writer + epoch.to_bytes(4, "big")


def _token(k0: bytes, writer: bytes, epoch: int) -> str:
    return digest(k0, b"aud1/token" + _epoch_key(writer, epoch), sha256).hex()

"""A key ring that another process keeps, asked by messages: for hosts that record into one ledger. Who carries them is given.

Both ends have the root of the ring. Each message is sealed under a key from it, an answer together with its question, so
whoever carries them learns and changes nothing. A question needs a ticket that the keeper has given out and takes back once:
a recorded question does nothing when it is asked again, and no clock is needed.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tallyroll.adapters.crypto.key_ring import Root
from tallyroll.errors import KeyGone, KeyRingUnavailable
from tallyroll.ports import DataKey, Enrolment, KeyRing

Carry = Callable[[bytes], bytes]
"""Brings a question to who keeps the ring, and gives the answer. Blocks. Raises KeyRingUnavailable where there is none."""

_ASK: Final = b"TRKQ1"
_ANSWER: Final = b"TRKA1"
_NONCE: Final = 12
_TICKET: Final = 16
_TICKETS: Final = 1_024  # that are out; an older one is void, and whoever has it is given another
_MOST_BYTES: Final = 200_000  # of the names of one question; who serves takes some more
_MOST_HANDLES: Final = 10_000  # of one question, 18 bytes each
_OK: Final = "ok"
_STALE: Final = "stale"
_GONE: Final = "gone"
_AWAY: Final = "away"

_pack: Final = msgspec.msgpack.Encoder().encode
_unpack: Final[Callable[[bytes], Any]] = msgspec.msgpack.Decoder(tuple[bytes, str, Any]).decode


class _Channel:
    """Seals one direction's messages with the root's key for it, and opens them."""

    def __init__(self, root: Root, head: bytes) -> None:
        self._head = head
        self._aes = AESGCM(root.derive(b"tallyroll/keyring/remote/" + head))

    def seal(self, text: bytes, about: bytes = b"") -> bytes:
        nonce = os.urandom(_NONCE)
        return self._head + nonce + self._aes.encrypt(nonce, text, self._head + about)

    def open(self, message: bytes, about: bytes = b"") -> tuple[bytes, str, Any]:
        """Raises ValueError for a message that the other end has not made, or not for this."""
        start = len(self._head)
        try:
            text = self._aes.decrypt(message[start : start + _NONCE], message[start + _NONCE :], self._head + about)
            return _unpack(text)  # type: ignore[no-any-return]  # as the decoder says
        except (InvalidTag, ValueError, msgspec.MsgspecError):
            raise ValueError("not a message of this ring") from None


class RingKeeper:
    """Answers what other hosts ask a ring. Called from several threads; no answer, log or error holds a key in clear.

    Not promised: to tell one of those who have the root from another. Whoever has it and reaches this may do everything that a
    ring can: keep it where only your hosts reach it.
    """

    def __init__(self, ring: KeyRing, root: Root) -> None:
        self._ring = ring
        self._asks, self._answers = _Channel(root, _ASK), _Channel(root, _ANSWER)
        self._tickets: OrderedDict[bytes, None] = OrderedDict()

    def answer(self, question: bytes) -> bytes:
        """The answer. Raises ValueError for a question of somebody who has another root, or none."""
        ticket, call, arguments = self._asks.open(question)
        known = ticket in self._tickets and self._tickets.pop(ticket, _STALE) is None  # of two that bring the same, one gets None
        said = self._do(call, arguments) if known else (_STALE, None)
        fresh = os.urandom(_TICKET)
        self._tickets[fresh] = None
        while len(self._tickets) > _TICKETS:
            self._tickets.popitem(last=False)
        return self._answers.seal(_pack((fresh, *said)), question)

    def _do(self, call: str, arguments: Any) -> tuple[str, Any]:  # noqa: ANN401  # as they were sent
        done = _CALLS.get(call)
        if done is None:
            return _AWAY, "the one that keeps it is of another version"
        try:
            return _OK, done(self._ring, *arguments)
        except KeyGone as error:
            return _GONE, bytes.fromhex(error.handle)
        except KeyRingUnavailable as error:
            return _AWAY, error.reason
        except (TypeError, ValueError):
            return _AWAY, "the one that keeps it is of another version"


_CALLS: Final[dict[str, Callable[..., Any]]] = {
    "enrol": lambda ring, opened_us, writer, after: tuple(ring.enrol(opened_us, writer=writer, after=after)),
    "admits": lambda ring, writer, epoch, token: ring.admits(writer, epoch, token),
    "k0": lambda ring, writer, epoch: ring.k0(writer, epoch),
    "subjects": lambda ring, names: [tuple(key) for key in ring.subjects(names)],
    "draw": lambda ring, count: [tuple(key) for key in ring.draw(count)],
    "group": lambda ring, members: ring.group(members),
    "members": lambda ring, group: list(ring.members(group)),
    "groups_with": lambda ring, handle: list(ring.groups_with(handle)),
    "key": lambda ring, handle: ring.key(handle),
    "missing": lambda ring, handles: list(ring.missing(handles)),
    "handle_of": lambda ring, name: ring.handle_of(name),
    "destroy": lambda ring, handles: list(ring.destroy(handles)),
    "destructions": lambda ring: ring.destructions(),
    "rotate": lambda ring: ring.rotate(),
}


class RemoteKeyRing:
    """Implements ``ports.KeyRing`` with a ring that a ``RingKeeper`` has; ``where`` is what it is called in errors.

    Used from several threads, and in forked children. After an answer that did not come, what was asked may have been done:
    ask again, which skips an epoch or a key and destroys nothing that was not to be. Not promised: more than what carries it.
    """

    def __init__(self, where: str, root: Root, carry: Carry) -> None:
        self._where = where
        self._carry = carry
        self._asks, self._answers = _Channel(root, _ASK), _Channel(root, _ANSWER)
        self._tickets: list[bytes] = []

    def __repr__(self) -> str:
        """Without keys and names."""
        return f"RemoteKeyRing({self._where!r})"

    def enrol(self, opened_us: int, *, writer: bytes | None = None, after: int = 0) -> Enrolment:
        return Enrolment(*self._ask("enrol", opened_us, writer, after))

    def admits(self, writer: bytes, epoch: int, token: str) -> bool:
        return bool(self._ask("admits", writer, epoch, token))

    def k0(self, writer: bytes, epoch: int) -> bytes:
        return bytes(self._ask("k0", writer, epoch))

    def subjects(self, names: Sequence[str]) -> Sequence[DataKey]:
        return [DataKey(*key) for some in _chunks(names) for key in self._ask("subjects", some)]

    def draw(self, count: int) -> Sequence[DataKey]:
        return [DataKey(*key) for key in self._ask("draw", count)] if count else []

    def group(self, members: Collection[bytes]) -> bytes:
        return bytes(self._ask("group", list(members)))

    def members(self, group: bytes) -> Sequence[bytes]:
        return list(self._ask("members", group))

    def groups_with(self, handle: bytes) -> Sequence[bytes]:
        return list(self._ask("groups_with", handle))

    def key(self, handle: bytes) -> bytes:
        return bytes(self._ask("key", handle))

    def missing(self, handles: Collection[bytes]) -> Sequence[bytes]:
        asked = list(handles)
        some = (asked[at : at + _MOST_HANDLES] for at in range(0, len(asked), _MOST_HANDLES))
        return [bytes(handle) for each in some for handle in self._ask("missing", each)]

    def handle_of(self, name: str) -> bytes | None:
        found = self._ask("handle_of", name)
        return None if found is None else bytes(found)

    def destroy(self, handles: Collection[bytes]) -> Sequence[bytes]:
        return list(self._ask("destroy", list(handles)))

    def destructions(self) -> bytes:
        return bytes(self._ask("destructions"))

    def rotate(self) -> int:
        return int(self._ask("rotate"))

    def close(self) -> None:
        self._tickets.clear()

    def _ask(self, call: str, *arguments: object) -> Any:  # noqa: ANN401  # what the call gives
        for _ in range(2):  # a second time where the ticket was old, and nothing was done
            ticket = self._tickets.pop() if self._tickets else bytes(_TICKET)
            question = self._asks.seal(_pack((ticket, call, arguments)))
            try:
                fresh, outcome, value = self._answers.open(self._carry(question), question)
            except ValueError:
                raise KeyRingUnavailable(self._where, "what answers there does not have the same secret") from None
            self._tickets.append(fresh)
            if outcome == _OK:
                return value
            if outcome == _GONE:
                raise KeyGone(value)
            if outcome != _STALE:
                raise KeyRingUnavailable(self._where, str(value))
        raise KeyRingUnavailable(self._where, "it gives no ticket that it takes")


def _chunks(names: Sequence[str]) -> Iterator[list[str]]:
    some: list[str] = []
    size = 0
    for name in names:
        if some and size + 4 * len(name) > _MOST_BYTES:
            yield some
            some, size = [], 0
        some.append(name)
        size += 4 * len(name) + 8
    if some:
        yield some

"""Events to subscribers in this process: bounded queues, each with its own answer to being full.

One slow subscriber harms only itself, and what it misses is counted.
"""

from __future__ import annotations

import asyncio
import copy
import threading
from collections.abc import Awaitable, Collection, Generator, Mapping, Sequence
from typing import Any, Final, Literal, get_args

from tallyroll.errors import Backpressure, InvalidEvent
from tallyroll.telemetry import BUS_DROPPED, BUS_PUBLISHED, Counters, Telemetry

Overflow = Literal["drop_oldest", "drop_newest", "coalesce", "block", "disconnect"]
"""What a full queue does: drop one; drop an older one of the same aggregate, else the oldest; wait a while; end."""

Durability = Literal["local", "accepted", "durable"]
"""When a subscriber is told: at once; when the event cannot be lost by this process; when the log has acknowledged it."""

Event = dict[str, Any]

BLOCK_S: Final = 1.0
_ALL: Final[frozenset[str]] = frozenset()


class Subscription(asyncio.Queue[Event]):
    """What ``subscribe`` gives. Events are shared between subscribers: read them, do not change them.

    ``dropped`` counts what this subscriber has missed. A disconnected one gives what it still has, then raises Backpressure.
    """

    def __init__(self, maxsize: int, overflow: Overflow, durability: Durability, types: frozenset[str]) -> None:
        super().__init__(maxsize)
        self.overflow: Final = overflow
        self.durability: Final = durability
        self.types: Final = types
        self.loop: Final = asyncio.get_running_loop()
        self.dropped = 0
        self.disconnected = False
        self.turn: Final = asyncio.Lock()  # who waits for room keeps the order
        self.waits: Final[set[asyncio.Task[bool]]] = set()

    async def get(self) -> Event:
        """The next event; waits for it. Raises Backpressure when disconnected and empty."""
        self._refuse_the_end()
        return await super().get()

    def get_nowait(self) -> Event:
        """The next event; raises QueueEmpty, or Backpressure when disconnected and empty."""
        self._refuse_the_end()
        return super().get_nowait()

    def make_room(self, event: Event) -> bool:
        """Does what the overflow policy says of a full queue; whether the event can be put then. Counts what is lost."""
        if not self.full():
            return not self.disconnected
        self.dropped += 1
        if self.overflow == "drop_oldest" or (self.overflow == "coalesce" and not self._forget_older(event)):
            super().get_nowait()
        self.disconnected = self.overflow == "disconnect"
        return not self.full()

    def _forget_older(self, event: Event) -> bool:
        waiting: Any = self._queue  # type: ignore[attr-defined]  # the deque that subclasses of Queue are meant to use
        for index, older in enumerate(waiting):
            if _aggregate(older) == _aggregate(event):
                del waiting[index]
                return True
        return False

    def end_waiting(self) -> None:
        """Tells those who wait beyond what it still has, where several take from one queue, that nothing more comes."""
        waiting: Any = self._getters  # type: ignore[attr-defined]  # as above: Queue wakes one of them per event, and no event comes
        while waiting:
            getter = waiting.popleft()
            if not getter.done():
                getter.set_exception(self._ended())

    def _ended(self) -> Backpressure:
        return Backpressure("a subscriber's queue", f"{self.maxsize} events; it was disconnected")

    def _refuse_the_end(self) -> None:
        if self.disconnected and self.empty():
            raise self._ended()


class Published:
    """What ``publish`` gives: everything has been handed over already, unless a subscriber of policy ``block`` is full.

    Awaiting it waits for those, and raises Backpressure if one stayed full; nothing else needs it to be awaited.
    """

    def __init__(self, waits: Sequence[Awaitable[bool]] = ()) -> None:
        self._waits = waits

    def __await__(self) -> Generator[Any, None, None]:
        return self._all().__await__()

    async def _all(self) -> None:
        # Shielded: who stops waiting takes nothing away from a subscriber.
        if not all([await asyncio.shield(wait) for wait in self._waits]):
            raise Backpressure("a subscriber's queue", "it stayed full")


class EventBus:
    """Publishes dicts to the subscribers of this process. May be used from any thread; each queue belongs to its event loop.

    Order is kept per publishing thread. Not promised: that an event is in the log, or ever will be; ask for ``durable`` for
    that. Nor that other processes hear of it. ``block_s`` is how long a full queue of policy ``block`` is waited for.
    """

    def __init__(self, *, telemetry: Telemetry | None = None, block_s: float = BLOCK_S) -> None:
        self._telemetry = telemetry or Counters()
        self._block_s = block_s
        self._subscriptions: tuple[Subscription, ...] = ()
        self._changing = threading.Lock()

    def subscribe(
        self,
        *,
        types: Collection[str] | None = None,
        maxsize: int = 1_000,
        overflow: Overflow = "drop_oldest",
        durability: Durability = "local",
    ) -> Subscription:
        """A bounded queue of the events to come, of these types (their ``event`` or ``event_type``) or of all.

        Call it where an event loop runs. Raises ValueError for a policy that is none, or a size below 1.
        """
        if overflow not in get_args(Overflow) or durability not in get_args(Durability) or maxsize < 1:
            raise ValueError(
                f"expected overflow {', '.join(get_args(Overflow))}; durability {', '.join(get_args(Durability))}; maxsize from 1"
            )
        made = Subscription(maxsize, overflow, durability, _ALL if types is None else frozenset(map(str, types)))
        with self._changing:
            self._subscriptions = (*self._subscriptions, made)
        return made

    def unsubscribe(self, queue: asyncio.Queue[Event]) -> None:
        """Nothing more is put into it; one that is not subscribed is left as it is."""
        with self._changing:
            self._subscriptions = tuple(one for one in self._subscriptions if one is not queue)

    def publish(self, event: Mapping[str, Any], *, durability: Durability = "local") -> Published:
        """Hands a copy of the event to everybody who waits for this durability. It need not be awaited; see ``Published``.

        Raises InvalidEvent for what is no dict.
        """
        if not isinstance(event, Mapping):
            raise InvalidEvent("event", f"expected a dict, got {type(event).__name__}")
        shared, waits = copy.deepcopy(dict(event)), []
        named = str(shared.get("event") or shared.get("event_type") or "")
        self._telemetry.count(BUS_PUBLISHED)
        for one in self._subscriptions:
            if one.durability == durability and (one.types is _ALL or named in one.types):
                waits += self._hand_over(one, shared)
        return Published(waits)

    def _hand_over(self, one: Subscription, event: Event) -> list[Awaitable[bool]]:
        if _running_loop() is one.loop:
            if one.overflow == "block" and (one.full() or one.waits):
                wait = one.loop.create_task(self._wait(one, event))
                one.waits.add(wait)
                wait.add_done_callback(one.waits.discard)
                return [wait]
            self._put(one, event)
            return []
        try:
            if one.overflow == "block":
                return [_elsewhere(one.loop, self._wait(one, event))]
            one.loop.call_soon_threadsafe(self._put, one, event)
        except RuntimeError:  # its loop is closed: nobody can be there
            self.unsubscribe(one)
        return []

    def _put(self, one: Subscription, event: Event) -> None:
        before = one.dropped
        if one.make_room(event):
            one.put_nowait(event)
        if one.dropped > before:
            self._telemetry.count(BUS_DROPPED, one.dropped - before, reason=one.overflow)
        if one.disconnected:
            self.unsubscribe(one)
            one.end_waiting()

    async def _wait(self, one: Subscription, event: Event) -> bool:
        try:
            async with asyncio.timeout(self._block_s), one.turn:
                await one.put(event)
        except TimeoutError:
            one.dropped += 1
            self._telemetry.count(BUS_DROPPED, reason=one.overflow)
            return False
        return True


def _aggregate(event: Event) -> tuple[Any, ...]:
    return tuple(event.get(name) for name in ("aggregate_type", "aggregate_id", "agent_id", "task_id"))


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _elsewhere(loop: asyncio.AbstractEventLoop, work: Any) -> Awaitable[bool]:  # noqa: ANN401  # a coroutine
    if loop.is_closed():
        work.close()
        raise RuntimeError("closed")
    future = asyncio.run_coroutine_threadsafe(work, loop)

    async def answer() -> bool:
        return bool(await asyncio.wrap_future(future))

    return _Lazy(answer)


class _Lazy:
    """Awaits what is made only then: a coroutine that nobody awaits would complain."""

    def __init__(self, make: Any) -> None:  # noqa: ANN401  # a function that gives a coroutine
        self._make = make

    def __await__(self) -> Generator[Any, None, bool]:
        answer: Generator[Any, None, bool] = self._make().__await__()
        return answer

"""What analytics does while a flush is being written: it counts on, and alerts leave."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from tests.flows.analysing import Quiet
from tests.flows.publishing import breathe
from tests.unit.analytics_histories import NOW, NOW_US, PLACES, SPECS, batch, differences, follower_on, logs, memory_store, stored
from tests.unit.analytics_reference import Reference

from tallyroll.adapters.sqlite.window_store import SqliteWindowStore
from tallyroll.analytics.run import KernelRun
from tallyroll.errors import PositionConflict, StoreUnavailable
from tallyroll.events.batch import Batch
from tallyroll.ports import DocumentWrite, WindowWrite
from tallyroll.testing.clock import FakeClock

PLACE = PLACES[0]
RECORDS = next(log[PLACE] for seed in range(9) if len((log := logs(seed, 150))[PLACE]) > 100)


class Gated(SqliteWindowStore):
    """In memory; panes are written only while the gate is open, documents alone while ``ahead`` is."""

    def __init__(self, path: None) -> None:
        super().__init__(path)
        self.gate, self.ahead = asyncio.Event(), asyncio.Event()
        self.ahead.set()
        self.writing = False

    async def commit(self, writes: Sequence[WindowWrite], documents: Sequence[DocumentWrite] = ()) -> None:
        self.writing = bool(writes)
        await (self.gate if writes else self.ahead).wait()
        self._commit(writes, documents)


class Away(SqliteWindowStore):
    """Stores panes, but nothing that comes by itself, while it is said to be away."""

    is_away = False

    async def commit(self, writes: Sequence[WindowWrite], documents: Sequence[DocumentWrite] = ()) -> None:
        if self.is_away and not writes:
            raise StoreUnavailable("the store", "is away")
        await super().commit(writes, documents)


class Caller(Quiet):
    """An observer with a document whenever it is told to have one, which by default goes ahead and cannot wait."""

    def __init__(self, name: str, *, goes_ahead: bool = True) -> None:
        self.name = name
        self.goes_ahead = goes_ahead
        self.can_wait = False
        self.runs = 0
        self.has: int | None = None
        self.asked: int | None = None
        self.void = False

    @property
    def is_urgent(self) -> bool:
        return self.has is not None and not self.can_wait

    def observed(self, run: KernelRun) -> None:
        self.runs += bool(run.observed)

    def take_documents(self) -> Sequence[DocumentWrite]:
        assert self.asked is None, "who was asked has to be answered first"
        self.asked, self.has = self.has, None
        return [DocumentWrite("call", self.name, str(self.asked).encode())] if self.asked is not None else []

    def stored(self) -> None:
        self.asked = None

    def give_back(self) -> None:
        self.has, self.asked = self.has or self.asked, None

    def forget(self) -> None:
        assert self.asked is None
        self.void = True


class Finder(Caller):
    """Finds something that cannot wait in each run, which takes so long."""

    def __init__(self, clock: FakeClock, takes_s: float = 0.0) -> None:
        super().__init__("finder")
        self.clock, self.takes_s = clock, takes_s

    def observed(self, run: KernelRun) -> None:
        super().observed(run)
        self.has = self.runs
        self.clock.advance(self.takes_s)


async def counting(clock: FakeClock, *observers: Quiet, count: int = 20, kind: type[SqliteWindowStore] = Gated):
    """A store in memory, and a follower on it that has been handed the first records."""
    store = await memory_store(kind)
    follower = follower_on(store, clock=clock, observers=observers)
    await follower.positions([PLACE])
    follower.apply(batch(PLACE, RECORDS[:count], 0))
    return store, follower


async def turns(clock: FakeClock, follower, count: int = 30) -> None:
    """As the loop does between two polls."""
    for _ in range(count):
        clock.advance(0.03)
        follower.wants_flush(interval_over=False)
        await breathe()


async def begun(store: Gated, follower) -> asyncio.Task:
    flush = asyncio.create_task(follower.flush())
    while not store.writing:
        await breathe()
    return flush


@pytest.mark.parametrize(("takes_s", "rest_s"), [(0.002, 0.004), (0.5, 0.02)])
async def test_events_are_counted_as_they_come_and_those_behind_them_after_a_rest(takes_s, rest_s):
    clock = FakeClock(NOW)
    finder = Finder(clock, takes_s)
    _, follower = await counting(clock, finder, count=50)
    follower.wants_flush(interval_over=False)
    assert finder.runs == 1
    follower.apply(batch(PLACE, RECORDS[50:], 50))
    clock.advance(rest_s - 0.001)
    follower.wants_flush(interval_over=False)
    assert finder.runs == 1
    clock.advance(0.002)
    follower.wants_flush(interval_over=False)
    assert finder.runs == 2
    await follower.close()


async def test_while_many_records_are_late_runs_are_further_apart():
    clock = FakeClock(NOW)
    finder = Finder(clock, 0.001)
    _, follower = await counting(clock, finder, count=50)

    def come(at: int, count: int, *, late_s: float) -> None:
        """Some events, and records that are none."""
        written_ms = clock.now_us() // 1_000 - round(late_s * 1_000)
        values = ([value for value, _ in RECORDS[at : at + 15]] + [b"no event"] * count)[:count]
        offsets = [*range(come.offset, come.offset + count)]
        follower.apply(Batch(*PLACE, offsets=offsets, keys=[None] * count, values=values, timestamps_ms=[written_ms] * count))
        come.offset += count

    def runs_after(rest_s: float) -> int:
        clock.advance(rest_s)
        follower.wants_flush(interval_over=False)
        return finder.runs

    assert runs_after(0.0) == 1
    come.offset = 50
    come(50, 400, late_s=2.0)
    assert runs_after(0.03) == 2
    come(65, 15, late_s=2.0)
    assert runs_after(0.09) == 2, "a twentieth of two seconds"
    assert runs_after(0.02) == 3
    come(80, 15, late_s=2.0)
    assert runs_after(0.02) == 4, "few that are late come from a clock that is, as a rule"
    await follower.close()


async def test_what_is_found_just_before_a_flush_is_stored_before_any_panes_are_made():
    clock = FakeClock(NOW)
    finder = Finder(clock, 0.5)
    store, follower = await counting(clock, finder, count=50)
    follower.wants_flush(interval_over=False)
    await breathe()
    follower.apply(batch(PLACE, RECORDS[50:], 50))
    assert follower.wants_flush(interval_over=True)
    await breathe()  # the flush would begin here
    assert await store.documents("call") == {"finder": b"2"}


@pytest.mark.slow
async def test_events_are_counted_during_a_flush_and_are_not_in_it():
    clock = FakeClock(NOW)
    caller = Caller("one")
    store, follower = await counting(clock, caller, count=50)
    flush = await begun(store, follower)
    seen = caller.runs
    follower.apply(batch(PLACE, RECORDS[50:], 50))
    await turns(clock, follower)
    assert caller.runs == seen + 1
    store.gate.set()
    assert await flush == {PLACE: 50}
    assert differences((await stored(store))[PLACE], Reference(SPECS, NOW_US).feed(RECORDS[:50])) == []
    # Whoever dies now has lost what was counted meanwhile; another one counts it again.
    other = follower_on(store, clock=clock)
    assert await other.positions([PLACE]) == {PLACE: 50}
    other.apply(batch(PLACE, RECORDS[50:], 50))
    assert await other.flush() == {PLACE: len(RECORDS)}
    assert differences((await stored(store))[PLACE], Reference(SPECS, NOW_US).feed(RECORDS)) == []


async def test_alerts_are_stored_ahead_while_panes_are_being_written():
    clock = FakeClock(NOW)
    free, asked, kept = Caller("free"), Caller("asked"), Caller("kept", goes_ahead=False)
    store, follower = await counting(clock, free, asked, kept)
    asked.has, asked.can_wait, kept.has = 1, True, 1
    flush = await begun(store, follower)
    assert await store.documents("call") == {"asked": b"1"}, "what goes ahead is there before the panes it followed from"
    free.has, asked.has, asked.can_wait = 1, 2, False
    await turns(clock, follower)
    assert await store.documents("call") == {"free": b"1", "asked": b"2"}, "who gave something to the flush need not wait for it"
    store.gate.set()
    await flush
    assert await store.documents("call") == {"free": b"1", "asked": b"2", "kept": b"1"}


async def test_no_panes_are_stored_while_what_goes_ahead_cannot_be():
    clock = FakeClock(NOW)
    caller = Caller("one")
    store, follower = await counting(clock, caller, kind=Away)
    caller.has, caller.can_wait, store.is_away = 1, True, True
    with pytest.raises(StoreUnavailable):
        await follower.flush()
    assert (caller.has, caller.asked) == (1, None)
    assert await store.load_progress() == {}
    store.is_away = False
    assert await follower.flush() == {PLACE: 20}
    assert await store.documents("call") == {"one": b"1"}
    assert differences((await stored(store))[PLACE], Reference(SPECS, NOW_US).feed(RECORDS[:20])) == []


async def test_a_flush_that_is_given_up_while_something_goes_ahead_leaves_nothing_behind():
    clock = FakeClock(NOW)
    caller = Caller("one")
    store, follower = await counting(clock, caller)
    caller.has, caller.can_wait = 1, True
    store.ahead.clear()
    flush = asyncio.create_task(follower.flush())
    while caller.asked is None:
        await breathe()
    flush.cancel()
    with pytest.raises(asyncio.CancelledError):
        await flush
    assert (caller.has, caller.asked) == (1, None), "it was given back"
    await follower.close()  # and nobody hears of it again
    assert await store.documents("call") == {}


async def test_what_is_urgent_when_a_flush_begins_does_not_wait_for_its_panes():
    clock = FakeClock(NOW)
    caller = Caller("one")
    store, follower = await counting(clock, caller)
    caller.has = 1
    flush = await begun(store, follower)
    assert await store.documents("call") == {"one": b"1"}
    caller.has = 2
    await turns(clock, follower)
    assert await store.documents("call") == {"one": b"2"}, "nor does what follows while they are being written"
    store.gate.set()
    assert await flush == {PLACE: 20}


async def test_who_is_being_stored_ahead_when_a_flush_begins_is_asked_after_that():
    clock = FakeClock(NOW)
    caller = Caller("one")
    store, follower = await counting(clock, caller)
    caller.has = 1
    store.ahead.clear()
    follower.wants_flush(interval_over=False)
    flush = asyncio.create_task(follower.flush())
    await turns(clock, follower)
    caller.has = 2
    await turns(clock, follower)
    store.ahead.set()
    store.gate.set()
    await flush
    assert await store.documents("call") == {"one": b"2"}


@pytest.mark.slow
async def test_after_a_conflict_everything_is_void_and_everybody_has_been_answered():
    clock = FakeClock(NOW)
    asked, free = Caller("asked", goes_ahead=False), Caller("free")
    store, follower = await counting(clock, asked, free)
    asked.has, asked.can_wait = 1, True
    flush = await begun(store, follower)
    other = follower_on(store, clock=clock)
    await other.positions([PLACE])
    other.apply(batch(PLACE, RECORDS[:30], 0))
    theirs = asyncio.create_task(other.flush())
    await turns(clock, other, 200)
    free.has = 1
    follower.wants_flush(interval_over=False)
    store.gate.set()
    results = await asyncio.gather(flush, theirs, return_exceptions=True)
    assert sorted(type(one).__name__ for one in results) == ["PositionConflict", "dict"]
    if isinstance(results[0], PositionConflict):
        assert (asked.void, asked.has, free.void) == (True, 1, True)
    assert (
        differences((await stored(store))[PLACE], Reference(SPECS, NOW_US).feed(RECORDS[: 20 if results[0] == {PLACE: 20} else 30])) == []
    )

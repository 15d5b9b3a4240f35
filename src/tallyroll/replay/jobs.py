"""A replay spread over processes: what each does, what the others are told, and what they say. Jobs and messages are MessagePack.

Code travels by name, ``module:name``, and is imported where it is needed; a function without such a name is refused here,
before a process is started.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from importlib import import_module
from typing import Any, Final

import msgspec

from tallyroll import errors
from tallyroll.events.position import Position
from tallyroll.events.topics import Catalogue
from tallyroll.ports import Archive, EventLog, Span
from tallyroll.replay.applied import Cut
from tallyroll.replay.findings import Finding
from tallyroll.replay.fold import Fold
from tallyroll.replay.kinds import StateType
from tallyroll.replay.memory import seldom_collecting
from tallyroll.replay.partition import no_collecting
from tallyroll.replay.plan import PartitionPlan, Plan, ReplayFilter
from tallyroll.replay.policy import Policy
from tallyroll.replay.projecting import Projecting
from tallyroll.replay.projector import Reference, StateProjector
from tallyroll.replay.reading import Reading, Tally, Task
from tallyroll.replay.reference import reference, resolve
from tallyroll.replay.views import FOLD

_PARTS_A_MESSAGE: Final = 5_000  # some MB each
_TELL_EVERY: Final = 20_000  # records between two messages about progress
_START_WORK: Final = 200_000  # archived rows that are folded while a process starts
_LOG_WORK: Final = 3.5  # archived rows that take as long as a record of a log
_COLUMNS_WORK: Final = 0.15  # the same of a row that is folded as columns


class _Filter(msgspec.Struct, array_like=True):
    event_types: list[str] | None
    aggregate_ids: list[str] | None
    aggregate_types: list[str] | None
    start_time: datetime | None
    end_time: datetime | None
    user_ids: list[str] | None
    correlation_ids: list[str] | None
    predicate: str | None


class _Job(msgspec.Struct, tag="fold", array_like=True):
    view: str
    reducer_id: str
    owner: str | None
    cut: Cut | None
    selection: _Filter | None
    from_snapshots: bool
    columnar: bool
    validate: str
    policy: dict[str, str]
    plans: list[PartitionPlan]
    imports: list[str]


class _ProjectJob(msgspec.Struct, tag="project", array_like=True):
    projector: Reference
    state_type: str
    view: str
    until_us: int | None
    share: tuple[int, int]
    whole: bool
    plans: list[PartitionPlan]
    imports: list[str]


class Told(msgspec.Struct, tag="told", array_like=True):
    """So many offsets are dealt with."""

    done: int


class Parts(msgspec.Struct, tag="parts", array_like=True):
    """Some of the parts: topic, partition, owner, the part."""

    parts: list[tuple[str, int, str, bytes]]


class States(msgspec.Struct, tag="states", array_like=True):
    """Some of the states that a projector made: owner, state, how many events, what its validators say."""

    states: list[tuple[str, dict[str, Any], int, list[str]]]


class Ended(msgspec.Struct, tag="ended", array_like=True):
    """The last message: what was read and found. ``listed`` findings are kind, position, reason, aggregate, missing."""

    tally: Tally
    passed_us: int
    counts: dict[str, int]
    listed: list[tuple[str, str, str, str, int]]
    pid: int

    def findings(self) -> list[Finding]:
        """The listed findings."""
        return [Finding(kind, Position.parse(at), *rest) for kind, at, *rest in self.listed]  # type: ignore[arg-type]  # as written below


class Failed(msgspec.Struct, tag="failed", array_like=True):
    """The job failed: the name of the error's class, what it was made of, and what it said."""

    error: str
    made_of: dict[str, Any]
    text: str

    def exception(self, worker: int) -> Exception:
        """The error as it was where it is one of ours, else WorkerFailed."""
        kind = getattr(errors, self.error, None)
        if isinstance(kind, type) and issubclass(kind, errors.TallyrollError):
            return kind(**self.made_of)
        if self.error == "ValueError":
            return ValueError(self.text)
        return errors.WorkerFailed(worker, f"raised {self.error}: {self.text}")


Message = Told | Parts | States | Ended | Failed
_encode: Final = msgspec.msgpack.Encoder().encode
_decode_job: Final = msgspec.msgpack.Decoder(_Job | _ProjectJob).decode
decode_message: Final[Callable[[bytes], Message]] = msgspec.msgpack.Decoder(Message).decode


def split(plan: Plan, count: int, *, columnar: bool = False) -> list[Plan]:
    """The plan in at most ``count`` parts that are done at about the same time, whole partitions each.

    The first is for this process, and there is always one; the others begin later, when their processes have started.
    """
    work = {one.partition: _work(one, columnar=columnar) for one in plan.partitions}
    ahead = min(_START_WORK, sum(work.values()) / (2 * count))  # the others get a part of a short history as well
    sizes, piles = [0.0, *[ahead] * (count - 1)], [list[PartitionPlan]() for _ in range(count)]
    for one in sorted(plan.partitions, key=lambda one: -work[one.partition]):
        least = sizes.index(min(sizes))
        sizes[least] += work[one.partition]
        piles[least].append(one)
    own, *others = (Plan(sorted(pile, key=lambda one: one.partition)) for pile in piles)
    return [own, *(one for one in others if one.partitions)]


def _work(one: PartitionPlan, *, columnar: bool) -> float:
    """What reading and folding a partition costs, in archived rows."""
    (start, end), (log_start, log_end) = one.archive, one.log
    return (end - start) * (_COLUMNS_WORK if columnar else 1) + (log_end - log_start) * _LOG_WORK


async def side_by_side(runs: Sequence[AsyncGenerator[int, None]]) -> AsyncGenerator[int, None]:
    """Runs all of them; gives the sum of what they gave last. When one raises, or nobody goes on, all have ended before this does."""
    given, left = [0] * len(runs), dict[asyncio.Future[int | None], int]()

    def go_on(at: int) -> None:
        left[asyncio.ensure_future(anext(runs[at], None))] = at

    try:
        for at in range(len(runs)):
            go_on(at)
        while left:
            for one in (await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED))[0]:
                at, value = left.pop(one), one.result()
                if value is not None:
                    given[at] = value
                    go_on(at)
            yield sum(given)
    finally:
        for one in left:
            one.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await asyncio.gather(*(run.aclose() for run in runs))


def to_job(task: Task, plan: Plan, reducer_id: str, imports: Sequence[str] = ()) -> bytes:
    """What one process is to do. Raises ValueError for a predicate that it could not import."""
    wanted = task.selection
    selection = None
    if wanted is not None:
        predicate = None if wanted.custom_predicate is None else reference(wanted.custom_predicate, "custom_predicate")
        selection = _Filter(
            _sorted(wanted.event_types), _sorted(wanted.aggregate_ids), _sorted(wanted.aggregate_types), wanted.start_time, wanted.end_time,
            _sorted(wanted.user_ids), _sorted(wanted.correlation_ids), predicate,
        )  # fmt: skip
    return _encode(
        _Job(
            task.view.name, reducer_id, task.owner, task.cut, selection, task.from_snapshots, task.columnar, task.validate,
            {str(kind): str(action) for kind, action in task.policy.actions.items()}, list(plan.partitions), list(imports),
        )
    )  # fmt: skip


def to_project_job(projecting: Projecting, imports: Sequence[str] = ()) -> bytes:
    """As ``to_job``, for a projector. Raises ValueError for handlers that another process could not import."""
    one, plans = projecting, list(projecting.plan.partitions)
    named = one.projector.reference()
    return _encode(_ProjectJob(named, str(one.state_type), one.view.name, one.until_us, one.share, one.whole, plans, list(imports)))


def _sorted(names: Collection[str] | None) -> list[str] | None:
    return None if names is None else sorted(names)


async def do_job(
    job: bytes, log: EventLog, archive: Archive | None, catalogue: Catalogue, fold: Fold = FOLD
) -> AsyncGenerator[bytes, None]:
    """Carries a job out; gives the messages to be sent. Never raises what belongs into a message."""
    try:
        told = _decode_job(job)
        for name in told.imports:
            import_module(name)
        if isinstance(told, _ProjectJob):
            async for message in _project(told, log, archive, fold):
                yield message
            return
        task, plan = _task_of(told, fold), Plan(told.plans)
        if fold.reducer_ids[told.view] != told.reducer_id:
            raise ValueError(  # noqa: TRY301  # goes into the message below
                "the reducers of the processes differ from this one's: register event types, versions and upcasters in a module, "
                "and name it in imports"
            )
        reading = Reading(fold, catalogue, task, plan)
        async with aclosing(carry_out(reading, plan, log, archive)) as progress:
            async for done in progress:
                yield _encode(Told(done))
        for some in _parts(reading):
            yield _encode(Parts(some))
        found = reading.findings
        listed = [(str(one.kind), str(one.position), one.reason, one.aggregate, one.missing) for one in found.listed]
        yield _encode(Ended(reading.tally, reading.passed_us, dict(found.counts), listed, os.getpid()))
    except Exception as error:  # noqa: BLE001  # the other side raises it again
        made_of = vars(error) if isinstance(error, errors.TallyrollError) else {}
        yield _encode(Failed(type(error).__name__, {name: value for name, value in made_of.items() if name[0] != "_"}, str(error)))


def _parts(reading: Reading) -> Iterator[list[tuple[str, int, str, bytes]]]:
    """What a reading has made, some thousands at a time."""
    some: list[tuple[str, int, str, bytes]] = []
    with no_collecting():
        for partition, owner, part in reading.parts():
            some.append((*partition, owner, part.dump()))
            if len(some) >= _PARTS_A_MESSAGE:
                yield some
                some = []
        yield some


async def _project(told: _ProjectJob, log: EventLog, archive: Archive | None, fold: Fold) -> AsyncGenerator[bytes, None]:
    view, projector = fold.views[fold.index(told.view)], StateProjector.from_reference(told.projector)
    projecting = Projecting(projector, StateType(told.state_type), view, Plan(told.plans), told.until_us, told.share, told.whole)
    async with aclosing(projecting.run(log, archive)) as progress:
        async for done in progress:
            yield _encode(Told(done))
    made = [(one.owner, dict(one.state), one.version, list(one.verdict.problems)) for one in projecting.states.values()]
    for start in range(0, len(made), _PARTS_A_MESSAGE):
        yield _encode(States(made[start : start + _PARTS_A_MESSAGE]))
    yield _encode(Ended(Tally(folded=projecting.events), 0, {}, [], os.getpid()))


async def carry_out(reading: Reading, plan: Plan, log: EventLog, archive: Archive | None) -> AsyncGenerator[int, None]:
    """Reads everything of a plan, in this process; gives now and then how many offsets are dealt with."""
    work: asyncio.Future[None] | None = None
    try:
        if archive is not None and any(one.archive[0] < one.archive[1] or one.pruned for one in plan.partitions):
            work = asyncio.ensure_future(asyncio.to_thread(reading.from_archive, archive))
            while not (await asyncio.wait({work}, timeout=_LOOK_S))[0]:
                yield reading.done
            work.result()
        spans = [Span(*one.partition, *one.log) for one in plan.partitions if one.log[0] < one.log[1]]
        if spans:
            with seldom_collecting():
                told = reading.done
                async for batch in log.read(spans):
                    reading.apply(batch)
                    if reading.done - told >= _TELL_EVERY:
                        told = reading.done
                        yield told
                    else:
                        await turn()
        reading.close()
    finally:
        reading.cancel()
        if work is not None:  # what still runs in the other thread ends at its next step; then the archive may be closed
            await asyncio.gather(work, return_exceptions=True)
    yield reading.done


_LOOK_S: Final = 0.1  # how often the one who waits for the archive is told how far it is


def _task_of(told: _Job, fold: Fold) -> Task:
    given = told.selection
    selection = None
    if given is not None:
        predicate = None if given.predicate is None else resolve(given.predicate, "custom_predicate")
        selection = ReplayFilter(
            given.event_types, given.aggregate_ids, given.aggregate_types, given.start_time, given.end_time,
            given.user_ids, given.correlation_ids, predicate,
        )  # fmt: skip
    actions: Mapping[Any, Any] = told.policy
    view = fold.views[fold.index(told.view)]
    return Task(
        view, told.owner, told.cut, selection, told.from_snapshots, told.columnar, told.validate, Policy(actions)  # type: ignore[arg-type]  # as it was sent
    )  # fmt: skip


class _Turn:
    def __await__(self) -> Any:  # noqa: ANN401  # a bare yield to the event loop
        yield


async def turn() -> None:
    """Lets the event loop serve others."""
    await _Turn()

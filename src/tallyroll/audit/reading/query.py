"""The reader of the trail: pages of entries, single ones, and clear text for who may have it. Who opens something is recorded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple, Protocol, TypedDict

import msgspec

from tallyroll.audit.entry import AuditEventCategory, AuditSeverity, ComplianceFramework
from tallyroll.audit.ledger import note, proving
from tallyroll.audit.ledger.contents import SALT, AuditEntry, altered_entry, entry_of
from tallyroll.audit.ledger.layout import REGISTRY, PartMark, PartType
from tallyroll.audit.ledger.layout import Record as StoredRecord
from tallyroll.audit.ledger.stored import record_in
from tallyroll.audit.ledger.subjects import text_of
from tallyroll.audit.removal.standing import Standing
from tallyroll.errors import KeyGone, LedgerTampered, SealBroken, SubjectErased, Undecodable
from tallyroll.events.moments import moment_at, us_of
from tallyroll.ports import Cipher, Clock, KeyRing, LedgerRow, LedgerStore, LedgerWanted

PERSONAL: Final = "personal"
"""The scope of a reader who may see sealed fields, and those that are only kept apart."""

MAX_LIMIT: Final = 10_000  # entries of one page: more than a screen or a program looks at, less than fills memory
_ZERO: Final = bytes(16)


class Reader(NamedTuple):
    """Who reads, what they may see, and what for; it is recorded with every call that opens something."""

    name: str
    scopes: frozenset[str] = frozenset()
    purpose: str | None = None


KEY_HOLDER: Final = Reader("process", frozenset({PERSONAL}))
"""A program that has the keys and names no reader. Whoever reads on behalf of others says who."""


class AuditPage(TypedDict):
    """A page of the trail. ``total_count`` is of all matches as of ``as_of``, which given back keeps further pages stable.

    ``findings`` are matches of this page that cannot be read, since somebody has altered them: code, partition, index, detail.
    """

    total_count: int
    returned_count: int
    offset: int
    limit: int
    entries: list[dict[str, Any]]
    query_timestamp: str
    as_of: dict[str, int]
    findings: list[dict[str, Any]]


class Answer(NamedTuple):
    """The same as objects."""

    entries: list[AuditEntry]
    total_count: int
    offset: int
    limit: int
    asked_at: datetime
    as_of: dict[str, int]
    findings: Sequence[LedgerTampered] = ()

    def page(self) -> AuditPage:
        """As plain JSON values."""
        return {
            "total_count": self.total_count,
            "returned_count": len(self.entries),
            "offset": self.offset,
            "limit": self.limit,
            "entries": [entry.to_dict() for entry in self.entries],
            "query_timestamp": self.asked_at.isoformat(),
            "as_of": self.as_of,
            "findings": [{"code": one.code, "partition": one.partition, "index": one.index, "detail": one.detail} for one in self.findings],
        }


class Record(Protocol):
    """Makes an entry of the trail, as ``AuditTrail.create_audit_entry``. Not promised: that it is in the ledger when it returns."""

    async def __call__(
        self,
        event_type: str,
        category: AuditEventCategory,
        action: str,
        description: str,
        **fields: Any,  # noqa: ANN401  # the fields of an entry
    ) -> object: ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a query asks for. Raises ValueError for naive moments and for a name that no entry can have."""

    start_time: datetime | None = None
    end_time: datetime | None = None
    user_id: str | None = None
    agent_id: str | None = None
    task_id: str | None = None
    workflow_id: str | None = None
    category: str | None = None
    severity: str | None = None
    outcome: str | None = None
    event_type: str | None = None
    compliance_framework: str | None = None

    def __post_init__(self) -> None:
        self.of_store()
        for name, value, known in (
            ("category", self.category, AuditEventCategory), ("severity", self.severity, AuditSeverity),
            ("compliance_framework", self.compliance_framework, ComplianceFramework),
        ):  # fmt: skip
            if value is not None and value not in [*known]:
                raise ValueError(f"{name}: expected one of {', '.join(known)}")

    @property
    def names(self) -> list[str]:
        """Which fields were asked for; not their values, which may be personal."""
        return [name for name in self.__slots__ if getattr(self, name) is not None]

    def of_store(self, handles: Sequence[bytes] | None = None) -> LedgerWanted:
        """The same as the store is asked."""
        return LedgerWanted(
            start_us=None if self.start_time is None else zoned_us("start_time", self.start_time),
            end_us=None if self.end_time is None else zoned_us("end_time", self.end_time),
            agent_id=self.agent_id,
            task_id=self.task_id,
            workflow_id=self.workflow_id,
            event_type=self.event_type,
            category=self.category,
            severity=self.severity,
            outcome=self.outcome,
            framework=self.compliance_framework,
            handles=handles,
        )


class LedgerReader:
    """Reads one ledger. ``record`` makes the entries about what was opened; ``catch_up`` waits for what this process has recorded.

    Every call waits, at most ``read_wait_ms``, for the caller's own entries. A reader without the scope ``personal`` gets the
    fields in clear only, and nothing is opened for them. Who has it gets what can be opened, and one entry ``audit.read`` says
    so; where that entry cannot be made, nothing is given. Raises StoreUnavailable, KeyRingUnavailable.
    Not promised: that an answer holds entries which other processes have recorded and which are not sealed into the ledger yet.
    """

    def __init__(  # noqa: PLR0913  # what a reader needs
        self,
        store: LedgerStore,
        ring: KeyRing,
        cipher: Cipher,
        *,
        clock: Clock,
        record: Record,
        catch_up: Callable[[], Awaitable[None]],
    ) -> None:
        self._store = store
        self._ring = ring
        self._cipher = cipher
        self._clock = clock
        self._record = record
        self._catch_up = catch_up
        self._standing = Standing()
        self._newest: bytes | None = None
        self._witnessed: Mapping[int, int] = {}

    async def query(
        self,
        wanted: Wanted,
        *,
        limit: int = 1_000,
        offset: int = 0,
        as_of: Mapping[str, int] | None = None,
        reader: Reader = KEY_HOLDER,
    ) -> Answer:
        """A page of entries, newest first. Raises ValueError for a limit beyond 10,000, or below 1, or a negative offset."""
        if not 1 <= limit <= MAX_LIMIT or offset < 0:
            raise ValueError(f"limit: expected 1 to {MAX_LIMIT}, offset: 0 or more")
        await self._caught_up()
        sizes = await self._sizes(as_of)
        total, rows = await self._find(wanted, sizes, limit, offset, reader)
        opened = await self._open(rows, reader)
        await self._say(opened, reader, "query", wanted)
        then = {str(number): size for number, size in sizes.items()}
        return Answer(opened.entries, total, offset, limit, self._now(), then, opened.damaged)

    async def each(self, wanted: Wanted, *, reader: Reader = KEY_HOLDER, page: int = 1_000) -> AsyncIterator[AuditEntry]:
        """Every entry that matches, newest first, as of now; that they are opened is recorded before the first is given.

        Raises LedgerTampered behind the last one where some cannot be read, with the place of the newest of them.
        """
        await self._caught_up()
        sizes, said, damaged = await self._sizes(None), False, list[LedgerTampered]()
        async for rows in self._pages(wanted, sizes, page, reader):
            opened = await self._open(rows, reader)
            if opened.parts and not said:
                total = (await self._find(wanted, sizes, 0, 0, reader))[0]
                await self._say(opened._replace(total=total), reader, "export", wanted)
                said = True
            for entry in opened.entries:
                if wanted.user_id in (None, entry.user_id):
                    yield entry
            damaged += opened.damaged[: not damaged]
        if damaged:
            raise damaged[0]

    async def entry(self, audit_id: str, *, reader: Reader = KEY_HOLDER) -> AuditEntry | None:
        """One entry; what was erased in it is None, and its payload ``{"erased": true}``. Raises LedgerTampered for an unreadable one."""
        await self._caught_up()
        row = await self._store.entry(audit_id)
        if row is None:
            return None
        opened = await self._open([row], reader)
        for damaged in opened.damaged:
            raise damaged
        await self._say(opened, reader, "get", Wanted())
        return opened.entries[0]

    async def clear_text(self, audit_id: str, *, reader: Reader = KEY_HOLDER) -> AuditEntry | None:
        """One entry with every personal field, or nothing of it. Raises SubjectErased; ValueError for a reader without the scope."""
        if PERSONAL not in reader.scopes:
            raise ValueError(f"reader: only who has the scope {PERSONAL} may ask for clear text")
        found = await self.entry(audit_id, reader=reader)
        if found is not None and (found.erased or found.restricted):
            raise SubjectErased(audit_id)
        return found

    async def row(self, audit_id: str) -> LedgerRow | None:
        """Where an entry lies, as it is stored."""
        await self._caught_up()
        return await self._store.entry(audit_id)

    async def _caught_up(self) -> None:
        """Where the sealer of this process stopped at a ledger that was altered, what is there has to be readable all the same."""
        with suppress(LedgerTampered):
            await self._catch_up()

    async def _sizes(self, as_of: Mapping[str, int] | None) -> dict[int, int]:
        there = dict(await self._store.sizes())
        return there if as_of is None else {int(number): min(size, there.get(int(number), 0)) for number, size in as_of.items()}

    async def _find(
        self, wanted: Wanted, sizes: Mapping[int, int], limit: int, offset: int, reader: Reader
    ) -> tuple[int, Sequence[LedgerRow]]:
        if wanted.user_id is None:
            return await self._store.find(wanted.of_store(), limit=limit, offset=offset, as_of=sizes)
        matching: list[LedgerRow] = []
        async for rows in self._pages(wanted, sizes, MAX_LIMIT, reader):
            opened = await self._open(rows, reader)
            shown, damaged = iter(opened.entries), {(one.partition, one.index) for one in opened.damaged}
            # Whose a damaged one is nobody knows: it is told of.
            matching += [row for row in rows if (row.partition, row.number) in damaged or next(shown).user_id == wanted.user_id]
        return len(matching), matching[offset : offset + limit]

    async def _pages(self, wanted: Wanted, sizes: Mapping[int, int], page: int, reader: Reader) -> AsyncIterator[Sequence[LedgerRow]]:
        """What may match: who a user is stands in sealed parts, so these are found by the user's handle, and then looked into."""
        handles: list[bytes] | None = None
        if wanted.user_id is not None:
            if PERSONAL not in reader.scopes:
                raise ValueError(f"user_id: only who has the scope {PERSONAL} may search by it")
            handle = await asyncio.to_thread(self._ring.handle_of, wanted.user_id)
            handles = [_ZERO] if handle is None else [handle, _ZERO]
        async for rows in pages(self._store, wanted.of_store(handles), sizes, page):
            yield rows

    async def _open(self, rows: Sequence[LedgerRow], reader: Reader) -> _Opened:
        await self._look_around()
        if PERSONAL in reader.scopes:
            return await asyncio.to_thread(self._opened, rows, may_open=True)
        return self._opened(rows, may_open=False)

    def _opened(self, rows: Sequence[LedgerRow], *, may_open: bool) -> _Opened:
        entries, damaged, opened, restricted = [], list[LedgerTampered](), 0, self._standing.restricted
        for row in rows:
            try:
                record, core = record_in(row)
            except LedgerTampered as error:
                damaged.append(error)
                continue
            marks = core.parts
            hidden = {number for number, mark in enumerate(marks) if not may_open or mark.handle in restricted}
            texts, opens = self._texts(record, marks, hidden)
            witnessed = row.number < self._witnessed.get(row.partition, 0)
            state = "broken" if not opens else "witnessed" if witnessed else "sealed"
            opened += sum(text is not None for text in texts)
            there = {number for number in hidden if record.parts[number] is not None}
            try:
                entry = entry_of(record, texts, index=row.number, source=row.source, state=state, hidden=there)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                entry = altered_entry(row, record)
            entries.append(_marked(entry, self._standing, row, {mark.handle for mark in marks}))
        return _Opened(entries, opened, len(entries), damaged)

    def _texts(self, record: StoredRecord, marks: Sequence[PartMark], hidden: Collection[int]) -> tuple[list[bytes | None], bool]:
        opens = True
        texts: list[bytes | None] = []
        for number, mark in enumerate(marks):
            text = None
            if number not in hidden:
                try:
                    text = text_of(self._ring, self._cipher, record, number)
                except SealBroken:  # a ledger that was tampered with has to be readable too, for who finds out how
                    opens = False
                except (KeyGone, LookupError):
                    pass
            texts.append(text[SALT:] if text is not None and mark.part_type == PartType.PLAIN else text)
        return texts, opens

    async def _look_around(self) -> None:
        """What the registry says by now of holds and erasures, and how far a witness has cosigned."""
        while rows := await self._store.rows(REGISTRY, self._standing.size, 1_000):
            self._standing.read(rows)
        newest = await proving.newest(self._store)
        if newest is None or newest == self._newest:
            return
        self._newest = newest
        with suppress(Undecodable, LedgerTampered):  # then nothing counts as witnessed
            signed = note.parse(newest)
            if any(line.name != signed.text.partition("\n")[0] for line in signed.signatures):
                known = await proving.noted(self._store)
                self._witnessed = known.sizes if known is not None else {}

    async def _say(self, opened: _Opened, reader: Reader, action: str, wanted: Wanted) -> None:
        if not opened.parts and wanted.user_id is None:
            return
        await self._record(
            "audit.read",
            AuditEventCategory.AUDIT_SYSTEM,
            action,
            "personal fields of the audit trail were read",
            user_id=reader.name,
            purpose=reader.purpose,
            payload={"entries": opened.total, "parts": opened.parts, "filters": wanted.names},
        )

    def _now(self) -> datetime:
        return moment_at(self._clock.now_us())


class _Opened(NamedTuple):
    """Entries as their reader may see them, how many parts were opened for that, and what is wrong with those that nobody can read."""

    entries: list[AuditEntry]
    parts: int
    total: int
    damaged: Sequence[LedgerTampered] = ()


def _marked(entry: AuditEntry, standing: Standing, row: LedgerRow, handles: set[bytes]) -> AuditEntry:
    restricted = any(handle in standing.restricted for handle in handles)
    held = bool(standing.holds) and standing.held_by(row.partition, row.number, handles) is not None
    if not restricted and not held:
        return entry
    return msgspec.structs.replace(entry, restricted=restricted, held=held)


async def pages(store: LedgerStore, wanted: LedgerWanted, sizes: Mapping[int, int], page: int) -> AsyncIterator[Sequence[LedgerRow]]:
    """Everything that matches, newest first, a page at a time; each page costs the same, however many came before it."""
    skip, full = 0, True
    while full:
        _, rows = await store.find(wanted, limit=page, offset=skip, as_of=sizes)
        full = len(rows) == page
        if not rows:
            return
        yield rows
        # Of a record that somebody has altered any moment may be read; the end comes all the same.
        times = [_ts_us(row) if wanted.end_us is None else min(_ts_us(row), wanted.end_us) for row in rows]
        last = times[-1]
        already = skip if last == wanted.end_us else 0
        skip = already + times.count(last)
        wanted = wanted._replace(end_us=last)


def _ts_us(row: LedgerRow) -> int:
    return int.from_bytes(row.raw[52:60])


def zoned_us(name: str, moment: datetime) -> int:
    """Microseconds since 1970. Raises ValueError, with the argument's name, for a moment without a time zone."""
    if moment.tzinfo is None:
        raise ValueError(f"{name}: expected a moment with a time zone")
    return us_of(moment)

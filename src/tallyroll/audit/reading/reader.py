"""The reader of the trail: pages of entries, single ones, and clear text for who may have it. Who opens something is recorded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from tallyroll.audit.entry import AuditEventCategory
from tallyroll.audit.ledger import note, proving
from tallyroll.audit.ledger.contents import SALT, AuditEntry, altered_entry, entry_of
from tallyroll.audit.ledger.layout import REGISTRY, PartMark, PartType
from tallyroll.audit.ledger.layout import Record as StoredRecord
from tallyroll.audit.ledger.stored import Read, read_of
from tallyroll.audit.ledger.subjects import text_of
from tallyroll.audit.reading.query import KEY_HOLDER, MAX_LIMIT, PERSONAL, Answer, Reader, Wanted
from tallyroll.audit.removal.lost_keys import Lost, LostKeys
from tallyroll.audit.removal.standing import Standing
from tallyroll.errors import KeyGone, KeyLost, KeyRingUnavailable, LedgerTampered, SealBroken, SubjectErased, Undecodable
from tallyroll.events.moments import moment_at
from tallyroll.ports import Cipher, Clock, KeyRing, LedgerRow, LedgerStore, LedgerWanted

_ZERO: Final = bytes(16)
_NONE: Final[Lost] = {}


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


class LedgerReader:
    """Reads one ledger. ``record`` makes the entries about what was opened; ``catch_up`` waits for what this process has recorded.

    Every call waits, at most ``read_wait_ms``, for the caller's own entries. A reader without the scope ``personal`` gets the
    fields in clear only, and nothing is opened for them; which keys are lost they are told if the ring can be asked. Who has it
    gets what can be opened, and one entry ``audit.read`` says so; where that entry cannot be made, nothing is given.
    Raises StoreUnavailable, KeyRingUnavailable.
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
        self._lost = LostKeys(store, ring)
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
        """One entry; what was erased in it is None, and its payload ``{"erased": true}``, or ``{"key_lost": true}``: see ``AuditEntry``.

        Raises LedgerTampered for an unreadable one.
        """
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
        """One entry with every personal field, or nothing of it.

        Raises SubjectErased; KeyLost where a key is missing and nobody was forgotten; ValueError for a reader without the scope.
        """
        if PERSONAL not in reader.scopes:
            raise ValueError(f"reader: only who has the scope {PERSONAL} may ask for clear text")
        found = await self.entry(audit_id, reader=reader)
        if found is not None and (found.erased or found.restricted):
            raise SubjectErased(audit_id)
        if found is not None and found.key_lost:
            raise KeyLost(audit_id)
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
        read, damaged = read_of(rows)
        if PERSONAL in reader.scopes:
            lost = await self._lost.of(read)
            return await asyncio.to_thread(self._opened, read, damaged, lost, may_open=True)
        lost = _NONE
        with suppress(KeyRingUnavailable):  # what is in clear can be read without a ring
            lost = await self._lost.of(read)
        return self._opened(read, damaged, lost, may_open=False)

    def _opened(self, read: Sequence[Read], damaged: Sequence[LedgerTampered], lost: Lost, *, may_open: bool) -> _Opened:
        entries, opened, restricted = [], 0, self._standing.restricted
        for row, record, core in read:
            marks, keyless = core.parts, lost.get((row.partition, row.number), ())
            hidden = {number for number, mark in enumerate(marks) if not may_open or mark.handle in restricted}
            texts, opens = self._texts(record, marks, hidden)
            witnessed = row.number < self._witnessed.get(row.partition, 0)
            state = "broken" if not opens else "witnessed" if witnessed else "sealed"
            opened += sum(text is not None for text in texts)
            there = {number for number in hidden if record.parts[number] is not None}
            try:
                entry = entry_of(record, texts, index=row.number, source=row.source, state=state, hidden=there, lost=keyless)
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

"""Forgetting a person: their keys are destroyed and their parts removed, and every proof stays valid.

Order, so that an end at any line leaves a ledger that verifies and an erasure that can be done again: the request with the
handles goes into the registry; the keys are destroyed; the record that it is done goes into the registry, from which on the
parts may be missing; the parts are removed; other stores forget.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final, NamedTuple

import msgspec

from tallyroll.audit.entry import texts_of
from tallyroll.audit.ledger import note, records
from tallyroll.audit.ledger.contents import SALT
from tallyroll.audit.ledger.layout import REGISTRY, Core, Kind, PartType, Record, leaf_hash
from tallyroll.audit.ledger.stored import record_in, steering
from tallyroll.audit.ledger.subjects import text_of
from tallyroll.audit.removal.standing import Standing
from tallyroll.errors import KeyGone, LedgerTampered, SealBroken
from tallyroll.events.ids import new_id
from tallyroll.ports import Cipher, Clock, ErasureTarget, KeyRing, LedgerRemoval, LedgerRow, LedgerStore, Signer

Register = Callable[[Kind, bytes], Awaitable[int]]
"""Appends a record to the registry, durably; returns its index."""

_PAGE: Final = 2_000
_MAX_LISTED: Final = 200
_DAY_US: Final = 86_400_000_000
_json: Final = msgspec.json.Decoder(dict[str, Any])


class ErasureReceipt(msgspec.Struct, frozen=True, kw_only=True):
    """What became of an erasure. Nothing in it names the person.

    ``state`` is ``done``; ``restricted`` where a hold or a law stands against it (``restricted`` says which): nothing was
    destroyed, and no reader sees it any more; ``nothing_found``; ``pending`` where a store has not forgotten yet
    (``pending`` names it): ask again; or ``incomplete`` where records are damaged, and what is in them cannot be told or
    taken out: ``unread`` counts them, ``unread_at`` has the places of the first 200, and all else is forgotten. ``in_clear``
    counts entries whose clear fields name the person: these cannot be removed alone, and go with their entry.
    ``copies_until`` is the last day on which a copy of the key ring from before may exist; the certificate is a signed note.
    """

    request_id: str
    state: str
    entries: int = 0
    parts_removed: int = 0
    keys_destroyed: int = 0
    handles: tuple[str, ...] = ()
    restricted: str | None = None
    pending: tuple[str, ...] = ()
    in_clear: int = 0
    unread: int = 0
    unread_at: tuple[str, ...] = ()
    copies_until: date | None = None
    certificate: str | None = None


class _Place(NamedTuple):
    partition: int
    number: int
    part: int


@dataclass
class _Scan:
    shred: set[bytes] = field(default_factory=set)
    parts: set[_Place] = field(default_factory=set)
    unread: set[tuple[int, int]] = field(default_factory=set)
    in_clear: int = 0

    def receipt(self, **said: Any) -> ErasureReceipt:  # noqa: ANN401  # the other fields of a receipt
        """A receipt with what this look has come upon."""
        places = tuple(f"ledger/{partition}/{number}" for partition, number in sorted(self.unread)[:_MAX_LISTED])
        return ErasureReceipt(in_clear=self.in_clear, unread=len(self.unread), unread_at=places, **said)


class Eraser:
    """Erases people from one ledger. ``binding`` are the ids of rules that a law binds this operator to; entries under them stay.

    ``targets`` are further stores that may know a person. Not promised: what was published in clear, which stays in its topic
    until the topic's retention; nor what readers have copied.
    """

    def __init__(  # noqa: PLR0913  # what an erasure touches
        self,
        store: LedgerStore,
        ring: KeyRing,
        cipher: Cipher,
        signer: Signer,
        register: Register,
        *,
        clock: Clock,
        binding: Collection[str] = (),
        targets: Sequence[ErasureTarget] = (),
    ) -> None:
        self._store = store
        self._ring = ring
        self._cipher = cipher
        self._signer = signer
        self._register = register
        self._clock = clock
        self._binding = frozenset(binding)
        self._targets = targets

    async def erase(self, subject: str, *, deep: bool = True) -> ErasureReceipt:
        """Forgets a person, by the name under which their data was sealed. May be asked again, and ends what was cut short.

        ``deep`` also opens every part that is still there and looks for the name: parts of unknown subjects that hold it are
        shredded, parts of others are removed. What is damaged is passed over and named; its keys go all the same. Raises
        StoreUnavailable, KeyRingUnavailable, then ask again; LedgerTampered where the registry is damaged, which says what is held.
        """
        request = new_id()
        handles = await asyncio.to_thread(self._handles, subject)
        scan = await self._scan(subject, set(handles)) if deep else _Scan()
        wanted = sorted({*handles, *scan.shred})
        places = {_Place(*found) for found in await self._store.about(wanted)} | scan.parts
        entries = len({(place.partition, place.number) for place in places})
        if not wanted and not places:
            forgotten, pending = await self._elsewhere(subject, ())
            state = "done" if forgotten else "nothing_found"
            return scan.receipt(request_id=request, state=_state(state, pending, scan), pending=pending)
        shown = tuple(handle.hex() for handle in wanted)
        if cause := await self._against(places, wanted):
            await self._register(Kind.ERASURE, records.erasure_request(request, wanted, cause))
            return scan.receipt(request_id=request, state="restricted", entries=entries, handles=shown, restricted=cause)
        index = await self._do(request, wanted, scan.parts)
        removed, damaged = await self._remove(places)
        scan.unread |= damaged
        _, pending = await self._elsewhere(subject, wanted)
        return scan.receipt(
            request_id=request,
            state=_state("done", pending, scan),
            entries=entries,
            parts_removed=removed,
            keys_destroyed=len(wanted),
            handles=shown,
            pending=pending,
            copies_until=_end_of_month(self._clock.now_us()),
            certificate=self._certificate(request, index, shown, removed, len(scan.unread)),
        )

    async def resume(self) -> list[str]:
        """Does again what was asked for and cut short, also before a backup was put back; returns the requests."""
        standing = await self.standing()
        for request, asked in standing.pending.items():
            await self._do(request, asked.handles, set(), asked_before=True)
        await self.sweep(await self.standing())
        again = {handle for asked in standing.asked.values() if not asked.restricted for handle in asked.handles}
        await asyncio.to_thread(self._ring.destroy, again)
        return list(standing.pending)

    async def sweep(self, standing: Standing) -> int:
        """Removes parts under handles that are erased: they came after it, or it was cut short. How many there were."""
        late = {_Place(*found) for found in [*await self._store.about(standing.erased), *standing.erased_parts]}
        return (await self._remove(late))[0] if late else 0

    async def standing(self) -> Standing:
        """What the registry says now."""
        standing = Standing()
        while rows := await self._store.rows(REGISTRY, standing.size, _PAGE):
            standing.read(rows)
        return standing

    async def _remove(self, places: Collection[_Place]) -> tuple[int, set[tuple[int, int]]]:
        """How many parts were there and are gone, and the records from which nothing can be taken."""
        try:
            return await self._store.remove([LedgerRemoval(*place) for place in sorted(places)]), set()
        except LedgerTampered:
            pass  # then one looks which it is, which takes a look at each
        damaged = {(place.partition, place.number) for place in places}
        for partition, number in sorted(damaged):
            if any(row.number == number and _read(row) is not None for row in await self._store.rows(partition, number, 1)):
                damaged.discard((partition, number))
        whole = [LedgerRemoval(*place) for place in sorted(places) if (place.partition, place.number) not in damaged]
        return await self._store.remove(whole), damaged

    def _handles(self, subject: str) -> list[bytes]:
        own = self._ring.handle_of(subject)
        return [] if own is None else [own, *self._ring.groups_with(own)]

    async def _do(self, request: str, handles: Sequence[bytes], parts: Collection[_Place], *, asked_before: bool = False) -> int:
        if not asked_before:
            await self._register(Kind.ERASURE, records.erasure_request(request, handles))
        died = await asyncio.to_thread(self._ring.destroy, handles)
        return await self._register(Kind.ERASURE, records.erasure(request, sorted({*handles, *died}), sorted(parts)))

    async def _against(self, places: Collection[_Place], handles: Collection[bytes]) -> str:
        """Why the places may not be touched; nothing if they may."""
        standing = await self.standing()
        of_these = set(handles)
        for hold in standing.holds.values():
            if hold.handle in of_these:
                return f"hold {hold.hold_id}"
        for place in sorted(places):
            if held := standing.held_by(place.partition, place.number, of_these):
                return f"hold {held}"
        if not self._binding:
            return ""
        today = self._clock.now_us() // _DAY_US
        for partition, number in sorted({(place.partition, place.number) for place in places}):
            for row in await self._store.rows(partition, number, 1):
                try:
                    record, core = record_in(row)
                    with steering(row):
                        bound = self._binding.intersection(_env_of(record).get("rule_ids", ()))
                except LedgerTampered as error:  # what is destroyed cannot be had again, what is kept can go later
                    return f"record ledger/{partition}/{number}, which cannot be read ({error.code})"
                if bound and core.keep_until_day >= today:
                    return f"rule {min(bound)}"
        return ""

    async def _scan(self, subject: str, handles: Collection[bytes]) -> _Scan:
        """Where else the name stands, in what can still be read."""
        found, named = _Scan(), _finder(subject)
        for partition, size in sorted((await self._store.sizes()).items()):
            if partition == REGISTRY:
                continue
            start = 0
            while start < size and (rows := await self._store.rows(partition, start, _PAGE)):
                await asyncio.to_thread(self._look, rows, named, handles, found)
                start = rows[-1].number + 1
        return found

    def _look(self, rows: Sequence[LedgerRow], named: re.Pattern[str], handles: Collection[bytes], found: _Scan) -> None:
        for row in rows:
            read = _read(row)
            if read is None:
                found.unread.add((row.partition, row.number))
                continue
            record, core = read
            if core.kind != Kind.ENTRY:
                continue
            found.in_clear += _names(record.env, named)
            for part, mark in enumerate(core.parts):
                if mark.handle in handles or record.parts[part] is None:
                    continue
                try:
                    text = self._opened(record, part, mark.part_type)
                except SealBroken:
                    found.unread.add((row.partition, row.number))
                    continue
                if not _names(text, named):
                    continue
                if mark.part_type == PartType.UNKNOWN:
                    found.shred.add(mark.handle)
                else:
                    found.parts.add(_Place(row.partition, row.number, part))

    def _opened(self, record: Record, part: int, part_type: int) -> bytes | None:
        try:
            text = text_of(self._ring, self._cipher, record, part)
        except KeyGone:
            return None  # nobody can read it
        return text[SALT:] if part_type == PartType.PLAIN else text

    async def _elsewhere(self, subject: str, handles: Collection[bytes]) -> tuple[int, tuple[str, ...]]:
        forgotten, pending = 0, []
        answers = await asyncio.gather(*(target.forget(subject, handles) for target in self._targets), return_exceptions=True)
        for target, answer in zip(self._targets, answers, strict=True):
            if isinstance(answer, int):
                forgotten += answer
            elif isinstance(answer, Exception):
                pending.append(target.name)
            else:
                raise answer
        return forgotten, tuple(pending)

    def _certificate(self, request: str, index: int, handles: Sequence[str], removed: int, unread: int) -> str:
        at = datetime.fromtimestamp(self._clock.now_us() / 1_000_000, UTC).isoformat(timespec="seconds")
        lines = [self._signer.name, "erasure", request, at, f"registry {index}", f"parts removed {removed}"]
        lines += [f"records unread {unread}"] if unread else []
        lines += handles
        return note.sign("\n".join(lines) + "\n", [self._signer]).packed().decode()


def _state(otherwise: str, pending: Collection[str], scan: _Scan) -> str:
    return "pending" if pending else "incomplete" if scan.unread else otherwise


def _read(row: LedgerRow) -> tuple[Record, Core] | None:
    """A record and its core; None where they are not what was appended."""
    try:
        found = record_in(row)
    except LedgerTampered:
        return None
    return found if leaf_hash(found[0].core) == row.leaf else None


def _finder(subject: str) -> re.Pattern[str]:
    """The name as a whole: ``cust-1`` does not stand in ``cust-12``."""
    return re.compile(rf"(?<![\w-]){re.escape(subject)}(?![\w-])")


def _names(text: bytes | None, named: re.Pattern[str]) -> bool:
    if text is None:
        return False
    try:
        value: Mapping[str, Any] = _json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError):  # altered: a name in it is one all the same
        return named.search(text.decode(errors="replace")) is not None
    return any(named.search(found) for _, found in texts_of(value))


def _env_of(record: Record) -> dict[str, Any]:
    return {} if record.env is None else _json.decode(record.env)


def _end_of_month(now_us: int) -> date:
    today = datetime.fromtimestamp(now_us / 1_000_000, UTC).date()
    return (today.replace(day=28) + timedelta(days=4)).replace(day=1) - timedelta(days=1)

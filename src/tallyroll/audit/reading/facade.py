"""What reads a ledger, joined: the trail's reader, its verification, reports, proofs and evidence."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tallyroll.audit.entry import AuditEventCategory
from tallyroll.audit.ledger import proving
from tallyroll.audit.ledger.note import COSIGNATURE, ED25519, NoteKey
from tallyroll.audit.reading.evidence import Evidence, Packed, Progress
from tallyroll.audit.reading.integrity import Trusted, Verification
from tallyroll.audit.reading.reader import LedgerReader
from tallyroll.audit.reading.report import Reporting
from tallyroll.audit.reading.witnessed import Answer, ask_all
from tallyroll.audit.recording.new_entry import NewEntry
from tallyroll.audit.removal.lost_keys import LostKeys
from tallyroll.audit.verify.ed25519 import is_signed
from tallyroll.errors import LogUnavailable, SettingsError, StoreUnavailable, TopicConflict, Undecodable
from tallyroll.events.position import TopicPartition
from tallyroll.ports import LedgerStore

if TYPE_CHECKING:
    from tallyroll.audit.opening import OpenAudit

_LOOK_S = 0.05  # between looks for a checkpoint, which is made about once a second


class AuditReading:
    """Made by ``OpenAudit.reading``. ``catch_up`` waits until what this process has recorded is in the ledger."""

    def __init__(self, opened: OpenAudit, store: LedgerStore, catch_up: Callable[[], Awaitable[None]]) -> None:
        self.store = store
        self._opened = opened
        self._catch_up = catch_up

    @property
    def trusted(self) -> Trusted:
        """The public keys of the ledger and of its witnesses as these settings know them. Raises SettingsError for what is no key."""
        signer = self._opened.keys.signer
        witnesses = self._opened.settings.audit_witness_keys_named
        if any((key := _key_of(text)) is None or key.kind != COSIGNATURE for text in witnesses):
            raise SettingsError("AUDIT_WITNESS_KEYS", "expected NAME+ID+BASE64 of witnesses, as they print it")
        return Trusted((str(NoteKey(signer.name, ED25519, signer.public)),), witnesses)

    @cached_property
    def reader(self) -> LedgerReader:
        """Answers questions about entries."""
        keys = self._opened.keys
        return LedgerReader(
            self.store, keys.ring, keys.new_cipher(), clock=self._opened.clock, record=self._record, catch_up=self._catch_up
        )

    @cached_property
    def verification(self) -> Verification:
        """Verifies the store in place."""
        keys = self._opened.keys
        return Verification(
            self.store, keys.ring, self.trusted, is_signed, clock=self._opened.clock, checkpoint=self.noted,
            log_spans=self._opened.log_spans, witnesses=self._ask_witnesses, committed=self._committed,
        )  # fmt: skip

    @cached_property
    def reporting(self) -> Reporting:
        """Makes compliance reports."""
        return Reporting(
            self.store, self.verification, lambda: self._opened.rules, lost=LostKeys(self.store, self._opened.keys.ring),
            keys=self.trusted.keys, clock=self._opened.clock,
        )  # fmt: skip

    @cached_property
    def evidence(self) -> Evidence:
        """Makes evidence packs."""
        return Evidence(self.store, self.reporting, self.trusted, self._opened.keys.signer)

    async def noted(self) -> None:
        """Waits until a signed checkpoint covers what this process has recorded, for some seconds at most."""
        await self._catch_up()
        clock, settings = self._opened.clock, self._opened.settings
        wanted = await self.store.sizes()
        until = clock.monotonic() + settings.audit_checkpoint_seconds + settings.read_wait_ms / 1_000
        while any(wanted.values()) and clock.monotonic() < until:
            known = await proving.noted(self.store)
            if known is not None and all(known.sizes.get(partition, 0) >= size for partition, size in wanted.items()):
                return
            await clock.sleep(_LOOK_S)

    async def proof(self, audit_id: str) -> bytes:
        """The proof of an entry; see ``proving.proof_of``. Raises LookupError for an unknown one, StoreUnavailable if unsigned."""
        await self.noted()
        row = await self.store.entry(audit_id)
        if row is None:
            raise LookupError("no such entry")
        return _signed(await proving.proof_of(self.store, row))

    async def continuation(self, old_size: int) -> bytes:
        """The proof that the newest checkpoint continues an older one; see ``proving.continuation``."""
        await self.noted()
        return _signed(await proving.continuation(self.store, old_size))

    async def pack(
        self,
        path: Path,
        framework: str,
        start_time: datetime | None,
        end_time: datetime | None,
        progress: Progress | None = None,
        **options: Any,  # noqa: ANN401  # see Evidence.write
    ) -> Packed:
        """An evidence pack; that one was made is recorded, since what it holds leaves the house."""
        packed = await self.evidence.write(path, framework, start_time, end_time, progress=progress, **options)
        payload = {"framework": framework, "entries": packed.entries, "bytes": packed.bytes}
        await self._record("audit.exported", AuditEventCategory.DATA_EXPORT, "export", "an evidence pack was made", payload=payload)
        return packed

    async def export(self, path: Path, *, plain: bool = False, progress: Progress | None = None) -> int:
        """The ledger as a zip for the verifier; how many bytes. Recorded as a pack is."""
        await self.noted()
        size = await self.evidence.export(path, plain=plain, progress=progress)
        await self._record("audit.exported", AuditEventCategory.DATA_EXPORT, "export", "the ledger was exported", payload={"bytes": size})
        return size

    async def _ask_witnesses(self) -> Sequence[Answer]:
        keys = [key for text in self.trusted.witnesses if (key := _key_of(text)) is not None]
        witnesses = self._opened.open_witnesses()
        try:
            return await ask_all(witnesses, self.store, self._opened.keys.signer, keys, is_signed)
        finally:
            for one in witnesses:
                await one.close()

    async def _committed(self) -> Mapping[TopicPartition, int]:
        """Of a log that is away nothing, since a ledger can be verified without one."""
        try:
            return await self._opened.committed()
        except (LogUnavailable, TopicConflict):
            return {}

    async def _record(
        self,
        event_type: str,
        category: AuditEventCategory,
        action: str,
        description: str,
        **fields: Any,  # noqa: ANN401  # the fields of an entry
    ) -> object:
        return await self._opened.recorder.record(NewEntry.of(event_type, category, action, description, **fields))


def _key_of(text: str) -> NoteKey | None:
    try:
        return NoteKey.parse(text)
    except Undecodable:
        return None


def _signed(proof: bytes | None) -> bytes:
    if proof is None:
        raise StoreUnavailable("audit ledger", "no signed checkpoint covers it yet; is 'tallyroll run audit' running?")
    return proof

"""Every error that tallyroll raises.

::

    TallyrollError
    ├── SettingsError            a setting, or settings that contradict each other
    │   ├── UnknownSetting       the configuration file names a setting that there is not
    │   ├── SecretInFile         the configuration file holds a secret in the clear
    │   └── MissingExtra         an optional dependency is not installed
    ├── EventError
    │   ├── InvalidEvent         the caller built or offered a bad event
    │   ├── Undecodable          bytes that no tallyroll event can be read from
    │   └── UnknownSchema        written by a newer version than this one
    ├── IncompatibleSchema       a change of an event type that would break readers
    ├── LogError
    │   ├── LogUnavailable *     the log cannot be reached now
    │   │   └── RollClosed       this program has closed its roll
    │   ├── PublishRejected      the log refused; the event is not in it
    │   ├── PublishUncertain     nobody knows yet; do not publish anew
    │   ├── VersionConflict      another event took the version that was expected
    │   └── Backpressure *       nothing was accepted, try later
    ├── TopicConflict            the topics of the log contradict the catalogue
    ├── StoreError
    │   ├── StoreUnavailable *   the store of a follower cannot be reached now
    │   │   ├── StoreFilling *   it was empty, and is being filled from the archive
    │   │   └── StoreDamaged *   its file is not what was written
    │   ├── PositionConflict     another writer of the same results is running
    │   │   └── DocumentConflict a document was changed since it was read
    │   └── SegmentDamaged       a file of the archive is missing or altered
    ├── AlertError
    │   ├── SinkUnavailable *    the receiver of an alert did not answer, or not well
    │   └── SinkRefused          the receiver of an alert will not take it
    ├── AuditError
    │   ├── LedgerTampered       the ledger is not what was written
    │   ├── SubjectErased        what was asked for outright was erased, and nobody can read it any more
    │   ├── KeyLost              what was asked for outright has lost its key, and nobody was forgotten
    │   ├── SealBroken           a sealed part does not open under the key that was tried
    │   ├── KeyGone              there is no key under that handle, or none any more
    │   ├── KeyRingUnavailable   the key ring cannot be read or written
    │   ├── SealingRequired *    an entry has to be sealed, and there is no key for it
    │   ├── WitnessRefused       a witness will not cosign a checkpoint
    │   └── WitnessUnavailable * a witness does not answer
    └── ReplayError
        ├── SpanGone             retention removed the start of what was asked for
        ├── NoHistory            no event names the owner, or none by then
        ├── NoSuchOffset         a replay was asked for as of an offset that there is not
        ├── BrokenHistory        something is wrong with the events, and the policy says to stop
        ├── SnapshotMismatch     a snapshot is damaged, or is not what its events come to
        ├── ReducerFailed        a reducer, validator, predicate or callback of the user's raised
        ├── WorkerFailed         a process of a parallel replay ended before it had answered
        └── ReplayCancelled      somebody asked the replay to stop

``*`` marks what may succeed when it is tried again; the class attribute ``retriable`` says the same to programs.
Constructors take data and build the sentence. No message holds a payload, a secret or a personal value.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import ClassVar, Final


class TallyrollError(Exception):
    """The root: catch it to catch whatever tallyroll raises on purpose.

    Whose fault and what next: see the subclass. A slip in an argument is a ValueError or TypeError, not this.
    """

    retriable: ClassVar[bool] = False


class SettingsError(TallyrollError, ValueError):
    """A setting has a value that is not accepted, or two settings contradict each other.

    Operator: change the named setting; nothing was started. Not TopicConflict, where the broker is at odds with us.
    """

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self.reason = reason
        super().__init__(f"{name}: {reason}")


class UnknownSetting(SettingsError):
    """The configuration file has a key that is no setting: a slip, or one of another version.

    Operator: write ``near`` if that was meant, else remove the key; nothing was started. Not SettingsError in general: no
    value is wrong.
    """

    def __init__(self, name: str, near: str | None) -> None:
        self.near = near
        super().__init__(name, "is no setting" + (f"; did you mean {near}?" if near else "; see the settings page"))


class SecretInFile(SettingsError):
    """The configuration file holds a secret in the clear, where backups and repositories would keep it.

    Operator: put the value into a file of its own that only the service reads, and name that file; change the secret if
    others have seen it. Not UnknownSetting: the secret is known, its place is refused.
    """

    def __init__(self, name: str, instead: str, variable: str) -> None:
        self.instead = instead
        self.variable = variable
        super().__init__(name, f"a secret in the clear; put it into a file of its own and name that as {instead}, or set {variable}")


class MissingExtra(SettingsError):
    """An optional dependency is needed and not installed.

    Operator: run the command in the message. Not SettingsError in general: no value is wrong.
    """

    def __init__(self, extra: str) -> None:
        self.extra = extra
        super().__init__(f"extra '{extra}'", f"not installed; run: pip install 'tallyroll[{extra}]'")


class EventError(TallyrollError):
    """Something is wrong with one event. See the subclasses for whose fault it is."""


class InvalidEvent(EventError, ValueError):
    """The caller offered an event that is not one; ``field`` is the path of what is wrong, e.g. ``payload.cost``.

    Caller: mend the named field; nothing was accepted. Not Undecodable, which is about bytes that were read.
    """

    def __init__(self, field: str, reason: str) -> None:
        self.field = field
        self.reason = reason
        super().__init__(f"{field}: {reason}")


class Undecodable(EventError):
    """Bytes from which no event can be read. ``reason`` is a fixed code, ``detail`` never quotes the content.

    Operator: look at the dead letter, mend the writer, then redrive or drop it. Not UnknownSchema: that one is
    well-formed and only too new.
    """

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(f"{reason}: {detail}")


class UnknownSchema(EventError):
    """The event was written under a schema version that this installation does not know.

    Operator: upgrade tallyroll, or register the type; then redrive, or ask again. Nobody's data is damaged. Not Undecodable.
    """

    def __init__(self, event_type: str, version: str, known: str) -> None:
        self.event_type = event_type
        self.version = version
        self.known = known
        super().__init__(f"{event_type} {version} is not known here (the newest is {known}); upgrade tallyroll, or register the type")


class IncompatibleSchema(TallyrollError):
    """A changed event type would break readers of old or new events; ``problems`` names each field and rule.

    Developer: give the type a new version with an upcaster, or undo the change. Not UnknownSchema, which is met at run time.
    """

    def __init__(self, event_type: str, mode: str, problems: tuple[str, ...]) -> None:
        self.event_type = event_type
        self.mode = mode
        self.problems = problems
        super().__init__(f"{event_type} is not {mode} compatible: " + "; ".join(problems))


class LogError(TallyrollError):
    """Trouble between us and the log. The subclasses say what became of the event."""


class LogUnavailable(LogError):
    """The log did not answer, or answered that it cannot serve now. Nothing is known to be lost.

    Operator: check the address and the broker (``tallyroll doctor``). Not PublishUncertain, which is about one event.
    """

    retriable = True

    def __init__(self, what: str, reason: str) -> None:
        self.what = what
        self.reason = reason
        super().__init__(f"{what}: {reason}")


class RollClosed(LogUnavailable):
    """The roll was closed: the block that opened it has ended. Nothing was done, and nothing is opened anew.

    Developer: use the roll inside of its block, or open another one. Not LogUnavailable in general: the log may be there.
    """

    retriable = False

    def __init__(self) -> None:
        super().__init__("the roll", "it is closed; use it inside of the block that opens it, or open another one")


class PublishRejected(LogError):
    """The log, or a check before it, refused the event: it is not in the log and will not be.

    Caller: mend what ``reason`` names and publish again. Not PublishUncertain: here the answer is certain.
    """

    def __init__(self, event_id: str, reason: str) -> None:
        self.event_id = event_id
        self.reason = reason
        super().__init__(f"event {event_id} was refused: {reason}")


class PublishUncertain(LogError):
    """The deadline passed without an answer; the event may be in the log or may still come into it.

    Caller: with ``kept`` true do nothing, the event goes out under its id by itself; with ``kept`` false publish the
    *same* event object again. A new event with the same content would count twice. Not PublishRejected.
    """

    def __init__(self, event_id: str, reason: str, *, kept: bool) -> None:
        self.event_id = event_id
        self.reason = reason
        self.kept = kept
        next_step = "it is kept and will be sent under the same id" if kept else "publish the same event object again"
        super().__init__(f"event {event_id} is neither confirmed nor refused ({reason}); {next_step}")


class VersionConflict(LogError):
    """Another event took the version that was expected: this one does not count, whether or not it lies in the log.

    ``aggregate`` is the key ``type:id``, ``expected`` the version that was asked for, ``actual`` the one it is at. If they are
    equal, the event came into the log too long after it was checked. Caller: read the aggregate again, decide anew, and
    publish a new event. Not PublishRejected: the event may be in the log. Not PositionConflict, which is about followers.
    """

    def __init__(self, aggregate: str, *, expected: int, actual: int) -> None:
        self.aggregate = aggregate
        self.expected = expected
        self.actual = actual
        why = f"is at version {actual}" if actual != expected else "could not be checked up to where the event came to lie"
        super().__init__(f"version {expected} was expected, and the aggregate {why}; read it again, decide anew, publish a new event")


class Backpressure(LogError):
    """Buffers and spool are full; nothing of this call was accepted.

    Caller: wait and try again, or shed load. Operator: bring the broker back or raise the bound. Not LogUnavailable:
    while there is room, an absent broker raises nothing here.
    """

    retriable = True

    def __init__(self, what: str, limit: str) -> None:
        self.what = what
        self.limit = limit
        super().__init__(f"{what} is full ({limit}); nothing was accepted, try again later")


class TopicConflict(TallyrollError):
    """The topics in the log contradict the catalogue, or a change was asked for that would break the order of keys.

    Operator: ``tallyroll topics drift`` shows the difference. Not SettingsError: the settings are well-formed.
    """

    def __init__(self, topic: str, reason: str) -> None:
        self.topic = topic
        self.reason = reason
        super().__init__(f"topic {topic}: {reason}")


class StoreError(TallyrollError):
    """Trouble between a follower and the place where it keeps its results."""


class StoreUnavailable(StoreError):
    """The store did not answer or is locked. The follower holds its position and tries again.

    Operator: check disk and permissions of the store. Not PositionConflict: nobody else is involved.
    """

    retriable = True

    def __init__(self, store: str, reason: str) -> None:
        self.store = store
        self.reason = reason
        super().__init__(f"{store}: {reason}")


class StoreDamaged(StoreUnavailable):
    """The store's file is there and is not what was written: cut, altered, or another file.

    Operator: do what ``reason`` says; of a ledger keep the file, it may be evidence. Not StoreUnavailable in general: trying again
    gives the same, until a copy was put back, which a follower then notices.
    """


class StoreFilling(StoreUnavailable):
    """The store was found empty and is being filled from the archive; until then nobody knows where to go on.

    Operator: nothing to do, it passes by itself. Not StoreUnavailable in general: the store answers.
    """

    def __init__(self, store: str) -> None:
        super().__init__(store, "it is being filled from the archive")


class PositionConflict(StoreError):
    """The store is at another position than this writer expects: a second writer is running or took over, or it was emptied.

    Operator: nothing is lost; if it repeats, two services share a store without sharing a group. Not a damaged store.
    """

    def __init__(self, where: str, *, stored: int | None, expected: int | None) -> None:
        self.where = where
        self.stored = stored
        self.expected = expected
        if stored is None:
            why = f"the store holds nothing any more, this writer had brought it to {expected}; it begins anew"
        else:
            found = "an empty one" if expected is None else f"{expected}"
            why = f"the store is at {stored}, this writer expected {found}; it goes on from what is stored"
        super().__init__(f"{where}: {why}")


class DocumentConflict(PositionConflict):
    """A document beside the panes is not what its writer has read: somebody else changed it. Nothing of the write was stored.

    Developer: read it again and decide anew. Not PositionConflict in general: whose partitions these are is not in question.
    """

    def __init__(self, kind: str, document_id: str) -> None:
        super().__init__(f"document {kind}", stored=None, expected=None)
        self.kind = kind
        self.document_id = document_id
        self.args = (f"document of kind {kind}: changed since it was read; read it again",)


class SegmentDamaged(StoreError):
    """A file of the archive is missing, cannot be read, or is not what was sealed. No answer is made from the rest.

    Operator: restore the named file from a copy, then ``tallyroll replay verify``; keep the damaged one for whoever asks.
    Not StoreUnavailable: trying again gives the same. Not SpanGone: the history was there.
    """

    def __init__(self, segment: str, reason: str) -> None:
        self.segment = segment
        self.reason = reason
        super().__init__(f"archive segment {segment}: {reason}; restore it from a copy")


class AlertError(TallyrollError):
    """Trouble between us and a receiver of alerts. The alert itself is kept until it is told or given up."""


class SinkUnavailable(AlertError):
    """A receiver of alerts cannot be reached, is slow, or says that it cannot take one now. It is tried again.

    Operator: check the address and the receiver; other receivers are told meanwhile. Not SinkRefused, where trying is in vain.
    """

    retriable = True

    def __init__(self, sink: str, reason: str) -> None:
        self.sink = sink
        self.reason = reason
        super().__init__(f"alerts to {sink}: {reason}")


class SinkRefused(AlertError):
    """A receiver of alerts answered that it will not take one: a wrong address, secret or right. It is not tried again.

    Operator: mend what ``reason`` names; the next alert is tried anew. Not SinkUnavailable, which may pass by itself.
    """

    def __init__(self, sink: str, reason: str) -> None:
        self.sink = sink
        self.reason = reason
        super().__init__(f"alerts to {sink}: refused, {reason}")


class AuditError(TallyrollError):
    """Trouble with the audit ledger. The subclasses say whether it is evidence."""


class LedgerTampered(AuditError):
    """The ledger is not what was written: ``code`` says what is wrong, ``partition`` and ``index`` where it showed first.

    Operator: this is evidence; keep the store as it is, and compare with an export and a witness. Not StoreUnavailable:
    trying again gives the same. Not SealBroken, where the ledger may be whole and the key the wrong one.
    """

    def __init__(self, code: str, partition: int, index: int, detail: str = "") -> None:
        self.code = code
        self.partition = partition
        self.index = index
        self.detail = detail
        super().__init__(f"ledger partition {partition}, index {index}: {code}" + (f" ({detail})" if detail else ""))


class SubjectErased(AuditError):
    """Somebody asked outright for the clear text of an entry, and a part of it was erased, or removed when its time was over.

    Caller: there is nothing to be had; the entry's clear fields and proofs stay. Not KeyGone, which is about a single key; not
    SealBroken, where the text may be there under another key.
    """

    def __init__(self, audit_id: str) -> None:
        self.audit_id = audit_id
        super().__init__(f"entry {audit_id}: its personal fields were erased")


class KeyLost(AuditError):
    """Somebody asked outright for the clear text of an entry, and the key ring lacks a key of it that was never destroyed.

    Operator: put the newest copy of the key ring back, an older one is in its place; where there is none, the text is lost. Not
    SubjectErased, where the ledger says why nobody can read it; not KeyGone, which is about a key and knows no ledger.
    """

    def __init__(self, audit_id: str) -> None:
        self.audit_id = audit_id
        super().__init__(f"entry {audit_id}: the key ring has lost a key of it, and no erasure names it")


class SealBroken(AuditError):
    """A sealed part does not open: another key, another place, or another ciphertext than was sealed.

    Operator: verify the ledger, which needs no key; if it is whole, the key is the wrong one. Not LedgerTampered.
    """

    def __init__(self) -> None:
        super().__init__("a sealed part does not open under the key that was tried")


class KeyGone(AuditError):
    """There is no key under ``handle`` (hex): it was destroyed, or never was in this ring.

    Caller: show what it sealed as erased where the ledger says that it was, else as lost. Not SealBroken, where there is a key
    and it does not fit; not KeyRingUnavailable, where nobody can say.
    """

    def __init__(self, handle: bytes) -> None:
        self.handle = handle.hex()
        super().__init__(f"no key under {self.handle}")


class KeyRingUnavailable(AuditError):
    """The key ring at ``where`` cannot be read, or not be written; nothing was changed that a caller was told of.

    Operator: mend what ``reason`` names; a damaged or missing ring is restored from its backup, never made anew, since what
    the old keys sealed would be lost. Not SettingsError, where the secret that opens the ring is the wrong one.
    """

    def __init__(self, where: str, reason: str) -> None:
        self.where = where
        self.reason = reason
        super().__init__(f"key ring {where}: {reason}")


class SealingRequired(AuditError):
    """An entry has to be sealed, by its rules or because it holds personal data, and the ring gives no key; nothing was recorded.

    Caller: do not go on as if it were recorded. Operator: mend what ``reason`` names, as for KeyRingUnavailable. Not
    SettingsError, where the secret that opens the ring is missing or the wrong one.
    """

    retriable = True

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"the entry has to be sealed, and there is no key for it: {reason}; nothing was recorded")


class WitnessRefused(AuditError):
    """A witness will not cosign a checkpoint. ``status`` is one of c2sp.org/tlog-witness: 400, 403, 404, 409 or 422.

    ``known_size`` is the size it remembers, with 409. Operator: 403 and 404 mean that the witness does not know this ledger or
    its key; 409 with a larger size, and 422, mean that it has seen another history: keep the store, this is evidence.
    """

    def __init__(self, status: int, known_size: int | None = None) -> None:
        self.status = status
        self.known_size = known_size
        super().__init__(f"refused with {status}" + ("" if known_size is None else f", it remembers {known_size}"))


class WitnessUnavailable(AuditError):
    """A witness does not answer, or not with what a witness answers. The checkpoint stays without its signature, for now.

    Operator: look at the witness. Not WitnessRefused, which is an answer.
    """

    retriable = True

    def __init__(self, witness: str, reason: str) -> None:
        self.witness = witness
        self.reason = reason
        super().__init__(f"witness {witness}: {reason}")


class ReplayError(TallyrollError):
    """A replay could not give a true answer."""


class SpanGone(ReplayError):
    """The start of a partition that the answer needs was removed, so any state would be built from a part.

    By the retention of the topic or, where ``pruned``, by ``tallyroll archive prune``; then snapshots stand for it, and built-in
    views can be asked incrementally, and for moments after it. Operator: replay from an archive, or ask for a truncated answer
    by name. ``missing`` maps ``topic/partition`` to the first offset that still exists. Not LogUnavailable: the log works,
    the history is over.
    """

    def __init__(self, missing: dict[str, int], *, pruned: bool = False) -> None:
        self.missing = missing
        self.pruned = pruned
        listed = ", ".join(f"{where} starts at {start}" for where, start in sorted(missing.items()))
        if pruned:
            advice = "ask incrementally, or for a moment after that, from snapshots; or allow a truncated answer"
            super().__init__(f"the archive was pruned: {listed}; {advice}")
        else:
            super().__init__(f"retention removed the start of the history: {listed}; allow a truncated answer to go on")


class NoHistory(ReplayError, LookupError):
    """No event names the owner, or none up to the moment that was asked for; ``first_us`` is then when its first one came.

    Caller: check the id (ids are case-sensitive) and the moment. Not SpanGone: nothing is known to have been removed.
    """

    def __init__(self, view: str, owner: str, *, first_us: int | None = None) -> None:
        self.view = view
        self.owner = owner
        self.first_us = first_us
        if first_us is None:
            reason = f"no event names the {view} that was asked for; ids are case-sensitive"
        else:
            first = (_EPOCH + timedelta(microseconds=first_us)).isoformat(timespec="microseconds")
            reason = f"the {view} that was asked for has no event by then; its first one is of {first}"
        super().__init__(reason)


class NoSuchOffset(ReplayError, ValueError):
    """A replay was asked for as of an offset of ``partition`` that there is not; ``end`` is the largest one, None: no such partition.

    Caller: check that the offsets are of this log and of this kind of state. Not SpanGone: nothing is known to be removed.
    """

    def __init__(self, partition: str, offset: int, end: int | None) -> None:
        self.partition = partition
        self.offset = offset
        self.end = end
        where = "is no partition of this view" if end is None else f"has no offset {offset}; it ends at {end}"
        super().__init__(f"as_of_offsets: {partition} {where}")


class BrokenHistory(ReplayError):
    """Something is wrong with the recorded events, and the policy for it is to stop; ``kind`` and ``where`` say what and where.

    Auditor: this is evidence; look at the events around the position. Operator: replay with the policy ``warn`` to get the
    state with the finding beside it. Not SegmentDamaged: the files are as they were sealed.
    """

    def __init__(self, kind: str, where: str, detail: str = "") -> None:
        self.kind = kind
        self.where = where
        self.detail = detail
        super().__init__(f"{kind} at {where}" + (f" ({detail})" if detail else "") + "; the policy for it is to stop")


class SnapshotMismatch(ReplayError):
    """A snapshot is damaged, or is not the state that its events come to; ``where`` names it.

    Operator: ``tallyroll archive rebuild`` makes snapshots anew from the segments. If a reducer was changed, raise its
    version. Not SegmentDamaged: the events themselves are sound.
    """

    def __init__(self, where: str, reason: str) -> None:
        self.where = where
        self.reason = reason
        super().__init__(f"snapshot {where}: {reason}")


class ReducerFailed(ReplayError):
    """Code that the caller gave (a reducer, validator, predicate, edit) raised, or returned what no state can hold.

    Developer: mend what ``what`` names; ``where`` is the event it was given. The log and the archive are untouched.
    Not BrokenHistory: the event could be read. The original exception is the ``__cause__``.
    """

    def __init__(self, what: str, where: str, reason: str) -> None:
        self.what = what
        self.where = where
        self.reason = reason
        super().__init__(f"{what} failed at {where}: {reason}")


class WorkerFailed(ReplayError):
    """A process of a parallel replay ended, or was killed, before it had answered; no answer is made from the others.

    Operator: look at standard error for what it said last; a kill by the system means too little memory: use fewer
    processes. Not ReducerFailed: that says which event it was. Trying again is safe.
    """

    def __init__(self, worker: int, reason: str) -> None:
        self.worker = worker
        self.reason = reason
        super().__init__(f"process {worker} of the replay {reason}; no answer is made from the rest")


class ReplayCancelled(ReplayError):
    """The replay was asked to stop before it had an answer; ``percent`` of it was done. Nothing was changed anywhere.

    Caller: nothing to do. Not a failure of the log or the archive.
    """

    def __init__(self, replay_id: str, percent: float) -> None:
        self.replay_id = replay_id
        self.percent = percent
        super().__init__(f"replay {replay_id} was cancelled at {percent:.0f} %")


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

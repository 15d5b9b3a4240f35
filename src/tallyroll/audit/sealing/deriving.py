"""Derived entries: every published event gets one, made from the event alone, so that it can be found in the trail.

An entry says what happened, to whom it belongs, where the event lies, how it fits into its publisher's chain, and what its bytes
hash to, with and without the link and the trace that its publisher gave it: one that was sent anew differs in these alone. Where
the event has personal data, the hashes go into a sealed part: the ids are in clear, and a plain hash of few possible values can be
guessed. Pure: no clock, no randomness, no I/O.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from typing import Any, Final, Literal, NamedTuple

import msgspec

from tallyroll.audit.compliance.derived import CATEGORIES, PAYLOAD_TYPES
from tallyroll.audit.compliance.pii import PERSONAL_KEYS, PiiScanner, is_name, plain_key
from tallyroll.audit.entry import AuditEventCategory, AuditSeverity
from tallyroll.audit.ledger.contents import part_text
from tallyroll.audit.ledger.layout import Record
from tallyroll.audit.ledger.stored import record_in
from tallyroll.errors import AuditError, Undecodable
from tallyroll.events.batch import Batch
from tallyroll.events.chain import GENESIS, MAX_NUMBER_DIGITS, MAX_SESSIONS
from tallyroll.events.codec import Head, decode_head, without_link, without_trace
from tallyroll.events.event import agent_of
from tallyroll.ports import LedgerRow

_SEVERITIES: Final[Mapping[str, str]] = {"success": AuditSeverity.INFO.value, "failure": AuditSeverity.MEDIUM.value}
_FAILURES: Final = frozenset({"failed", "failure", "denied", "exhausted", "cancelled", "violated", "violation"})
_AT_ONCE: Final = 64  # records: what is read of so many is still near the processor when their entries are made, a sixth of the work
_MAX_SUBJECTS: Final = 32
_MAX_DEPTH: Final = 32
_MAX_SHAPE: Final = 64  # keys of a payload that is remembered by them

Marks = tuple[str, str | None]
"""The SHA-256 in hex of a record's value, and of the same without link and trace; entries of before have the first alone."""

Fit = Literal["linked", "first", "unlinked", "gap", "altered", "repeated"]
"""How a record fits into its publisher's chain: it continues what was read before it, nothing of its session was read before it,
it has no link, something is missing before it, it links to other bytes, or its number was read already."""

_FITS: Final[frozenset[Fit]] = frozenset({"linked", "first", "unlinked"})
_SECRET: Final = (None, None)


class Whole(Head, gc=False):
    """What an entry says of a record."""

    correlationid: str | None = None
    sessionid: str | None = None
    userid: str | None = None
    traceparent: str | None = None


class _Env(msgspec.Struct, omit_defaults=True, gc=False):
    """The env of a derived entry, its members in sorted order."""

    action: str
    audit_id: str
    category: str
    event_id: str
    event_time: str
    event_type: str
    outcome: str
    position: str
    publisher_chain: str
    severity: str
    origin: str
    agent_id: str | None = None
    content_digest: str | None = None
    correlation_id: str | None = None
    digest: str | None = None
    source: str | None = None
    task_id: str | None = None
    tenant: str | None = None
    workflow_id: str | None = None


class _Type(NamedTuple):
    """What follows from an event's type. ``keeps``: the payload is kept too."""

    category: str
    outcome: str
    severity: str
    action: str
    keeps: bool


class Sentence(NamedTuple):
    """The text of a part, and whom it is about; nobody known where there is no name."""

    subjects: tuple[str, ...]
    text: bytes


class Derived(msgspec.Struct, frozen=True, gc=False):
    """An entry before it is sealed. ``found_by`` are the fields of its facts from the audit id on.

    ``marks`` is what tells its event from others of its id; ``fits``: nothing is wrong with its link.
    """

    found_by: tuple[str, str, str, str, str, str, str, str, tuple[str, ...]]
    env: bytes
    sentences: tuple[Sentence, ...]
    marks: Marks
    fits: bool


class _Read(msgspec.Struct, gc=False):
    """An event that was read: ``text`` is its payload as it came, ``secret`` what was found personal so far."""

    whole: Whole
    text: str
    payload: dict[str, Any]
    names: tuple[str, ...]
    kind: _Type
    marks: Marks
    secret: bool


class Publishers:
    """The publishers' chains of one partition, as far as they can be told from what was read since this process began with it."""

    def __init__(self) -> None:
        self._sessions: OrderedDict[str, tuple[int, str]] = OrderedDict()

    def fit(self, head: Head, digest: str) -> Fit:
        """How a record fits; remembers it."""
        session, text, sessions = head.chainsession, head.chainnumber, self._sessions
        if not session or not text.isdecimal() or len(text) > MAX_NUMBER_DIGITS:
            return "unlinked"
        number, known = int(text), sessions.get(session)
        if known is None:
            sessions[session] = (number, digest)
            if len(sessions) > MAX_SESSIONS:
                sessions.popitem(last=False)
            return ("linked" if head.chainprev == GENESIS else "altered") if number == 1 else "first"
        high, before = known
        if number <= high:
            return "repeated"
        sessions[session] = (number, digest)
        sessions.move_to_end(session)
        if number > high + 1:
            return "gap"
        return "linked" if head.chainprev == before else "altered"


class Deriver:
    """Makes the entries of one ledger. ``subject_fields`` are names of payload fields whose values name people."""

    def __init__(
        self,
        log_id: bytes,
        *,
        subject_fields: Collection[str] = (),
        payload_types: Collection[str] = PAYLOAD_TYPES,
        categories: Mapping[str, AuditEventCategory] = CATEGORIES,
        scanner: PiiScanner | None = None,
    ) -> None:
        self._mixed_with = b"aud1/derived" + log_id
        self._subject_keys = frozenset(map(plain_key, subject_fields))
        self._exact = frozenset(name for name in payload_types if not name.endswith("."))
        self._families = tuple(name for name in payload_types if name.endswith("."))
        self._categories = categories
        self._scanner = scanner
        self._keys: dict[str, Literal["", "names", "personal"]] = {}
        self._plain: set[tuple[str, ...]] = set()
        self._types: dict[str, _Type] = {}

    def audit_id(self, event_id: str) -> str:
        """The id of an event's entry: the same each time, and near those of its time where the event's id is a UUIDv7."""
        mixed = sha256(self._mixed_with + event_id.encode()).hexdigest()
        high, low = event_id[:8], event_id[9:13]
        if len(event_id) != 36 or event_id[14] != "7" or not (high + low).isalnum():  # noqa: PLR2004  # of a UUID
            high, low = mixed[52:60], mixed[60:]
        return f"{high}-{low}-8{mixed[:3]}-8{mixed[3:6]}-{mixed[6:18]}"

    def derive(self, batch: Batch, publishers: Publishers) -> list[Derived | Undecodable]:
        """Of each record its entry, or why it is no event."""
        place, offsets, values = f"{batch.topic}/{batch.partition}/", batch.offsets, batch.values
        derived: list[Derived | Undecodable] = []
        for start in range(0, len(values), _AT_ONCE):
            stop = start + _AT_ONCE
            derived += self._derive_some(place, offsets[start:stop], values[start:stop], publishers)
        return derived

    def _derive_some(
        self, place: str, offsets: Sequence[int], values: Sequence[bytes | None], publishers: Publishers
    ) -> list[Derived | Undecodable]:
        found = [self._read(value or b"") for value in values]
        if self._scanner is not None:
            undecided = [event for event in found if isinstance(event, _Read) and not event.secret]
            for event, is_personal in zip(undecided, self._scanner.in_any([event.text for event in undecided]), strict=True):
                event.secret = is_personal
        derived, fit = self._derived, publishers.fit
        return [
            derived(one, f"{place}{offset}", fit(one.whole, one.marks[0])) if isinstance(one, _Read) else one
            for one, offset in zip(found, offsets, strict=True)
        ]

    def _read(self, value: bytes) -> _Read | Undecodable:
        try:
            whole = _decode_whole(value)
            text = str(whole.data, "utf-8")
            payload = _decode_payload(text)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return _why_not(value) or Undecodable("bad_data", "the payload is no JSON object")
        if whole.specversion != "1.0" or not whole.aggregateid or not whole.aggregatetype or whole.data_base64:
            reason = _why_not(value)
            if reason is not None:
                return reason
        content = without_link(value, whole)
        state = sha256(content)
        mark = state.hexdigest()
        state.update(value[len(content) :])
        if whole.traceparent:
            mark = sha256(without_trace(content, bytes(whole.data), whole.traceparent)).hexdigest()
        kind, user = self._types.get(whole.type) or self._type(whole.type), whole.userid
        personal, names = self._people(payload, text)
        if user and is_name(user) and user not in names:
            names = (*names, user)
        return _Read(whole, text, payload, names, kind, (state.hexdigest(), mark), personal or bool(names) or kind.keeps)

    def _derived(self, event: _Read, position: str, fit: Fit) -> Derived:
        whole, payload, marks = event.whole, event.payload, event.marks
        digest, content = _SECRET if event.secret else marks
        category, outcome, severity, action, keeps = event.kind
        audit_id, event_type = self.audit_id(whole.id), whole.type
        owner, owner_id = whole.aggregatetype, whole.aggregateid
        agent_id = agent_of(owner, owner_id, payload.get("agent_id")) or ""
        task_id = owner_id if owner == "task" else _named(payload, "task_id") if "task_id" in payload else ""
        workflow_id = owner_id if owner == "workflow" else _named(payload, "workflow_id") if "workflow_id" in payload else ""
        env = _encode(
            _Env(
                action, audit_id, category, whole.id, whole.time, event_type, outcome, position, fit, severity, "derived", agent_id or None,
                content, whole.correlationid, digest, whole.source, task_id or None, whole.tenantid, workflow_id or None,
            )
        )  # fmt: skip
        sentences = _sentences(whole, payload if keeps else None, event.names, marks) if event.secret else ()
        return Derived(
            (audit_id, event_type, category, severity, outcome, agent_id, task_id, workflow_id, ()), env, sentences, marks, fit in _FITS
        )

    def _type(self, name: str) -> _Type:
        words = name.split(".")
        category = self._categories.get(name) or self._categories.get(words[0], AuditEventCategory.SYSTEM_ACCESS)
        outcome = "failure" if words[-1] in _FAILURES else "success"
        keeps = name in self._exact or name.startswith(self._families)
        found = _Type(category.value, outcome, _SEVERITIES[outcome], words[-1], keeps)
        if len(self._types) < MAX_SESSIONS:  # names are the publishers' to choose
            self._types[name] = found
        return found

    def _people(self, payload: dict[str, Any], text: str) -> tuple[bool, tuple[str, ...]]:
        """Whether some key says that its value is personal, and the values that name people."""
        keys = tuple(payload)
        if keys not in self._plain:
            if len(self._plain) < MAX_SESSIONS and len(keys) <= _MAX_SHAPE and not any(map(self._meaning, keys)):
                self._plain.add(keys)
            return self._people_in([(payload, 0)])
        if text.find("{", 1) < 0 and text.count("[") < _MAX_DEPTH:  # most payloads have no object in them, and the keys of many others
            return False, ()
        inner = [value for value in payload.values() if isinstance(value, (dict, list))]
        return self._people_in([(value, 1) for value in inner])

    def _people_in(self, waiting: list[tuple[dict[str, Any] | list[Any], int]]) -> tuple[bool, tuple[str, ...]]:
        personal, names = False, dict[str, None]()
        while waiting:
            item, depth = waiting.pop()
            if depth > _MAX_DEPTH:
                return True, tuple(names)[:_MAX_SUBJECTS]  # nobody looks that deep: taken for personal
            if isinstance(item, list):
                waiting += [(inner, depth + 1) for inner in item if isinstance(inner, (dict, list))]
                continue
            for key, value in item.items():
                if isinstance(value, (dict, list)):
                    waiting.append((value, depth + 1))
                means = self._meaning(key)
                if means and value is not None:
                    personal = True
                    if means == "names":
                        names.update(dict.fromkeys(str(one) for one in (value if isinstance(value, list) else [value]) if is_name(one)))
        return personal, tuple(names)[:_MAX_SUBJECTS]

    def _meaning(self, key: str) -> Literal["", "names", "personal"]:
        known = self._keys.get(key)
        if known is None:
            plain = plain_key(key)
            known = "names" if plain in self._subject_keys else "personal" if plain in PERSONAL_KEYS else ""
            if len(self._keys) < MAX_SESSIONS:
                self._keys[key] = known
        return known


def _sentences(whole: Whole, kept: dict[str, Any] | None, names: tuple[str, ...], marks: Marks) -> tuple[Sentence, ...]:
    hashes = {"content_digest": marks[1], "digest": marks[0]}
    about = Sentence(names, _encode(hashes if kept is None else {**hashes, "payload": kept}))
    if not whole.userid or not is_name(whole.userid):  # whom the event itself keeps sealed, its entry does not name
        return (about,)
    actor = {"user_id": whole.userid, "session_id": whole.sessionid}
    return (Sentence((whole.userid,), part_text(actor)), about)


def told_apart(
    derived: Sequence[Derived], stored: Mapping[str, LedgerRow], unstored: Mapping[str, Marks], text_of: Callable[[Record, int], bytes]
) -> list[Literal["repeat", "same_id"] | None]:
    """Which are to be sealed (None), are here already, or are here with another content or a link that does not fit.

    ``stored`` and ``unstored`` are those that are sealed, by audit id; ``text_of`` opens a part.
    """
    ids = [item.found_by[0] for item in derived]
    if not stored and len({*ids}) == len(ids) and unstored.keys().isdisjoint(ids):
        return [None] * len(ids)  # the usual case
    seen, verdicts = dict[str, Marks](), list[Literal["repeat", "same_id"] | None]()
    for item in derived:
        audit_id, marks = item.found_by[0], item.marks
        before = seen.get(audit_id) or unstored.get(audit_id)
        if before is None and audit_id in stored:  # where nobody can read its hashes any more, nobody can compare
            before = _marks_of(stored[audit_id], text_of) or marks
        seen[audit_id] = before or marks
        if before is None:
            verdicts.append(None)
        else:
            again = before[0] == marks[0] or (item.fits and before[1] == marks[1])
            verdicts.append("repeat" if again else "same_id")
    return verdicts


def _marks_of(row: LedgerRow, text_of: Callable[[Record, int], bytes]) -> Marks | None:
    """What a derived entry names; None where nobody can read it any more."""
    with suppress(AuditError, msgspec.MsgspecError, UnicodeDecodeError):  # where it was altered a verification says so
        record, _ = record_in(row)
        texts = [record.env] if record.env is not None else []
        for index in reversed(range(len(record.parts))):
            with suppress(AuditError, LookupError):
                texts.append(text_of(record, index))
        for text in texts:
            found = _decode_payload(text)
            if isinstance(digest := found.get("digest"), str):
                return digest, found.get("content_digest")
    return None


def _why_not(value: bytes) -> Undecodable | None:
    try:
        decode_head(value)
    except Undecodable as reason:
        return reason
    return None


def _named(payload: Mapping[str, Any], key: str) -> str:
    named = payload.get(key)
    return named if isinstance(named, str) else ""


_encode: Final = msgspec.json.Encoder().encode
_decode_whole: Final = msgspec.json.Decoder(Whole).decode
_decode_payload: Final = msgspec.json.Decoder(dict[str, Any]).decode

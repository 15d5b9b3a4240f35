"""Derived entries: every published event gets one, made from the event alone, so that it can be found in the trail.

An entry says what happened, to whom it belongs, where the event lies, how it fits into its publisher's chain, and what its bytes
hash to, with and without the link and the trace that its publisher gave it: one that was sent anew differs in these alone. Where
the event has personal data, the hashes go into a sealed part: the ids are in clear, and a plain hash of few possible values can be
guessed. Pure: no clock, no randomness, no I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from itertools import repeat
from typing import Any, Final, Literal, NamedTuple, get_args

import msgspec

from tallyroll.audit.compiled import ODD, Entries, plain_deriver
from tallyroll.audit.compliance.derived import CATEGORIES, PAYLOAD_TYPES
from tallyroll.audit.compliance.pii import PERSONAL_KEYS, PiiScanner, is_name, plain_key
from tallyroll.audit.entry import AuditEventCategory, AuditSeverity
from tallyroll.audit.ledger.contents import part_text
from tallyroll.audit.ledger.layout import Record
from tallyroll.audit.ledger.stored import record_in
from tallyroll.audit.sealing.publishers import FITS, SAID, Fit, Publishers
from tallyroll.errors import AuditError, Undecodable
from tallyroll.events.batch import Batch
from tallyroll.events.chain import MAX_SESSIONS
from tallyroll.events.codec import Head, decode_head, without_link, without_trace
from tallyroll.events.event import agent_of
from tallyroll.ports import LedgerRow

_SEVERITIES: Final[Mapping[str, str]] = {"success": AuditSeverity.INFO.value, "failure": AuditSeverity.MEDIUM.value}
_FAILURES: Final = frozenset({"failed", "failure", "denied", "exhausted", "cancelled", "violated", "violation"})
_AT_ONCE: Final = 64  # records: what is read of so many is still near the processor when their entries are made, a sixth of the work
_MADE_AT_ONCE: Final = 256  # the same where the core makes most of them, and a call of it costs as much as some records
_MAX_SUBJECTS: Final = 32
_MAX_DEPTH: Final = 32
_MAX_SHAPE: Final = 64  # keys of a payload that is remembered by them

Marks = tuple[str, str | None]
"""The SHA-256 in hex of a record's value, and of the same without link and trace; entries of before have the first alone."""

_MEMBER: Final = {fit: f',"publisher_chain":"{fit}",'.encode() for fit in get_args(Fit)}  # no text in an env of the core has a quote
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


class Deriver:
    """Makes the entries of one ledger. ``subject_fields`` are names of payload fields whose values name people.

    Entries of plain records come from the compiled core where it is installed, unless ``compiled`` says no; they are the same.
    """

    def __init__(  # noqa: PLR0913  # what entries are made by
        self,
        log_id: bytes,
        *,
        subject_fields: Collection[str] = (),
        payload_types: Collection[str] = PAYLOAD_TYPES,
        categories: Mapping[str, AuditEventCategory] = CATEGORIES,
        scanner: PiiScanner | None = None,
        compiled: bool = True,
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
        self._at_once = _AT_ONCE
        self._core = plain_deriver(self._mixed_with) if compiled else None
        self._told: list[tuple[str, str, str, str]] = []  # of types, by their codes there, what their entries are found by

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
        while len(derived) < len(values):
            start, stop = len(derived), len(derived) + self._at_once
            derived += self._derive_some(place, offsets[start:stop], values[start:stop], publishers)
        return derived

    def _derive_some(
        self, place: str, offsets: Sequence[int], values: Sequence[bytes | None], publishers: Publishers
    ) -> list[Derived | Undecodable]:
        plain = Entries(bytes(len(values))) if self._core is None else self._core.derive(place, offsets, values)
        self._at_once = _MADE_AT_ONCE if len(plain.envs) * 2 > len(values) else _AT_ONCE
        personal = self._scanner.in_lines(plain.payloads) if plain.envs and self._scanner is not None else ()
        if len(plain.envs) == len(values) and not personal:  # the usual case
            return [*self._made(plain, publishers.fits(plain, (), values))]
        found = [None if how else self._read(value or b"") for how, value in zip(plain.fits, values, strict=True)]
        self._look_into([event for event in found if isinstance(event, _Read) and not event.secret])
        odd = [(event.whole, event.marks[0]) if isinstance(event, _Read) else None for event in found]
        fits = publishers.fits(plain, odd, values)
        made = iter(self._made(plain, [fit for fit, how in zip(fits, plain.fits, strict=True) if how]))
        if personal:
            rows = [at for at, event in enumerate(found) if event is None]
            for at in map(rows.__getitem__, personal):
                found[at] = event = self._read(values[at] or b"")
                if isinstance(event, _Read):
                    event.secret = True
            made = iter([entry for number, entry in enumerate(made) if number not in personal])
        return [
            next(made) if event is None else self._derived(event, f"{place}{offset}", fit) if isinstance(event, _Read) else event
            for event, offset, fit in zip(found, offsets, fits, strict=True)
        ]

    def _made(self, plain: Entries, fits: Sequence[Fit]) -> Sequence[Derived]:
        """What the core made, as if every text were nothing personal."""
        if not plain.envs:
            return ()
        ids, told, envs = plain.ids, self._told, plain.envs
        said = [SAID[how] for how in plain.fits if how != ODD]
        if said != fits:
            envs = [
                env if fit == other else env.replace(_MEMBER[other], _MEMBER[fit], 1)
                for env, fit, other in zip(envs, fits, said, strict=True)
            ]
        types = zip(*[told[code] for code in plain.types], strict=True)
        found_by = zip(ids[0::6], *types, ids[3::6], ids[4::6], ids[5::6], repeat(()), strict=False)
        fitting = [fit in FITS for fit in fits]
        return list(map(Derived, found_by, envs, repeat(()), zip(ids[1::6], ids[2::6], strict=True), fitting))

    def _look_into(self, undecided: Sequence[_Read]) -> None:
        """Finds what is personal in texts."""
        if undecided and self._scanner is not None:
            for event, is_personal in zip(undecided, self._scanner.in_any([event.text for event in undecided]), strict=True):
                event.secret = is_personal

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
            (audit_id, event_type, category, severity, outcome, agent_id, task_id, workflow_id, ()), env, sentences, marks, fit in FITS
        )

    def _type(self, name: str) -> _Type:
        words = name.split(".")
        category = self._categories.get(name) or self._categories.get(words[0], AuditEventCategory.SYSTEM_ACCESS)
        outcome = "failure" if words[-1] in _FAILURES else "success"
        keeps = name in self._exact or name.startswith(self._families)
        found = _Type(category.value, outcome, _SEVERITIES[outcome], words[-1], keeps)
        if len(self._types) < MAX_SESSIONS:  # names are the publishers' to choose
            self._types[name] = found
            if self._core is not None and not keeps and self._core.tell_type(name, *found[:4]) is not None:
                self._told.append((name, found.category, found.severity, found.outcome))
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
                if self._core is not None and not known:
                    self._core.tell_name(key)
        return known


def _sentences(whole: Whole, kept: dict[str, Any] | None, names: tuple[str, ...], marks: Marks) -> tuple[Sentence, ...]:
    hashes = {"content_digest": marks[1], "digest": marks[0]}
    about = Sentence(names, _encode(hashes if kept is None else {**hashes, "payload": kept}))
    if not whole.userid or not is_name(whole.userid):  # whom the event itself keeps sealed, its entry does not name
        return (about,)
    actor = {"user_id": whole.userid, "session_id": whole.sessionid}
    return (Sentence((whole.userid,), part_text(actor)), about)


def told_apart(
    derived: Sequence[Derived],
    stored: Mapping[str, LedgerRow],
    unstored: Sequence[Mapping[str, Marks]],
    text_of: Callable[[Record, int], bytes],
) -> list[Literal["repeat", "same_id"] | None]:
    """Which are to be sealed (None), are here already, or are here with another content or a link that does not fit.

    ``stored`` and ``unstored`` are those that are sealed, by audit id; ``text_of`` opens a part.
    """
    ids = {item.found_by[0] for item in derived}
    if not stored and len(ids) == len(derived) and all(some.keys().isdisjoint(ids) for some in unstored):
        return [None] * len(derived)  # the usual case
    seen, verdicts = dict[str, Marks](), list[Literal["repeat", "same_id"] | None]()
    for item in derived:
        audit_id, marks = item.found_by[0], item.marks
        before = next((some[audit_id] for some in (seen, *unstored) if audit_id in some), None)
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

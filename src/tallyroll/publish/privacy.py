"""Personal fields of an event, sealed one by one: the rest stays readable, and who has the keys gets the fields back.

What is personal is found by ``audit.compliance.pii``, as in the audit trail, and sealed under the same keys: who erases a person has
erased these fields too, in every copy of the log.
"""

from __future__ import annotations

import os
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import deque
from collections.abc import Collection, Mapping
from copy import deepcopy
from typing import Any, Final

import msgspec

from tallyroll.audit.compliance.pii import SEALED_PREFIX, PiiScanner, people_named
from tallyroll.audit.ledger.chain import Ratchet, group_key
from tallyroll.errors import KeyGone
from tallyroll.events.event import AgentEvent, EventMetadata
from tallyroll.events.ids import new_id
from tallyroll.ports import Cipher, DataKey, KeyRing
from tallyroll.publish.processors import Processor

_TOKEN: Final = re.compile(SEALED_PREFIX + r"(?:[A-Za-z0-9_-]{4}){20,}(?:[A-Za-z0-9_-]{2}==|[A-Za-z0-9_-]{3}=)?")
_WHOLE: Final = "$sealed"  # the only key where everything is sealed
_HANDLE, _SALT, _NONCE = 16, 16, 12
_DRAWN: Final = 256  # keys of nobody known at a time; each event without a subject takes one
_Path = tuple[str | int, ...]
_USER: Final[_Path] = ("$user",)  # a place that no payload has


class FieldSealer:
    """Finds, seals and opens personal fields in JSON values. Blocks the caller for a look into the key ring, some milliseconds.

    ``tenant`` is what sealed fields are bound to beside their event and their place in it; ``subject_fields`` name the people
    whose data an event is: each field is sealed under the key of them all, or under a key of its event where none is named.
    Raises KeyRingUnavailable. Not promised: that everything personal is found; see ``audit.compliance.pii``. Nor thread-safety.
    """

    def __init__(self, scanner: PiiScanner, ring: KeyRing, cipher: Cipher, *, tenant: bytes, subject_fields: Collection[str] = ()) -> None:
        self._scanner = scanner
        self._ring = ring
        self._cipher = cipher
        self._tenant = tenant
        self._subject_fields = subject_fields
        self._salt, self._pid = os.urandom(_SALT), os.getpid()
        self._drawn: deque[DataKey] = deque()

    def contains_pii(self, data: object) -> bool:
        """Whether something personal is in it."""
        return bool(self._places(data))

    def seal_fields(self, data: Mapping[str, Any], event_id: str) -> dict[str, Any]:
        """A copy in which the personal values are sealed; the same as ``data`` where nothing personal is in it."""
        places = self._places(data)
        if not places:
            return dict(data)
        key = self._key_for(data)
        if places == [()]:
            return {_WHOLE: self._seal(data, key, event_id, ())}
        sealed = deepcopy(dict(data))
        for place in places:
            parent: Any = _at(sealed, place[:-1])
            parent[place[-1]] = self._seal(parent[place[-1]], key, event_id, place)
        return sealed

    def seal_user(self, user_id: str | None, event_id: str) -> str | None:
        """Who the event is by, sealed under that person's own key where what they are called is itself personal; else as it is."""
        if user_id is None or _is_sealed(user_id) or not self._scanner.in_text(user_id):
            return user_id
        return self._seal(user_id, self._ring.subjects([user_id])[0], event_id, _USER)

    def open_user(self, user_id: str | None, event_id: str) -> str | None:
        """The opposite; None for a person who was erased. Raises SealBroken for another event."""
        return str(self._open(user_id, event_id, _USER) or "") or None if user_id is not None and _is_sealed(user_id) else user_id

    def open_fields(self, data: Mapping[str, Any], event_id: str) -> dict[str, Any]:
        """What ``seal_fields`` has sealed, opened; a value whose key was destroyed is None. Raises SealBroken for another event."""
        if data.keys() == {_WHOLE}:
            whole = self._open(data[_WHOLE], event_id, ())
            return whole if isinstance(whole, dict) else {_WHOLE: None}
        opened = deepcopy(dict(data))
        waiting: list[tuple[_Path, Any]] = [((), opened)]
        while waiting:
            path, item = waiting.pop()
            for step, value in item.items() if isinstance(item, dict) else enumerate(item):
                if _is_sealed(value):
                    item[step] = self._open(value, event_id, (*path, step))
                elif isinstance(value, (dict, list)):
                    waiting.append(((*path, step), value))
        return opened

    def _places(self, data: object) -> list[_Path]:
        """Where the values are that are to be sealed; a key that is itself personal is sealed with everything beside it."""
        found: set[_Path] = set()
        for field in self._scanner.in_value(data):
            if _is_sealed(_at(data, field.path)):
                continue
            cut = next((at for at, step in enumerate(field.path) if isinstance(step, str) and self._scanner.in_text(step)), None)
            found.add(field.path[:cut])
        return [path for path in sorted(found, key=len) if not any(path[:length] in found for length in range(len(path)))]

    def _key_for(self, data: object) -> DataKey:
        names = people_named(data, self._subject_fields)
        if not names:
            if not self._drawn or self._pid != os.getpid():
                self._drawn = deque(self._ring.draw(_DRAWN))
            return self._drawn.popleft()
        keys = self._ring.subjects(names)
        if len(keys) == 1:
            return keys[0]
        return DataKey(self._ring.group([key.handle for key in keys]), group_key(keys))

    def _seal(self, value: object, key: DataKey, event_id: str, place: _Path) -> str:
        if self._pid != os.getpid():  # a forked child: the random half of its keys must be its own
            self._salt, self._pid = os.urandom(_SALT), os.getpid()
        nonce = os.urandom(_NONCE)
        text = self._cipher.seal(_field_key(key.key, self._salt), nonce, msgspec.json.encode(value), self._aad(event_id, place))
        return SEALED_PREFIX + urlsafe_b64encode(key.handle + self._salt + nonce + text).decode()

    def _open(self, token: str, event_id: str, place: _Path) -> object:
        raw = urlsafe_b64decode(token.removeprefix(SEALED_PREFIX))
        handle, salt, rest = raw[:_HANDLE], raw[_HANDLE : _HANDLE + _SALT], raw[_HANDLE + _SALT :]
        try:
            key = self._dek(handle)
        except KeyGone:
            return None
        text = self._cipher.open(_field_key(key, salt), rest[:_NONCE], rest[_NONCE:], self._aad(event_id, place))
        return msgspec.json.decode(text)

    def _dek(self, handle: bytes) -> bytes:
        try:
            return self._ring.key(handle)
        except KeyGone:
            return group_key([(member, self._ring.key(member)) for member in self._ring.members(handle)])

    def _aad(self, event_id: str, place: _Path) -> bytes:
        return b"aud1/field" + msgspec.json.encode([self._tenant.hex(), event_id, place])


class ProtectedEvent:
    """An event whose personal fields are sealed before it is one.

    ``event_data`` are the fields of ``AgentEvent``: ``event_type``, ``aggregate_id``, ``aggregate_type``, ``payload``, and
    what else is known; ids and keys stay in clear, so that they must not name a person.
    """

    def __init__(self, event_data: Mapping[str, Any], *, sealer: FieldSealer) -> None:
        self._data = dict(event_data)
        self._sealer = sealer
        self.event_id: str = self._data.setdefault("event_id", new_id())
        self.privacy_protected: bool = bool(self._data.get("privacy_protected", False))

    def contains_pii(self, data: object) -> bool:
        """Whether something personal is in it."""
        return self._sealer.contains_pii(data)

    def encrypt_pii_fields(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """A copy in which only the personal values are sealed, bound to this event; ``data`` is not changed.

        Where something was, ``privacy_protected`` is true from now on. Raises SettingsError without a key, KeyRingUnavailable.
        """
        sealed = self._sealer.seal_fields(data, self.event_id)
        self.privacy_protected = self.privacy_protected or sealed != data
        return sealed

    def decrypt_pii_fields(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The opposite, for who has the keys; the value of a person who was erased is None."""
        return self._sealer.open_fields(data, self.event_id)

    @property
    def event(self) -> AgentEvent:
        """The event, its payload sealed where it is personal. Raises InvalidEvent as ``AgentEvent`` does."""
        payload = self.encrypt_pii_fields(self._data.get("payload") or {})
        metadata = self._data.get("metadata")
        if isinstance(metadata, Mapping):
            metadata = EventMetadata.from_dict(dict(metadata))
        fields = {**self._data, "payload": payload, "metadata": metadata, "privacy_protected": self.privacy_protected}
        if isinstance(fields.get("timestamp"), str):
            return AgentEvent.from_kafka_message({**fields, "metadata": metadata.to_dict() if metadata else None})
        return AgentEvent(**fields)


def sealing(sealer: FieldSealer) -> Processor:
    """A processor that seals what is personal in every payload, and a user of a personal name; for ``Roll.open(processors=…)``."""

    def seal(event: AgentEvent) -> AgentEvent:
        if event.privacy_protected:
            return event
        payload = sealer.seal_fields(event.payload, event.event_id) if sealer.contains_pii(event.payload) else event.payload
        user_id = sealer.seal_user(event.metadata.user_id, event.event_id)
        if payload is event.payload and user_id == event.metadata.user_id:
            return event
        metadata = msgspec.structs.replace(event.metadata, user_id=user_id)
        return msgspec.structs.replace(event, payload=payload, metadata=metadata, privacy_protected=True)

    return seal


def redacting(scanner: PiiScanner) -> Processor:
    """A processor that puts ``[redacted: KIND]`` in the place of what is personal, in payloads and users' names, for good."""

    def redact(event: AgentEvent) -> AgentEvent:
        found, by = scanner.in_value(event.payload), scanner.in_text(event.metadata.user_id or "")
        if by:
            kinds = ", ".join(sorted({one.kind for one in by}))
            event = msgspec.structs.replace(
                event, metadata=msgspec.structs.replace(event.metadata, user_id=f"[redacted: {kinds}]"), privacy_protected=True
            )
        if not found:
            return event
        payload = deepcopy(event.payload)
        for field in found:
            parent: Any = _at(payload, field.path[:-1])
            if isinstance(parent, dict) and isinstance(field.path[-1], str) and scanner.in_text(field.path[-1]):
                del parent[field.path[-1]]
            else:
                parent[field.path[-1]] = f"[redacted: {', '.join(field.kinds)}]"
        return msgspec.structs.replace(event, payload=payload, privacy_protected=True)

    return redact


def _is_sealed(value: object) -> bool:
    return isinstance(value, str) and _TOKEN.fullmatch(value) is not None


def _at(value: Any, path: _Path) -> object:  # noqa: ANN401  # a JSON value
    for step in path:
        value = value[step]
    return value


def _field_key(dek: bytes, salt: bytes) -> bytes:
    """The key of one process's fields: HKDF-Expand-SHA256, one block."""
    return Ratchet(dek).mac(b"aud1/field" + salt + b"\1")

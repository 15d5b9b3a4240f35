"""Personal fields of an event: sealed one by one, bound to their event and place, opened by who has the keys."""

from __future__ import annotations

from copy import deepcopy
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tallyroll import Roll
from tallyroll.adapters.crypto import AesGcm, FileKeyRing
from tallyroll.adapters.re2 import Re2Finder
from tallyroll.audit.compliance.pii import PATTERNS, PiiScanner, people_named
from tallyroll.audit.sealing.deriving import Deriver
from tallyroll.audit.sealing.publishers import Publishers
from tallyroll.errors import SealBroken
from tallyroll.events.batch import Batch
from tallyroll.events.codec import encode
from tallyroll.events.event import AgentEvent, EventMetadata
from tallyroll.publish.privacy import SEALED_PREFIX, FieldSealer, ProtectedEvent, redacting, sealing
from tallyroll.testing.ledger import NonceWatch

SCANNER = PiiScanner(Re2Finder(PATTERNS))
DATA = {"event_type": "task.started", "aggregate_id": "t-1", "aggregate_type": "task"}
PAYLOAD = {
    "agent_id": "a-1", "customer_id": "cust-1", "email": "anna@mail.example", "steps": 3,
    "notes": ["paid by 4111 1111 1111 1111", "fine"], "person": {"name": "Anna", "role": "buyer"},
}  # fmt: skip


@pytest.fixture
def ring(tmp_path: Path) -> FileKeyRing:
    return FileKeyRing(tmp_path / "keys", sha256(b"secret").digest())


@pytest.fixture
def sealer(ring: FileKeyRing) -> FieldSealer:
    return FieldSealer(SCANNER, ring, NonceWatch(AesGcm()), tenant=b"acme", subject_fields=("customer_id",))


def test_only_personal_values_are_sealed_and_who_has_the_keys_gets_them_back(sealer: FieldSealer) -> None:
    event = ProtectedEvent({**DATA, "payload": PAYLOAD}, sealer=sealer)
    before = deepcopy(PAYLOAD)
    sealed = event.encrypt_pii_fields(PAYLOAD)
    assert before == PAYLOAD
    assert event.privacy_protected
    changed = {name for name in PAYLOAD if sealed[name] != PAYLOAD[name]}
    assert changed == {"email", "notes", "person"}
    assert sealed["notes"][1] == "fine"
    assert sealed["person"]["role"] == "buyer"
    assert sealed["person"]["name"].startswith(SEALED_PREFIX)
    assert event.decrypt_pii_fields(sealed) == PAYLOAD


def test_what_is_protected_is_said_in_the_event_and_survives_the_log(sealer: FieldSealer) -> None:
    event = ProtectedEvent({**DATA, "payload": PAYLOAD, "metadata": {"correlation_id": "c-1"}}, sealer=sealer).event
    assert event.privacy_protected
    assert event.metadata.correlation_id == "c-1"
    assert "anna" not in str(event.to_kafka_message())
    assert AgentEvent.from_kafka_message(event.to_kafka_message()).privacy_protected
    assert ProtectedEvent(event.to_kafka_message(), sealer=sealer).event.payload == event.payload
    assert sealer.open_fields(event.payload, event.event_id) == PAYLOAD


def test_without_personal_data_nothing_changes(sealer: FieldSealer, ring: FileKeyRing) -> None:
    event = ProtectedEvent({**DATA, "payload": {"steps": 3, "customer_id": "cust-9"}}, sealer=sealer)
    assert not event.contains_pii({"steps": 3})
    assert event.event.payload == {"steps": 3, "customer_id": "cust-9"}
    assert not event.privacy_protected
    assert ring.handle_of("cust-9") is None, "no key is made for nothing"


def test_a_sealed_value_opens_only_in_its_place_of_its_event(sealer: FieldSealer) -> None:
    sealed = sealer.seal_fields(PAYLOAD, "e-1")
    with pytest.raises(SealBroken):
        sealer.open_fields(sealed, "e-2")
    with pytest.raises(SealBroken):
        sealer.open_fields({**sealed, "other": sealed["email"]}, "e-1")
    with pytest.raises(SealBroken):
        sealer.open_fields({**sealed, "email": sealed["email"][:90] + sealed["email"][90:].swapcase()}, "e-1")
    assert sealer.open_fields({"email": SEALED_PREFIX + "!"}, "e-1") == {"email": SEALED_PREFIX + "!"}, "no sealed value"


def test_who_erases_a_person_has_erased_the_fields(sealer: FieldSealer, ring: FileKeyRing) -> None:
    sealed = sealer.seal_fields(PAYLOAD, "e-1")
    both = sealer.seal_fields({"customer_id": ["cust-1", "cust-2"], "email": "b@mail.example"}, "e-2")
    nobody = sealer.seal_fields({"email": "c@mail.example"}, "e-3")
    ring.destroy([ring.handle_of("cust-1")])
    assert sealer.open_fields(sealed, "e-1")["email"] is None
    assert sealer.open_fields(both, "e-2")["email"] is None
    assert sealer.open_fields(nobody, "e-3") == {"email": "c@mail.example"}


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.recursive(
        st.one_of(st.integers(-5, 5), st.sampled_from(["fine", "anna@mail.example", "+44 20 7946 0958", "", "sealed"])),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["a", "email", "b@mail.example", "name"]), inner, max_size=3)
        ),
        max_leaves=8,
    )
)
def test_whatever_is_sealed_comes_back_and_nothing_personal_is_left(sealer: FieldSealer, value: object) -> None:
    data = {"value": value}
    sealed = sealer.seal_fields(data, "e")
    assert not sealer.contains_pii({"v": [text for text in _texts(sealed) if not text.startswith(SEALED_PREFIX)]})
    assert sealer.open_fields(sealed, "e") == data


def test_a_personal_key_at_the_top_takes_everything_with_it(sealer: FieldSealer) -> None:
    data = {"anna@mail.example": 1, "steps": 3}
    sealed = sealer.seal_fields(data, "e")
    assert "anna" not in str(sealed)
    assert sealer.open_fields(sealed, "e") == data


async def test_as_processors_they_protect_what_is_published(sealer: FieldSealer) -> None:
    for processor, kept in ((sealing(sealer), PAYLOAD), (redacting(SCANNER), None)):
        async with Roll.open("sqlite://:memory:", processors=[processor]) as roll:
            receipt = await roll.publish(AgentEvent("task.started", "t-1", "task", PAYLOAD))
            (seen,) = [seen.event async for seen in roll.tail(last=1)]
            assert seen.event_id == receipt.event_id
            assert seen.privacy_protected
            assert "anna" not in str(seen.payload).lower()
            if kept is None:
                assert seen.payload["email"] == "[redacted: key]"
            else:
                assert sealer.open_fields(seen.payload, seen.event_id) == kept


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for key, item in value.items() for text in (key, *_texts(item))]
    return [text for item in value for text in _texts(item)] if isinstance(value, list) else []


def test_a_user_whose_name_is_personal_is_sealed_too_under_their_own_key(sealer: FieldSealer, ring: FileKeyRing) -> None:
    def by(user_id: str | None, payload: dict | None = None) -> AgentEvent:
        return sealing(sealer)(AgentEvent(**DATA, payload=payload or {"steps": 1}, metadata=EventMetadata(user_id=user_id)))

    event = by("anna@mail.example")
    assert (event.privacy_protected, event.payload) == (True, {"steps": 1})
    assert "anna" not in str(event.to_kafka_message())
    assert sealer.open_user(event.metadata.user_id, event.event_id) == "anna@mail.example"
    with pytest.raises(SealBroken):
        sealer.open_user(event.metadata.user_id, "another")
    assert [by(name).metadata.user_id for name in ("u-17", None)] == ["u-17", None]
    assert not by("u-17").privacy_protected
    ring.destroy([ring.handle_of("anna@mail.example")])
    assert sealer.open_user(event.metadata.user_id, event.event_id) is None
    redacted = redacting(SCANNER)(AgentEvent(**DATA, payload={"steps": 1}, metadata=EventMetadata(user_id="anna@mail.example")))
    assert (redacted.metadata.user_id, redacted.privacy_protected) == ("[redacted: email]", True)


def test_what_stands_in_the_place_of_a_person_names_nobody(sealer: FieldSealer, ring: FileKeyRing) -> None:
    """It is another text in each event: a ledger would get a key for each, and an erasure would not find what is under it."""
    payload = {"customer_id": "anna@mail.example", "steps": 1}
    event = sealing(sealer)(AgentEvent(**DATA, payload=payload, metadata=EventMetadata(user_id="anna@mail.example")))
    assert event.payload["customer_id"].startswith(SEALED_PREFIX)
    assert people_named(event.payload, ["customer_id"]) == ()
    batch = Batch(
        "task-events", 0, offsets=range(1), keys=[None], values=[encode(event)], timestamps_ms=[-1],
    )  # fmt: skip
    (derived,) = Deriver(bytes(16), subject_fields=["customer_id"]).derive(batch, Publishers())
    assert [names for names, _ in derived.sentences] == [()]
    assert ring.handle_of("anna@mail.example") is not None

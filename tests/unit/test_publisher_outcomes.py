"""What the codes of a Kafka client mean for an event: refused only where nothing was appended for certain."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError

from tallyroll.adapters.kafka.outcomes import is_fatal, outcome_of
from tallyroll.ports import Rejected, Unknown

REFUSED = [
    KafkaError.MSG_SIZE_TOO_LARGE,
    KafkaError.INVALID_RECORD,
    KafkaError.INVALID_TIMESTAMP,
    KafkaError.POLICY_VIOLATION,
    KafkaError.TOPIC_EXCEPTION,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
]
DOUBTFUL = [KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED, KafkaError.UNKNOWN_TOPIC_OR_PART]
FATAL = [KafkaError._FATAL, KafkaError._FENCED, KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, KafkaError._AUTHENTICATION]
EVERY = sorted({code for name in dir(KafkaError) if isinstance(code := getattr(KafkaError, name), int) and name.isupper() and code})


@pytest.mark.parametrize("code", REFUSED)
def test_a_code_given_before_the_append_is_a_refusal(code):
    outcome = outcome_of(KafkaError(code), "id", disconnected_since=False)
    assert isinstance(outcome, Rejected)
    assert outcome.error.event_id == "id"


def test_every_other_code_is_unknown():
    others = [code for code in EVERY if code not in REFUSED]
    assert len(others) > 100
    assert {type(outcome_of(KafkaError(code), "id", disconnected_since=False)) for code in others} == {Unknown}


@pytest.mark.parametrize("code", DOUBTFUL)
def test_after_a_broken_connection_what_a_second_try_may_be_told_is_unknown(code):
    assert isinstance(outcome_of(KafkaError(code), "id", disconnected_since=True), Unknown)


@pytest.mark.parametrize("code", FATAL)
def test_after_a_fatal_code_the_client_is_replaced(code):
    assert is_fatal(KafkaError(code))


@pytest.mark.parametrize("code", [KafkaError._TRANSPORT, KafkaError._MSG_TIMED_OUT, KafkaError.NOT_LEADER_FOR_PARTITION])
def test_trouble_that_passes_is_not_fatal(code):
    assert not is_fatal(KafkaError(code))

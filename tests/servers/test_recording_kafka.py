"""Entries on a real broker: written ahead, then there, under the partition of their agent."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.flows.recording import arrived_in, entries_in
from tests.patience import PATIENCE_S

from tallyroll import Roll
from tallyroll.adapters.kafka.admin import KafkaAdmin
from tallyroll.audit.ledger.partition import Verdict
from tallyroll.audit.recording.new_entry import NewEntry
from tallyroll.events.partition import partition_for
from tallyroll.settings import Secret, Settings

pytestmark = [pytest.mark.server, pytest.mark.slow]


async def test_entries_go_through_the_spool_to_the_broker(kafka_settings: Settings) -> None:
    settings = replace(kafka_settings, audit_secret_key=Secret("5f" * 32))
    async with Roll.open(settings) as roll:
        admin = KafkaAdmin(settings)
        for topic in roll.catalogue.topics:
            if topic.base == "audit-events":
                await admin.create(topic, replication=1, config={})
        new = [NewEntry.of("file.read", "data_access", "read", f"file {n}", agent_id=f"agent-{n % 5}", user_id="anna") for n in range(50)]
        made = await roll.audit.create_audit_entries(new)
        assert await roll.publisher.flush(PATIENCE_S) == 0
        assert roll.publisher.spool_depth == 0
        arrived = await arrived_in(roll.log, roll.catalogue["audit-events"].name)
    assert {one.verdict for one in arrived} == {Verdict.APPEND}
    assert sorted(one.event_id for one in entries_in(arrived)) == sorted(one.audit_id for one in made)
    assert all(one.core.chain.partition == partition_for(one.key.encode(), 8) for one in entries_in(arrived))
    assert all(one.position is not None for one in made)

"""Apache Kafka has no compare-and-set: its order decides, and sixteen rivals on several clients find the same winner."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest
from tests.servers.faulting import create_topics

from tallyroll.roll import Roll
from tallyroll.settings import Settings
from tallyroll.testing.versions import compete, rivals

pytestmark = [pytest.mark.server, pytest.mark.slow]


async def test_sixteen_rivals_in_four_rolls(kafka_settings: Settings) -> None:
    await create_topics(kafka_settings)
    async with AsyncExitStack() as stack:
        rolls = [await stack.enter_async_context(Roll.open(kafka_settings)) for _ in range(4)]
        await rivals(rolls, writers=16)
        await compete(rolls, writers=16, versions=16)

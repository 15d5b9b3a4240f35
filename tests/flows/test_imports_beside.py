"""What a feature needs is imported beside the event loop, so that its first use holds nobody up."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

PROGRAM = """
import asyncio, json, sys, threading
from tallyroll import Roll

here, on_loop = threading.get_ident(), []

class Watching:
    def find_spec(self, name, *_):
        if threading.get_ident() == here:
            on_loop.append(name)

async def main():
    async with Roll.open("sqlite://:memory:") as roll:
        sys.meta_path.insert(0, Watching())
        await roll.audit.create_audit_entry("a.read", "data_access", "read", "first use")
        await roll.audit.query_audit_trail(event_type="a.read")
        sys.meta_path.pop(0)

asyncio.run(main())
print(json.dumps(on_loop))
"""


def test_the_first_use_of_the_trail_imports_next_to_nothing_on_the_event_loop() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60)
    imported = json.loads(done.stdout)
    assert "tallyroll.audit.trail" in imported  # it was watched
    assert len(imported) <= 8, imported  # the vocabulary; what does the work is some 120 modules

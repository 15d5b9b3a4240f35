"""A program that records entries, and then is killed, forks, or ends without closing; run by the tests of that.

``python recording_program.py WAY URL FOLDER COUNT`` prints the id of every entry that was acknowledged.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from tallyroll import Roll
from tallyroll.settings import Secret, Settings


async def record(roll: Roll, count: int, agent: str) -> None:
    """Entries one by one, each said when it is acknowledged."""
    for number in range(count):
        made = await roll.audit.create_audit_entry(
            "file.read", "data_access", "read", f"file {number}", agent_id=agent, user_id="anna", subjects=["bert"]
        )
        os.write(1, f"{made.audit_id}\n".encode())


def main(way: str, url: str, folder: str, count: str) -> None:
    settings = Settings(
        url=url, **({"data_dir": Path(folder)} if url.startswith("kafka") else {}), audit_secret_key=Secret("5f" * 32), stall_ms=100
    )
    loop, stack = asyncio.new_event_loop(), AsyncExitStack()
    roll = loop.run_until_complete(stack.enter_async_context(Roll.open(settings)))
    loop.run_until_complete(record(roll, int(count), "parent"))
    if way == "fork":
        child = os.fork()
        if not child:
            asyncio.run(record(roll, int(count), "child"))
            os._exit(0)
        os.waitpid(child, 0)
        loop.run_until_complete(record(roll, int(count), "parent"))
    if way == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if way == "leave":
        return  # nothing is closed: the hooks at exit have to do it
    loop.run_until_complete(stack.aclose())


if __name__ == "__main__":
    main(*sys.argv[1:])

"""One process of a parallel replay from an archive without a log: ``tallyroll.worker`` with another way to open it."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from contextlib import aclosing
from pathlib import Path

from bench.replay_access import replays_of
from tallyroll.adapters.system.processes import framed
from tallyroll.replay.jobs import do_job
from tallyroll.replay.memory import keep_freed_memory
from tallyroll.worker import _end_with_parent, _frame


async def _work(hello: bytes, job: bytes) -> None:
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)
        async with (
            replays_of(Path(os.fsdecode(hello))) as replayer,
            aclosing(do_job(job, replayer.log, replayer.archive, replayer.catalogue)) as messages,
        ):
            async for message in messages:
                out.write(framed(message))
                out.flush()


if __name__ == "__main__":
    frames = _frame(), _frame()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    keep_freed_memory()
    gc.freeze()
    asyncio.run(_work(*frames))

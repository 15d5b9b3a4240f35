"""One process of a parallel replay: ``python -m tallyroll.worker``, started by ``adapters.system.processes`` only.

Reads two frames from standard input, what to open and what to do; writes the messages of the job to standard output; ends
when standard input closes, whatever it is at.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
from contextlib import aclosing
from typing import BinaryIO

import msgspec

from tallyroll.adapters.system.processes import LENGTH_BYTES, framed
from tallyroll.opening import open_replayer
from tallyroll.replay.jobs import do_job
from tallyroll.replay.memory import keep_freed_memory
from tallyroll.settings import Settings


def main() -> None:
    """Does one job, then exits."""
    # What imported code prints must not come between the frames.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    hello, job = _frame(), _frame()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    keep_freed_memory()
    gc.freeze()  # what was imported stays; the collector need not look at it again
    asyncio.run(_work(hello, job, out))
    out.flush()


async def _work(hello: bytes, job: bytes, out: BinaryIO) -> None:
    settings = Settings.from_env(msgspec.json.decode(hello, type=dict[str, str]))
    async with (
        open_replayer(settings) as replayer,
        aclosing(do_job(job, replayer.log, replayer.archive, replayer.catalogue)) as messages,
    ):
        async for message in messages:
            out.write(framed(message))
            out.flush()


def _frame() -> bytes:
    length = int.from_bytes(_read(LENGTH_BYTES), "big")
    return _read(length)


def _read(size: int) -> bytes:
    """So many bytes of standard input. Unbuffered: a thread that waits in a buffer cannot be left behind at exit."""
    read = bytearray()
    while len(read) < size:
        if not (more := os.read(0, size - len(read))):
            sys.exit("tallyroll.worker is started by a parallel replay, not by hand; see: tallyroll replay run --workers 2")
        read += more
    return bytes(read)


def _end_with_parent() -> None:
    if not os.read(0, 1):
        os._exit(1)


if __name__ == "__main__":
    main()

"""Processes of this Python that do jobs: started anew, never forked, since clients and connections do not survive a fork.

They are started as ``python -m MODULE`` and talked to through their standard input and output, frame by frame (length in
four bytes, then the bytes). So the caller's main module is never imported a second time, and a script needs no guard.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncGenerator, Sequence
from typing import Final

from tallyroll.errors import WorkerFailed

LENGTH_BYTES: Final = 4
_WAITING: Final = 16  # messages that wait for the caller; a process that is faster waits as well
_GRACE_S: Final = 5.0  # for a process that was told to end


class PythonWorkers:
    """Implements ``ports.Workers``. ``hello`` is the first frame of every process: what it opens its log and archive from.

    A process ends by itself when its standard input closes, so none outlives the one that started it. ``hello`` may hold
    secrets: it goes through a pipe, never on a command line or into a file. What a process says on standard error is
    shown. Not promised: that a process uses no more than one core.
    """

    def __init__(self, hello: bytes, module: str) -> None:
        self._hello = hello
        self._module = module

    async def run(self, jobs: Sequence[bytes]) -> AsyncGenerator[tuple[int, bytes], None]:
        queue: asyncio.Queue[tuple[int, bytes | None]] = asyncio.Queue(_WAITING)
        processes = [await self._start() for _ in jobs]
        tasks = [asyncio.create_task(self._serve(at, process, jobs[at], queue)) for at, process in enumerate(processes)]
        try:
            left = len(jobs)
            while left:
                at, message = await queue.get()
                if message is None:
                    left -= 1
                    await _check(at, processes[at], tasks[at])
                else:
                    yield at, message
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.gather(*(_end(process) for process in processes))

    async def _start(self) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            self._module,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            # Several of them share the cores already; the threads that numpy would start spin, some 20 ms for nothing.
            env={"OPENBLAS_NUM_THREADS": "1", **os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )

    async def _serve(
        self, at: int, process: asyncio.subprocess.Process, job: bytes, queue: asyncio.Queue[tuple[int, bytes | None]]
    ) -> None:
        assert process.stdin is not None  # noqa: S101  # asked for
        assert process.stdout is not None  # noqa: S101  # as above
        try:
            process.stdin.writelines(framed(frame) for frame in (self._hello, job))
            await process.stdin.drain()
            while True:
                length = int.from_bytes(await process.stdout.readexactly(LENGTH_BYTES), "big")
                await queue.put((at, await process.stdout.readexactly(length)))
        except (asyncio.IncompleteReadError, BrokenPipeError, ConnectionResetError):
            pass  # it has ended; how, its exit code says
        finally:
            await queue.put((at, None))


def framed(message: bytes) -> bytes:
    """A message with its length before it."""
    return len(message).to_bytes(LENGTH_BYTES, "big") + message


async def _check(at: int, process: asyncio.subprocess.Process, task: asyncio.Task[None]) -> None:
    await task
    code = await process.wait()
    if code < 0:
        raise WorkerFailed(at, f"was ended by signal {-code}")
    if code:
        raise WorkerFailed(at, f"ended with code {code}")


async def _end(process: asyncio.subprocess.Process) -> None:
    """Ends one process, by its own id; one that has ended already is left alone."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), _GRACE_S if process.returncode is None else None)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()

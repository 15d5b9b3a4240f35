"""Followers spread over processes: the command starts itself once for each share of them, and the shares end together."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from tallyroll.cli.logs import service_log
from tallyroll.cli.run.services import SERVICES
from tallyroll.cli.run.serving import OFF

SHARE: Final = "--share"
"""Of a process that was started here: it names its followers in its lines, and stops when its standard input ends."""

_SIGNALLED: Final = 128  # a shell says so of what a signal has ended


def shares(names: Sequence[str], processes: int) -> list[tuple[str, ...]]:
    """Who runs with whom, so that no process has much more to do than another; at most as many as there are followers."""
    parts: list[list[str]] = [[] for _ in range(min(processes, len(names)))]
    for name in sorted(names, key=lambda name: -SERVICES[name].load):
        min(parts, key=lambda part: sum(SERVICES[one].load for one in part)).append(name)
    return [tuple(part) for part in parts]


def commands(
    parts: Sequence[Sequence[str]], before: Sequence[str], options: Sequence[str], place: tuple[str, int] | None
) -> dict[tuple[str, ...], list[str]]:
    """What is started for each share. The first one serves at ``place``, each of the others at the port behind the one before it.

    ``before`` goes before the verb, ``options`` behind it; port 0 stays 0.
    """
    python = [sys.executable, "-P", "-m", "tallyroll"]  # -P: what lies in the folder one stands in is nothing to import
    return {
        tuple(names): [*python, *before, "run", *names, *options, "--http", _address(place, number), SHARE]
        for number, names in enumerate(parts)
    }


def _address(place: tuple[str, int] | None, number: int) -> str:
    if place is None:
        return OFF
    host, port = place
    return f"{f'[{host}]' if ':' in host else host}:{port + number if port else 0}"


async def run_spread(started: Mapping[tuple[str, ...], Sequence[str]], *, once: bool) -> int:
    """Runs these commands until SIGTERM, or until one of them ends, with ``once`` until all have; the exit code.

    It is that of the first that failed, else 0; 128 and its number for a signal. The others are told to stop, and store what they
    have applied. None of them outlives this process by more than that takes, however it ends.
    """
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    tasks: dict[asyncio.Task[int], tuple[str, ...]] = {}
    processes: list[asyncio.subprocess.Process] = []
    told = asyncio.create_task(stop.wait())
    failed = 0
    try:
        for names, command in started.items():
            processes.append(await _start(command))
            tasks[asyncio.create_task(processes[-1].wait())] = names
        waiting = set(tasks)
        while waiting and not told.done():
            await asyncio.wait({told, *waiting}, return_when=asyncio.FIRST_COMPLETED)
            for task in [task for task in waiting if task.done()]:
                waiting.discard(task)
                if code := task.result():
                    service_log.error("%s: ended with code %d; the others store what they have applied", ", ".join(tasks[task]), code)
                    failed = failed or code
            if failed or not once:
                break
    finally:
        told.cancel()
        for process in processes:
            if process.stdin is not None:
                process.stdin.close()
        codes = await asyncio.gather(*(process.wait() for process in processes))
    code = failed or next(filter(None, codes), 0)
    return code if code >= 0 else _SIGNALLED - code


async def _start(command: Sequence[str]) -> asyncio.subprocess.Process:
    """In a session of its own: Ctrl-C is for the process that has started it, which tells it to stop."""
    # Several of them share the cores already; the threads that numpy would start spin.
    env = {"OPENBLAS_NUM_THREADS": "1", **os.environ}
    return await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.PIPE, start_new_session=True, env=env)


def stop_with_input(stop: asyncio.Event) -> None:
    """Sets ``stop`` when standard input ends: whoever has started this process is gone, or wants it to be."""
    loop, source = asyncio.get_running_loop(), sys.stdin.fileno()

    def look() -> None:
        if not os.read(source, 1):
            loop.remove_reader(source)
            stop.set()

    loop.add_reader(source, look)

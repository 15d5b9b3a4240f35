"""Programs of tests in processes of their own, to be killed: forked from a server that has imported what they need, once for the run.

Starting Python and importing the library anew costs more than what most of these programs do until they die. A test about how a
program starts or leaves (signals, standard streams, an import that is missing) takes ``subprocess``.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from tests.patience import PATIENCE_S

from tallyroll.cli import main

_IMPORTED = ("tests.imported",)


def server() -> ForkServerContext:
    """Starts processes like ``multiprocessing.get_context("spawn")``, from a server with everything imported and nothing opened."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_IMPORTED))
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    try:
        forkserver.ensure_running()
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before
    return context


class Program:
    """``main(*arguments)`` runs in a process of its own, with what it prints to be read from ``lines``."""

    def __init__(self, main: Callable[..., None], *arguments: object) -> None:
        context = server()
        reading, writing = context.Pipe(duplex=False)
        self._process = context.Process(target=_run, args=(writing, main, arguments), daemon=True)
        self._process.start()
        writing.close()
        self.lines = os.fdopen(os.dup(reading.fileno()))
        reading.close()

    def kill(self) -> None:
        """``kill -9``, which it may have met before."""
        self._process.kill()

    def ended(self, timeout_s: float = PATIENCE_S) -> tuple[int, str]:
        """Its exit code, negative for a signal, and what it printed that was not read before. Waits for its end."""
        with self.lines:
            left = self.lines.read()
        self._process.join(timeout_s)
        code = self._process.exitcode
        assert code is not None, f"it still runs after {timeout_s} s"
        return code, left


def die_of(main: Callable[..., None], *arguments: object) -> str:
    """Runs a program that has to end by ``kill -9``; what it printed."""
    code, said = Program(main, *arguments).ended()
    assert code == -signal.SIGKILL, said
    return said


def command(words: Sequence[str], folder: Path, environ: Mapping[str, str]) -> tuple[int, str]:
    """Runs ``tallyroll`` with these words in a folder and an environment; its exit code, and what it printed on both streams."""
    return begun(words, folder, environ).ended()


def begun(words: Sequence[str], folder: Path, environ: Mapping[str, str], errors: Path | None = None) -> Program:
    """As ``command``, not waited for; what it says on standard error goes into the file ``errors``, if there is to be one."""
    return Program(_command, tuple(words), folder, dict(environ), errors)


def _command(words: Sequence[str], folder: Path, environ: Mapping[str, str], errors: Path | None) -> None:
    if errors is not None:
        with errors.open("wb") as file:
            os.dup2(file.fileno(), sys.stderr.fileno())
    os.environ.clear()
    os.environ.update(environ)
    os.chdir(folder)
    sys.argv = ["tallyroll", *words]
    main()


def _run(output: Connection, main: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    for stream in (1, 2):
        os.dup2(output.fileno(), stream)
    output.close()
    try:
        main(*arguments)
    finally:
        atexit._run_exitfuncs()  # a forked child would leave without

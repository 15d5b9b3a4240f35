"""Running what the pages show: Python blocks in one namespace per page, console blocks in a shell, output compared.

A fence's info string says what to do with a block:

``python``, ``console``          run, with the embedded log, in a temporary folder per page
``python kafka``, ``console kafka``  run with the server tests, against a broker of their own
``python compiled``              only compiled: it needs a program that is not there in tests
``text`` right after ``python``  what the block before prints; ``…`` stands for anything

In console blocks ``$ `` begins a command and what follows is its output; a command without output only has to succeed.
Commands that set up machines (``$ scripts/…``, ``$ pip …``) or need programs from elsewhere are not run.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests import apart
from tests.environment import environment
from tests.patience import PATIENCE_S

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
NOT_RUN: Final = ("scripts/", "pip ", "git ", "kcat ", ". .")
_FENCE: Final = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<body>.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
_QUOTED: Final = re.compile(r"""'[^']*'|"[^"$`\\]*\"""")
_OF_A_SHELL: Final = re.compile(r"[$`|&;<>*?~!(){}\[\]#\\\n]")


class Block(NamedTuple):
    """One fenced block: where it starts, the words of its info string, its text, and the output shown after it."""

    line: int
    info: tuple[str, ...]
    body: str
    output: str | None

    @property
    def kind(self) -> str:
        return self.info[0] if self.info else ""

    @property
    def needs_kafka(self) -> bool:
        return "kafka" in self.info[1:]


class Differs(AssertionError):
    """A block printed something else than the page shows."""


def blocks_of(text: str) -> list[Block]:
    found = list(_FENCE.finditer(text))
    blocks = []
    for index, match in enumerate(found):
        after = found[index + 1] if index + 1 < len(found) else None
        shown = after is not None and after["info"].strip() == "text" and not text[match.end() : after.start()].strip()
        output = after["body"] if after is not None and shown else None
        blocks.append(Block(text.count("\n", 0, match.start()) + 1, tuple(match["info"].split()), match["body"], output))
    return blocks


def compare(where: str, shown: str, printed: str) -> None:
    """Raises Differs unless the two are alike; ``…`` in what is shown stands for anything."""
    tidy = ["\n".join(line.rstrip() for line in text.strip().splitlines()) for text in (shown, printed)]
    if not re.fullmatch(".*?".join(re.escape(part) for part in tidy[0].split("…")), tidy[1], re.DOTALL):
        raise Differs(f"{where} shows\n{tidy[0]}\nbut printed\n{tidy[1]}")


class Session:
    """Runs the blocks of one page in order: one namespace, one event loop, one folder, one environment."""

    def __init__(self, page: str, folder: Path, environ: dict[str, str]) -> None:
        self._page = page
        self._folder = folder
        self._environ = environ
        self._names: dict[str, Any] = {"__name__": "__page__"}
        self._runner = asyncio.Runner()

    def run(self, block: Block) -> None:
        where = f"{self._page}:{block.line}"
        if block.kind == "python":
            printed = self._python(where, block.body)
            if block.output is not None:
                compare(where, block.output, printed)
        elif block.kind == "console":
            for command, shown in commands_of(block.body):
                if not command.startswith(NOT_RUN):
                    self._command(f"{where} $ {command}", command, shown)

    def close(self) -> None:
        from tallyroll import close_default, reset_defaults

        self._runner.run(close_default())
        reset_defaults()
        self._runner.close()

    def _python(self, where: str, body: str) -> str:
        out = io.StringIO()
        code = compile_block(where, body)
        with contextlib.redirect_stdout(out):
            result = eval(code, self._names)  # noqa: S307  # our own pages
            if inspect.iscoroutine(result):
                self._runner.run(result)
        return out.getvalue()

    def _command(self, where: str, command: str, shown: str) -> None:
        is_plain = command.startswith("tallyroll ") and not _OF_A_SHELL.search(_QUOTED.sub("", command))
        code, printed = (self._tallyroll if is_plain else self._shell)(command)
        if code:
            raise Differs(f"{where} ended with exit code {code}:\n{printed}")
        if shown.strip():
            compare(where, shown, printed)

    def _tallyroll(self, command: str) -> tuple[int, str]:
        """Without a shell that starts a Python that imports everything: most of what the pages took."""
        return apart.command(shlex.split(command)[1:], self._folder, self._environ)

    def _shell(self, command: str) -> tuple[int, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=self._folder,
            env={**self._environ, "PATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        return done.returncode, done.stdout


def compile_block(where: str, body: str) -> Any:
    """The block's code; ``await`` may stand at the top, as in ``python -m asyncio``."""
    return compile(body, where, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def commands_of(body: str) -> Iterator[tuple[str, str]]:
    """Each command, continued lines joined, with the output shown below it."""
    for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
        lines = part.splitlines()
        count = 1
        while lines[count - 1].endswith("\\"):
            count += 1
        yield "\n".join(lines[:count]), "\n".join(lines[count:])


def clean_environment() -> dict[str, str]:
    """Without a setting; a terminal of a known width, output in the order in which it was written."""
    return environment(NO_COLOR="1", TERM="dumb", COLUMNS="120", PYTHONUNBUFFERED="1")


def prose_of(text: str) -> str:
    """The page without its fenced blocks, line numbers kept."""
    return _FENCE.sub(lambda match: "\n" * match[0].count("\n"), text)


def slug(heading: str) -> str:
    """The anchor that a heading gets."""
    plain = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading.strip().lower())
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def broken_links(page: Path, text: str) -> list[str]:
    """Relative links of a page that lead nowhere, anchors included."""
    broken = []
    for match in re.finditer(r"\[[^\]]*\]\(([^)\s]+)\)", prose_of(text)):
        target, _, anchor = match[1].partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        path = (page.parent / target).resolve() if target else page
        if not path.exists():
            broken.append(match[1])
        elif anchor and path.suffix == ".md":
            there = text if path == page else path.read_text()
            if anchor not in {slug(heading) for heading in re.findall(r"^#+ (.+)$", prose_of(there), re.MULTILINE)}:
                broken.append(match[1])
    return broken

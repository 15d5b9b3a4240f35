"""Compiles the library and puts it into the wheel, which is for this platform and for every Python."""  # noqa: INP001  # a file that hatchling runs

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import platform_tags

_SUFFIXES = {".so", ".dylib", ".dll"}


class Compile(BuildHookInterface):  # type: ignore[type-arg]  # the builder's configuration, which nothing here looks at
    """Runs cargo. Raises CalledProcessError when that fails, OSError when it is not there."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """What hatchling calls before it packs a wheel; an editable one (``version``) is compiled, too."""
        del version
        command = ["cargo", "build", "--release", "--offline", "--message-format=json-render-diagnostics"]
        told = subprocess.run(command, cwd=self.root, check=True, stdout=subprocess.PIPE, text=True).stdout  # noqa: S603  # no input
        made = [json.loads(line) for line in told.splitlines() if line.startswith("{")]
        files = [Path(name) for one in made if one["reason"] == "compiler-artifact" for name in one["filenames"]]
        [library] = [file for file in files if file.suffix in _SUFFIXES]
        build_data["force_include"][str(library)] = f"tallyroll_core/{library.name}"
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{next(platform_tags())}"

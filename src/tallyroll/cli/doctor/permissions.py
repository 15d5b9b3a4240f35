"""The check of ``tallyroll doctor`` on who may use the files of the data folder."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from tallyroll.cli.doctor.checks import Check
from tallyroll.cli.printing import number
from tallyroll.opening import audit_folder
from tallyroll.settings import Settings


class _Mode(NamedTuple):
    path: Path
    mode: int

    def __str__(self) -> str:
        return f"{self.path} (mode {stat.S_IMODE(self.mode):04o})"


def permission_checks(settings: Settings) -> Iterator[Check]:
    """Nothing where only its owner may write. The ledger is made for its owner alone; keys that others can use are not opened at all."""
    if settings.in_memory:
        return
    data, audit = settings.data_dir, audit_folder(settings)
    modes = list(_modes(chain([data], data.glob("*"), data.glob("*/*"))))
    if open_to_all := [one for one in modes if one.mode & stat.S_IWOTH and not one.mode & stat.S_ISVTX]:
        says = f"everybody on this machine may write to {number(len(open_to_all))} of the files and folders"
        yield Check("files", "warn", f"{says}, first {open_to_all[0]}", f"chmod -R o-w {data}, and give it to one user only")
    ledger = [one for one in modes if one.path.parent == audit and one.path.name.startswith("ledger.sqlite")]
    if others := [one for one in ledger if one.mode & (stat.S_IRWXG | stat.S_IRWXO)]:
        yield Check("files", "warn", f"others than its owner may use {others[0]}", f"chmod 600 {' '.join(str(one.path) for one in others)}")


def _modes(paths: Iterator[Path]) -> Iterator[_Mode]:
    for path in paths:
        try:
            mode = path.lstat().st_mode
        except OSError:  # gone meanwhile, or in a folder that this user may not enter
            continue
        if not stat.S_ISLNK(mode):
            yield _Mode(path, mode)

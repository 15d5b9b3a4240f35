"""The compiled core of tallyroll: where its library lies. ``tallyroll.compiled`` opens it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

__version__: Final = "0.1.0"
_NAMES: Final = {"darwin": "libtallyroll_core.dylib", "win32": "tallyroll_core.dll"}


def library() -> Path:
    """The shared library that came with this package. Not promised: that it is there, in a source tree that was not built."""
    return Path(__file__).with_name(_NAMES.get(sys.platform, "libtallyroll_core.so"))

"""Files of the user's own that settings name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tallyroll.errors import SettingsError

_T = TypeVar("_T")


def declared_in(path: Path, variable: str, parse: Callable[[str], _T]) -> _T:
    """What a file declares. Raises SettingsError naming the variable where it cannot be read, or ``parse`` raises ValueError."""
    try:
        return parse(path.read_text("utf-8"))
    except SettingsError:
        raise
    except OSError as error:
        raise SettingsError(variable, f"cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise SettingsError(variable, str(error)) from error

"""Settings that are made in code: whether each value is of the kind that its field takes."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, Final, get_args, get_origin

from tallyroll.errors import SettingsError
from tallyroll.settings.secret import Secret

if TYPE_CHECKING:
    from tallyroll.settings.settings import Settings
    from tallyroll.settings.sources import Variable

_KINDS: Final[Mapping[Any, str]] = {str: "text", bool: "true or false", Path: "a path", Secret: "a Secret", Mapping: "a table"}


def check_kinds(settings: Settings) -> None:
    """Raises SettingsError for a value of another kind; those of the environment and of files have theirs already."""
    kinds = _kinds(type(settings))  # type: ignore[arg-type]  # the class is hashable; mypy looks at its objects
    for item in fields(settings):
        value = getattr(settings, item.name)
        if item.name not in kinds or isinstance(value, kinds[item.name]):
            continue
        word = next(word for kind, word in _KINDS.items() if kind in kinds[item.name])
        variable: Variable = item.metadata["variable"]
        accepts = f" ({variable.accepts})" if kinds[item.name] == (str,) and variable.accepts != word else ""
        raise SettingsError(variable.env, f"expected {word}{accepts}, got {type(value).__name__}")


@cache
def _kinds(cls: type) -> Mapping[str, tuple[type, ...]]:
    """Of the fields that hold something else than a number or a choice, what their values are."""
    hints: Mapping[str, Any] = typing.get_type_hints(cls)
    options = {name: (Mapping,) if get_origin(hint) is Mapping else get_args(hint) or (hint,) for name, hint in hints.items()}
    kinds = {name: tuple(one for one in has if one in _KINDS or one is NoneType) for name, has in options.items()}
    return {name: has for name, has in kinds.items() if set(has) - {NoneType}}

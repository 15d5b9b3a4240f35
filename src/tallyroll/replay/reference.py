"""Code by name, ``module:name``: how reducers and predicates reach other processes."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any


def reference(code: Callable[..., object], what: str) -> str:
    """``module:name`` by which another process finds the same function or class. Raises ValueError where there is none."""
    module, name = getattr(code, "__module__", None), getattr(code, "__qualname__", "")
    if module in (None, "__main__") or "<" in name or not name:
        raise ValueError(f"{what}: other processes cannot import it; define it by name at the top of a module that can be imported")
    return f"{module}:{name}"


def resolve(named: str, what: str) -> Any:  # noqa: ANN401  # whatever the name stands for
    """What a reference names. Raises ValueError."""
    module, _, name = named.partition(":")
    try:
        found: Any = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{what}: {named} cannot be imported ({type(error).__name__})") from None
    return found

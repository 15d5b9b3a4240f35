"""The configuration file as it could be: every setting, its default, what it does."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, Final

from tallyroll.settings import CONFIG_VARIABLE, Secret, Settings, Variable

_WIDE: Final = 120
_HEAD: Final = f"""\
# Settings of tallyroll. Name this file by --config or {CONFIG_VARIABLE}; a variable of the environment wins over it.
#
# A line without a blank after its # is a setting with its default: take the # away and change the value.
# "" counts as not set. Times are in milliseconds and sizes in bytes, as the names say.
# What has a common first word may stand in a table: redis_host as host under [redis], kafka_producer as [kafka.producer].
# A table reaches to the next one, so tables come after everything else.
# No secret is taken here, only the name of a file that holds it.
"""


def example_text() -> str:
    """The file. As it is, and with every setting uncommented, it says the same as no file."""
    return _HEAD + "".join(f"\n{_entry(item)}" for item in fields(Settings))


def _entry(item: Field[Any]) -> str:
    variable: Variable = item.metadata["variable"]
    secret = Secret.__name__ in str(item.type)
    name = f"{item.name}_file" if secret else item.name
    accepts = variable.accepts or f"a number of {variable.unit}"
    if item.default is MISSING:  # a variable has them as JSON
        accepts = "a table"
    env = f"{variable.env}_FILE" if secret else variable.env
    takes = f"a file with {accepts}" if secret else accepts
    return "".join(f"# {line}\n" for line in _lines(variable.help, f"{env}: {takes}")) + f"#{name} = {_literal(item)}\n"


def _lines(*texts: str) -> Iterator[str]:
    for text in texts:
        yield from textwrap.wrap(text, _WIDE, break_long_words=False, break_on_hyphens=False)


def _literal(item: Field[Any]) -> str:
    default = item.default if item.default is not MISSING else {}
    if isinstance(default, Mapping):
        return "{}"
    if isinstance(default, bool):
        return str(default).lower()
    return str(default) if isinstance(default, int) else f'"{default or ""}"'

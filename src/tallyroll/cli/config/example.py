"""The configuration file as it could be: every setting, its default, what it does."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, Final, NamedTuple

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


class ExampleSetting(NamedTuple):
    """A setting as the file takes it: of a secret the name of a file that holds it. ``default`` is None where there is none."""

    name: str
    variable: str
    accepts: str
    default: Any
    help: str


def example_settings() -> Iterator[ExampleSetting]:
    """Every setting that the file may hold."""
    return map(_setting, fields(Settings))


def example_text() -> str:
    """The file. As it is, and with every setting uncommented, it says the same as no file."""
    return _HEAD + "".join(f"\n{_entry(one)}" for one in example_settings())


def _setting(item: Field[Any]) -> ExampleSetting:
    variable: Variable = item.metadata["variable"]
    if item.default is MISSING:  # a variable has them as JSON
        return ExampleSetting(item.name, variable.env, "a table", {}, variable.help)
    accepts = variable.accepts or f"a number of {variable.unit}"
    default = str(item.default) if isinstance(item.default, Path) else item.default
    if Secret.__name__ in str(item.type):
        return ExampleSetting(f"{item.name}_file", f"{variable.env}_FILE", f"a file with {accepts}", default, variable.help)
    return ExampleSetting(item.name, variable.env, accepts, default, variable.help)


def _entry(one: ExampleSetting) -> str:
    said = "".join(f"# {line}\n" for line in _lines(one.help, f"{one.variable}: {one.accepts}"))
    return f"{said}#{one.name} = {_literal(one.default)}\n"


def _lines(*texts: str) -> Iterator[str]:
    for text in texts:
        yield from textwrap.wrap(text, _WIDE, break_long_words=False, break_on_hyphens=False)


def _literal(default: Any) -> str:  # noqa: ANN401  # of any setting
    if isinstance(default, Mapping):
        return "{}"
    if isinstance(default, bool):
        return str(default).lower()
    return str(default) if isinstance(default, int) else f'"{default or ""}"'

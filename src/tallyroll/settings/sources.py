"""Where settings come from: variables of the environment, and one TOML file; how a value is written there.

Knows no setting by name: what there is comes in as ``Declared``, so that a new setting is one field of ``Settings``.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, get_args, get_origin

from tallyroll.errors import SecretInFile, SettingsError, UnknownSetting
from tallyroll.settings.secret import Secret

BOOTSTRAP_VARIABLE: Final = "KAFKA_BOOTSTRAP_SERVERS"
"""Stands for ``TALLYROLL_URL=kafka://…``."""

CONFIG_VARIABLE: Final = "TALLYROLL_CONFIG"
"""Names the TOML file."""

_FILE: Final = "_FILE"  # after the variable of a secret: where its value lies
_URL: Final = "url"
_TRUE: Final = frozenset({"true", "1", "yes", "on"})
_FALSE: Final = frozenset({"false", "0", "no", "off"})


@dataclass(frozen=True, slots=True)
class Variable:
    """What the documentation says of one setting."""

    env: str
    unit: str
    accepts: str
    help: str
    least: int | None = None  # both inclusive
    most: int | None = None


class Declared(NamedTuple):
    """One setting as it is declared: its documentation and the type of its value."""

    variable: Variable
    hint: Any

    @property
    def secret(self) -> bool:
        """Whether its value must not be seen."""
        return Secret in get_args(self.hint)


class Source(NamedTuple):
    """Where a value comes from, and what it is called there: a variable, a key of the file, an option or argument."""

    kind: Literal["default", "file", "environment", "given"]
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}".rstrip()


DEFAULT: Final = Source("default")


class Found(NamedTuple):
    """A value, and where it was found."""

    value: Any
    source: Source


def from_environment(declared: Mapping[str, Declared], environ: Mapping[str, str]) -> dict[str, Found]:
    """By field name what the variables say; an empty one says nothing. Raises SettingsError naming the variable."""
    found: dict[str, Found] = {}
    for name, one in declared.items():
        env = one.variable.env
        text, file_name = environ.get(env), environ.get(env + _FILE) if one.secret else None
        if text and file_name:
            raise SettingsError(env, f"given twice, also as {env}{_FILE}")
        if file_name:
            found[name] = Found(Secret(_read_secret(env + _FILE, Path(file_name))), Source("environment", env + _FILE))
        elif text:
            found[name] = Found(_parse(one, text), Source("environment", env))
    servers = environ.get(BOOTSTRAP_VARIABLE)
    if servers and _URL not in found:
        found[_URL] = Found(f"kafka://{servers}", Source("environment", BOOTSTRAP_VARIABLE))
    return found


def from_file(declared: Mapping[str, Declared], path: Path) -> dict[str, Found]:
    """By field name what the file says; an empty text says nothing. ``redis_host`` may stand as ``host`` in a table ``[redis]``.

    Raises UnknownSetting for any other key, SecretInFile for a secret in the clear, SettingsError naming file and key else.
    """
    found: dict[str, Found] = {}
    for name, key, value in _leaves(declared, _read_toml(path)):
        where = f"{path}: {key}"
        secret = name.removesuffix("_file")
        if value and name in declared and declared[name].secret:
            raise SecretInFile(where, f"{key}_file", declared[name].variable.env)
        if name not in declared and not (secret in declared and declared[secret].secret):
            near = difflib.get_close_matches(name, _names(declared), n=1)
            raise UnknownSetting(where, near[0] if near else None)
        field = name if name in declared else secret
        if value == "":
            continue
        if field in found:
            raise SettingsError(where, f"given twice, also as {found[field].source.name}")
        if field == name:
            found[field] = Found(_take(where, declared[field], value), Source("file", key))
        else:
            found[field] = Found(Secret(_read_secret(where, Path(_text(where, value)))), Source("file", key))
    return found


def _names(declared: Mapping[str, Declared]) -> list[str]:
    return [f"{name}_file" if one.secret else name for name, one in declared.items()]


def _leaves(declared: Mapping[str, Declared], table: Mapping[str, Any], words: tuple[str, ...] = ()) -> Iterator[tuple[str, str, Any]]:
    """Every key of a table and of those in it: as a field's name, as it is written, and its value."""
    for word, value in table.items():
        name, key = "_".join((*words, word)), ".".join((*words, word))
        whole = name in declared and get_origin(declared[name].hint) is Mapping
        if isinstance(value, dict) and value and not whole:
            yield from _leaves(declared, value, (*words, word))
        else:
            yield name, key, value


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(str(path), f"cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise SettingsError(str(path), "is not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        where = str(error).rpartition("(")[2].rstrip(")")  # the rest may quote what stands there
        raise SettingsError(str(path), f"is not TOML ({where})") from None


def _read_secret(name: str, path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(name, f"cannot be read: {type(error).__name__}") from None
    if not text:
        raise SettingsError(name, "the file is empty")
    return text


# A value in a file


def _take(where: str, one: Declared, value: Any) -> Any:  # noqa: ANN401  # whatever TOML has
    options = get_args(one.hint)
    if get_origin(one.hint) is Literal:
        return _choose(where, options, _text(where, value))
    if one.hint is bool:
        if not isinstance(value, bool):
            raise SettingsError(where, "expected true or false")
        return value
    if one.hint is int or int in options:
        if not isinstance(value, int) or isinstance(value, bool):
            raise SettingsError(where, f"expected a whole number{f' of {one.variable.unit}' if one.variable.unit else ''}")
        return value
    if get_origin(one.hint) is Mapping:
        if not isinstance(value, dict):
            raise SettingsError(where, "expected a table")
        return value
    text = _text(where, value)
    return Path(text) if one.hint is Path or Path in options else text


def _text(where: str, value: Any) -> str:  # noqa: ANN401  # as above
    if not isinstance(value, str):
        raise SettingsError(where, 'expected text in quotes, "…"')
    return value


# A value in a variable


def _parse(one: Declared, text: str) -> Any:  # noqa: ANN401, PLR0911
    variable, hint = one
    options = get_args(hint)
    if get_origin(hint) is Literal:
        return _choose(variable.env, options, text)
    if hint is bool:
        if text.lower() in _TRUE | _FALSE:
            return text.lower() in _TRUE
        raise SettingsError(variable.env, f"expected one of {', '.join(sorted(_TRUE | _FALSE))}")
    if hint is int or int in options:
        try:
            return int(text)
        except ValueError:
            raise SettingsError(variable.env, f"expected a whole number{f' of {variable.unit}' if variable.unit else ''}") from None
    if hint is Path or Path in options:
        return Path(text)
    if Secret in options:
        return Secret(text)
    if get_origin(hint) is Mapping:
        return _parse_json(variable, text)
    return text


def _choose(where: str, options: tuple[str, ...], text: str) -> str:
    for option in options:
        if option.lower() == text.lower():
            return option
    raise SettingsError(where, f"expected one of {', '.join(options)}")


def _parse_json(variable: Variable, text: str) -> dict[str, Any]:
    import json  # noqa: PLC0415  # only when such a variable is set

    try:
        value = json.loads(text)
    except ValueError:
        raise SettingsError(variable.env, f"expected {variable.accepts}") from None
    if not isinstance(value, dict):
        raise SettingsError(variable.env, f"expected {variable.accepts}")
    return value

"""``tallyroll config``: the settings in force and where they come from, and a file of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import typer

from tallyroll.cli.config.example import example_settings, example_text
from tallyroll.cli.doctor.checks import Check, config_check, setting_checks, url_check
from tallyroll.cli.printing import paint, plain, say, say_json
from tallyroll.cli.session import Json, Url, examples, group_of, session_of, verbs
from tallyroll.cli.verdicts import show as show_checks
from tallyroll.errors import MissingExtra
from tallyroll.events.types import known_types
from tallyroll.settings import Secret, Settings, Source, variable_of

app = verbs()
group_of(
    app,
    "The settings in force and where they come from; a file of them, checked.",
    "tallyroll config example > tallyroll.toml",
    "tallyroll --config tallyroll.toml config check",
    "tallyroll config show",
)

_FILES: Final = ("metrics_file", "alerts_file", "kafka_ssl_ca", "kafka_ssl_certificate", "kafka_ssl_key", "audit_rules")


@app.command(epilog=examples("tallyroll config show", "tallyroll --config tallyroll.toml config show --json"))
def show(context: typer.Context, *, url: Url = None, json: Json = False) -> None:
    """Every setting with its value and where that comes from: the default, the file, a variable, an option.

    Secrets are shown as ***, of a webhook's address only the host.
    """
    session = session_of(context, url, json)
    settings, sources = session.settings_and_sources()
    rows = list(_rows(settings, sources))
    if session.json:
        say_json({"file": str(session.file) if session.file else None, "settings": rows})
        return
    wide = max(len(row["name"]) for row in rows)
    for row in rows:
        value = "not set" if row["value"] in (None, "") else _text(row["value"])
        source = "" if row["source"] == "default" else f"{row['source']} {row['from']}".rstrip()
        say(f"{row['name'].ljust(wide)}  {plain(value)}" + (f"  {paint(f'({plain(source)})', 'dim')}" if source else ""))


@app.command(epilog=examples("tallyroll --config tallyroll.toml config check", "tallyroll config check --json"))
def check(context: typer.Context, *, url: Url = None, json: Json = False) -> None:
    """Check the settings by themselves; nothing is connected to. Exit code 2 for one that is refused, 1 for one that cannot work.

    'tallyroll doctor' also looks at what they lead to.
    """
    session = session_of(context, url, json)
    settings, sources = session.settings_and_sources()
    found = [config_check(session.file, sources), url_check(settings, sources, os.environ), *setting_checks(settings, os.environ)]
    show_checks([*found, *_named_files(settings), *_contents(settings)], json=session.json)


@app.command(epilog=examples("tallyroll config example > tallyroll.toml"))
def example(*, json: Json = False) -> None:
    """A file with every setting, its default and what it does, all commented out."""
    if json:
        say_json([one._asdict() for one in example_settings()])
    else:
        sys.stdout.write(example_text())


def _rows(settings: Settings, sources: Mapping[str, Source]) -> Iterator[dict[str, Any]]:
    for item in fields(settings):
        source = sources[item.name]
        shown = _shown(item.name, getattr(settings, item.name))
        yield {"name": item.name, "variable": variable_of(item.name).env, "value": shown, "source": source.kind, "from": source.name}


def _shown(name: str, value: Any) -> Any:  # noqa: ANN401  # of any setting
    """The value as plain data; nothing that may be secret."""
    if isinstance(value, Secret):
        return str(value)
    if isinstance(value, Path):
        return str(value)
    if name.endswith("webhook_url") and value:
        parts = urlsplit(value)  # many receivers know their sender by the path alone
        return f"{parts.scheme}://{parts.netloc}/***" if parts.path.strip("/") or parts.query else value
    return dict(value) if isinstance(value, Mapping) else value


def _text(value: Any) -> str:  # noqa: ANN401  # as above
    return str(value).lower() if isinstance(value, bool) else str(value)


def _named_files(settings: Settings) -> Iterator[Check]:
    for name in _FILES:
        path: Path | None = getattr(settings, name, None)
        if path is not None and not os.access(path, os.R_OK):
            yield Check("files", "fail", f"{variable_of(name).env}: {path} cannot be read", "mend the path or its permissions")


def _contents(settings: Settings) -> Iterator[Check]:
    """Whether own metrics and alert rules hold together. Raises SettingsError."""
    if settings.metrics_file is None and settings.alerts_file is None:
        return
    from tallyroll.analytics.spec import unheard  # noqa: PLC0415  # only who has such files needs the extra
    from tallyroll.opening import alert_rules_of, metrics_of  # noqa: PLC0415  # as above

    specs = metrics_of(settings)
    for doubt in unheard(specs, [info.name for info in known_types()]):
        yield Check("files", "warn", doubt, "mend the name; one of your own types is counted as it is")
    try:
        alert_rules_of(settings, specs)
    except (MissingExtra, ModuleNotFoundError):
        yield Check("files", "warn", "own metrics and alerts cannot be read here", "pip install 'tallyroll[analytics]'")

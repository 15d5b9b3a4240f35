"""The checks of ``tallyroll doctor`` that read settings and environment only. Pure: no check shows a value that may be secret."""

from __future__ import annotations

import difflib
import ipaddress
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Final, Literal, NamedTuple

from tallyroll.settings import BOOTSTRAP_VARIABLE, CONFIG_VARIABLE, Secret, Settings, Source, Variable
from tallyroll.settings.kafka_options import delivery_warnings, parse_servers

Verdict = Literal["ok", "warn", "fail"]

URL_VARIABLE: Final = "TALLYROLL_URL"
_PREFIX: Final = "TALLYROLL_"
_DEBUG: Final = "TALLYROLL_DEBUG"


class Check(NamedTuple):
    """One thing that was looked at: the verdict, what was found, and what to do next where something is to be done."""

    name: str
    verdict: Verdict
    says: str
    next: str = ""


def url_check(settings: Settings, sources: Mapping[str, Source], environ: Mapping[str, str]) -> Check:
    """Which log is in force and who said so."""
    source = sources["url"]
    url, servers = environ.get(URL_VARIABLE), environ.get(BOOTSTRAP_VARIABLE)
    why = {"given": "--url", "default": "the default; nothing names a log", "file": f"{source.name} of the file"}.get(
        source.kind, source.name
    )
    says = f"{settings.url}, from {why}"
    if url and servers and url != f"kafka://{servers}":
        return Check(
            "log", "warn", f"{says}; {BOOTSTRAP_VARIABLE} names another one and is ignored", f"unset {BOOTSTRAP_VARIABLE} or {URL_VARIABLE}"
        )
    return Check("log", "ok", says)


def config_check(file: Path | None, sources: Mapping[str, Source]) -> Check:
    """Where the settings come from."""
    counts = Counter(source.kind for source in sources.values())
    named = f"{file}: {counts['file']} in force" if file is not None else f"no file ({CONFIG_VARIABLE} names one)"
    return Check("config", "ok", f"{named}; from variables: {counts['environment']}; the other settings have their defaults")


def setting_checks(settings: Settings, environ: Mapping[str, str]) -> Iterator[Check]:
    """Settings that lose events, lower security, contradict each other, or are not ours at all."""
    found = [*_unknown(environ), *_secrets(environ), *(_kafka(settings) if settings.is_kafka else _embedded(settings))]
    if settings.is_kafka:
        found += [
            Check("delivery", "warn", warning, "leave acks and enable_idempotence at their defaults")
            for warning in delivery_warnings(settings.kafka_producer)
        ]
    yield from found or [Check("settings", "ok", "nothing loses events, nothing contradicts")]


def _variable(metadata: Mapping[str, Variable]) -> Variable:
    return metadata["variable"]


def _unknown(environ: Mapping[str, str]) -> Iterator[Check]:
    known = {_variable(item.metadata).env for item in fields(Settings)} | {BOOTSTRAP_VARIABLE, CONFIG_VARIABLE, _DEBUG}
    known |= {f"{name}_FILE" for name in known}
    for name in sorted(environ):
        if name.startswith(_PREFIX) and name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else "remove it, or see the settings page"
            yield Check("settings", "warn", f"{name} is not a setting and does nothing", hint)


def _secrets(environ: Mapping[str, str]) -> Iterator[Check]:
    for item in fields(Settings):
        variable = _variable(item.metadata)
        if Secret.__name__ in str(item.type) and environ.get(variable.env):
            yield Check(
                "settings",
                "warn",
                f"{variable.env} holds a secret in the environment, where other programs may see it",
                f"put it into a file and set {variable.env}_FILE",
            )


def _embedded(settings: Settings) -> Iterator[Check]:
    if settings.in_memory:
        yield Check("durability", "warn", "the log is in memory and ends with each command", "set TALLYROLL_URL=sqlite:///FOLDER")
    elif settings.sqlite_synchronous == "NORMAL":
        yield Check("durability", "warn", "a power cut may take the newest acknowledged events", "set TALLYROLL_SQLITE_SYNCHRONOUS=FULL")


def _kafka(settings: Settings) -> Iterator[Check]:
    protocol = settings.kafka_security_protocol
    if not protocol.endswith("SSL") and not _is_local(settings):
        yield Check("security", "warn", f"{protocol}: events cross the network unencrypted", "set KAFKA_SECURITY_PROTOCOL=SSL or SASL_SSL")
    if protocol == "SASL_PLAINTEXT" and settings.kafka_sasl_mechanism == "PLAIN":
        yield Check("security", "warn", "the password crosses the network as it is", "set KAFKA_SECURITY_PROTOCOL=SASL_SSL")
    if settings.kafka_tls_minimum != "1.3":
        yield Check("security", "warn", f"TLS {settings.kafka_tls_minimum} is accepted", "set TALLYROLL_KAFKA_TLS_MINIMUM=1.3")
    if not protocol.startswith("SASL") and (settings.kafka_sasl_username or settings.kafka_sasl_password):
        yield Check(
            "security", "warn", f"a SASL user or password is set, and {protocol} does not use it", "set KAFKA_SECURITY_PROTOCOL=SASL_SSL"
        )
    if settings.kafka_consumer.get("auto_offset_reset") == "latest":
        yield Check("following", "warn", "auto_offset_reset=latest: a new follower skips what is there", "leave it at earliest")


def _is_local(settings: Settings) -> bool:
    def local(host: str) -> bool:
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    return all(local(host) for host, _ in parse_servers(settings.bootstrap_servers))

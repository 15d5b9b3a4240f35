"""Which values of settings are refused, each by its variable and with what is accepted there. Pure."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Literal, get_args, get_origin
from urllib.parse import urlsplit

from tallyroll.errors import SettingsError
from tallyroll.events.topics import catalogue_of
from tallyroll.settings.kafka_options import check_consumer_options, check_producer_options, parse_servers
from tallyroll.settings.secret import key_bytes

if TYPE_CHECKING:
    from tallyroll.settings.settings import Settings
    from tallyroll.settings.sources import Variable

AUDIT_FRAMEWORK_NAMES: Final = ("sox", "gdpr", "hipaa", "pci_dss", "soc2", "iso27001", "nist", "eu_ai_act", "custom")
"""What AUDIT_FRAMEWORKS takes: the values of ``audit.entry.ComplianceFramework``."""

_HERE: Final = ("localhost", "127.0.0.1", "::1")
_KEY_ID_CHARS: Final = 8  # of a key that signs notes, in hex
_LEAST_SECRET: Final = 16  # characters; what can be guessed signs nothing
_MAX_NAME_CHARS: Final = 200  # Kafka takes 249 for a topic or a group; the rest is room for our own part of the name


def check(settings: Settings) -> None:
    """Raises SettingsError for the first value that cannot be."""
    _check_url(settings)
    _check_each(settings)
    _check_names(settings)
    catalogue_of(settings)  # what is refused of ``topics``
    _check_receivers(settings)
    _check_audit(settings)
    _check_security(settings)
    check_producer_options(settings.kafka_producer)
    check_consumer_options(settings.kafka_consumer)


def _check_url(settings: Settings) -> None:
    scheme, found, rest = settings.url.partition("://")
    if not found or scheme not in ("sqlite", "kafka") or not rest:
        raise SettingsError("TALLYROLL_URL", "expected sqlite:///FOLDER, sqlite://:memory: or kafka://HOST:PORT,…")
    if scheme == "kafka":
        try:
            parse_servers(rest)
        except ValueError:
            raise SettingsError(
                "TALLYROLL_URL",
                "expected kafka://HOST:PORT,… (or HOST:PORT,… alone where brokers are named), without user, password or path",
            ) from None
    if scheme == "sqlite" and rest != ":memory:" and (not rest.startswith("/") or rest == "/"):
        raise SettingsError("TALLYROLL_URL", "a folder follows sqlite:/// (relative), sqlite://// (absolute)")
    if not settings.wait_for_ack and not settings.is_kafka:
        raise SettingsError("KAFKA_WAIT_FOR_ACK", "false needs the spool before a Kafka log; the embedded log is on disk already")


def _check_each(settings: Settings) -> None:
    choices = _choices(type(settings))  # type: ignore[arg-type]  # the class is hashable; mypy looks at its objects
    for item in fields(settings):
        variable: Variable = item.metadata["variable"]
        value = getattr(settings, item.name)
        if item.name in choices and value not in choices[item.name]:
            raise SettingsError(variable.env, f"expected one of {', '.join(choices[item.name])}")
        if variable.least is None or value is None:
            continue
        if not isinstance(value, int | float):
            raise SettingsError(variable.env, f"expected a number, got {type(value).__name__}")
        if variable.most is not None and not variable.least <= value <= variable.most:
            raise SettingsError(variable.env, f"expected {variable.least} to {variable.most}")
        if value < variable.least:
            raise SettingsError(variable.env, "expected more than 0" if variable.least else "expected 0 or more")


@cache
def _choices(cls: type) -> Mapping[str, tuple[str, ...]]:
    hints: Mapping[str, Any] = typing.get_type_hints(cls)
    return {name: get_args(hint) for name, hint in hints.items() if get_origin(hint) is Literal}


def _check_names(settings: Settings) -> None:
    names = {
        "TALLYROLL_TOPIC_PREFIX": settings.topic_prefix,
        "TALLYROLL_GROUP_PREFIX": settings.group_prefix,
        "TALLYROLL_INSTANCE_ID": settings.instance_id,
    }
    for variable, text in names.items():
        if len(text) > _MAX_NAME_CHARS or not all(c.isascii() and (c.isalnum() or c in "._-") for c in text):
            raise SettingsError(variable, f"expected letters, digits, dot, underscore, hyphen; at most {_MAX_NAME_CHARS}")
    if not settings.group_prefix:
        raise SettingsError("TALLYROLL_GROUP_PREFIX", "expected at least one letter or digit")


def _check_receivers(settings: Settings) -> None:
    url = urlsplit(settings.alerts_webhook_url)
    if settings.alerts_webhook_url and not (url.hostname and (url.scheme == "https" or (url.scheme == "http" and url.hostname in _HERE))):
        raise SettingsError("TALLYROLL_ALERTS_WEBHOOK_URL", "expected https://…; http:// only to this machine")
    if url.username or url.password:
        raise SettingsError("TALLYROLL_ALERTS_WEBHOOK_URL", "expected no user or password in it; what is posted is signed")
    if settings.alerts_webhook_secret is not None and len(settings.alerts_webhook_secret.reveal()) < _LEAST_SECRET:
        raise SettingsError("TALLYROLL_ALERTS_WEBHOOK_SECRET", f"expected at least {_LEAST_SECRET} characters")
    if not settings.redis_prefix.isprintable() or " " in settings.redis_prefix:
        raise SettingsError("TALLYROLL_REDIS_PREFIX", "expected text without blanks; none for no prefix")
    for server in filter(None, settings.nats_servers.split(",")):
        if urlsplit(server).scheme not in ("nats", "tls") or not urlsplit(server).hostname or "@" in server:
            raise SettingsError("NATS_SERVERS", "expected nats://HOST:PORT,… (or tls://) without user and password")


def _check_audit(settings: Settings) -> None:
    if settings.audit_secret_key is not None:
        key_bytes(settings.audit_secret_key)
    if unknown := sorted(set(settings.audit_frameworks_named) - set(AUDIT_FRAMEWORK_NAMES)):
        raise SettingsError("AUDIT_FRAMEWORKS", f"no framework: {', '.join(unknown)}; there are {', '.join(AUDIT_FRAMEWORK_NAMES)}")
    if settings.audit_keyring_is_remote:
        url = urlsplit(settings.audit_keyring)
        if not url.hostname or "@" in url.netloc or (url.scheme == "http" and url.hostname not in _HERE):
            raise SettingsError("AUDIT_KEYRING", "expected https://…; http:// only to this machine")
    elif settings.audit_keyring and not (
        settings.audit_keyring.startswith(("file:", "pkcs11:")) and settings.audit_keyring.partition(":")[2]
    ):
        raise SettingsError("AUDIT_KEYRING", "expected file:PATH, https://… or pkcs11:token=NAME?module-path=LIBRARY&pin-source=file:PATH")
    url = urlsplit(settings.audit_witness)
    here = url.scheme == "http" and url.hostname in _HERE
    if settings.audit_witness and not ((url.scheme == "file" and url.path) or (url.scheme == "https" and url.hostname) or here):
        raise SettingsError("AUDIT_WITNESS", "expected file:PATH or https://…; http:// only to this machine")
    if not all(len(key.partition("+")[2].partition("+")[0]) == _KEY_ID_CHARS for key in settings.audit_witness_keys_named):
        raise SettingsError("AUDIT_WITNESS_KEYS", "expected NAME+ID+BASE64, as the witness prints it")


def _check_security(settings: Settings) -> None:
    if settings.kafka_security_protocol.startswith("SASL"):
        if not settings.kafka_sasl_username:
            raise SettingsError("KAFKA_SASL_USERNAME", f"needed with {settings.kafka_security_protocol}")
        if settings.kafka_sasl_password is None:
            raise SettingsError(
                "KAFKA_SASL_PASSWORD", f"needed with {settings.kafka_security_protocol}; better as KAFKA_SASL_PASSWORD_FILE"
            )
    if (settings.kafka_ssl_certificate is None) != (settings.kafka_ssl_key is None):
        raise SettingsError("KAFKA_SSL_CERTIFICATE_LOCATION", "certificate and key are given together")

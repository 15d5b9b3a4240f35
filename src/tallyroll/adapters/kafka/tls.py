"""Whether the brokers speak a TLS that is good enough, asked once before the first client is made.

The client itself cannot talk below the minimum (see ``config``), but it would only try for ever. The probe says at once
what is wrong and what to do.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable
from typing import Final

from tallyroll.errors import SettingsError
from tallyroll.settings import Settings
from tallyroll.settings.kafka_options import parse_servers

_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_CONNECT_S: Final = 5.0  # a broker in another region answers within a second; more only delays the start


def probe_tls(settings: Settings, brokers: Iterable[tuple[str, int]] | None = None) -> list[str]:
    """Shakes hands with each broker (default: the bootstrap servers) and returns those that could not be reached.

    Checked: the lowest version, the authority, the host's name, the dates. Does nothing without TLS. Blocks, at most five
    seconds for each step of each broker. Raises SettingsError naming the setting for a broker that answers and is not good
    enough. One that cannot be reached may come later and is no reason not to start.
    """
    if not settings.kafka_security_protocol.endswith("SSL"):
        return []
    context = _context(settings)
    hosts = parse_servers(settings.bootstrap_servers) if brokers is None else brokers
    return [f"{host}:{port}" for host, port in hosts if not _shake_hands(context, host, port, settings.kafka_tls_minimum)]


def _context(settings: Settings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.kafka_ssl_ca)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError("KAFKA_SSL_CA_LOCATION", f"expected a readable PEM file ({type(error).__name__})") from None
    context.minimum_version = _VERSIONS[settings.kafka_tls_minimum]
    if settings.kafka_ssl_certificate is not None:
        secret = settings.kafka_ssl_key_password
        password = secret.reveal() if secret is not None else ""  # without any, OpenSSL would ask on the terminal
        try:
            context.load_cert_chain(settings.kafka_ssl_certificate, settings.kafka_ssl_key, password)
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(
                "KAFKA_SSL_CERTIFICATE_LOCATION",
                f"expected a readable PEM file, the key that belongs to it, and KAFKA_SSL_KEY_PASSWORD if that is encrypted "
                f"({type(error).__name__})",
            ) from None
    return context


def _shake_hands(context: ssl.SSLContext, host: str, port: int, minimum: str) -> bool:
    """True if the broker is good enough, False if it cannot be reached. Raises SettingsError."""
    try:
        connection = socket.create_connection((host, port), timeout=_CONNECT_S)
    except OSError:
        return False
    try:
        with connection, context.wrap_socket(connection, server_hostname=host):
            return True
    except ssl.SSLCertVerificationError as error:
        raise _distrusted(f"{host}:{port}", error) from None
    except TimeoutError:
        return False  # accepted by a system whose broker is frozen
    except (ssl.SSLError, OSError) as error:
        raise _refused(f"{host}:{port}", error, minimum) from None


def _distrusted(broker: str, error: ssl.SSLCertVerificationError) -> SettingsError:
    reason = error.verify_message or "its certificate cannot be verified"
    if "match" in reason or "name" in reason.lower():
        return SettingsError("TALLYROLL_URL", f"{broker}: {reason}; use a name that the broker's certificate has")
    if "expired" in reason or "not yet valid" in reason:
        return SettingsError(
            "KAFKA_SECURITY_PROTOCOL", f"{broker}: {reason}; renew the broker's certificate, or set this machine's clock right"
        )
    return SettingsError("KAFKA_SSL_CA_LOCATION", f"{broker}: {reason}; name the authority that signed the broker's certificate")


def _refused(broker: str, error: Exception, minimum: str) -> SettingsError:
    code = getattr(error, "reason", None) or type(error).__name__
    if code in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNEXPECTED_EOF_WHILE_READING", "ConnectionResetError", "SSLEOFError"):
        return SettingsError("KAFKA_SECURITY_PROTOCOL", f"{broker} does not answer in TLS ({code}); use the address of its TLS listener")
    return SettingsError(
        "TALLYROLL_KAFKA_TLS_MINIMUM",
        f"{broker} does not speak TLS {minimum} ({code}); turn it on at the broker (ssl.enabled.protocols)",
    )

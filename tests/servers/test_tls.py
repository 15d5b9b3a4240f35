"""TLS: the probe against real sockets, the client that cannot talk below 1.3, and a real broker."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from services import KafkaCluster, Tls
from tests.patience import PATIENCE_S

from tallyroll.adapters.kafka.admin import KafkaAdmin
from tallyroll.adapters.kafka.config import client_config
from tallyroll.adapters.kafka.tls import probe_tls
from tallyroll.errors import SettingsError
from tallyroll.settings import Secret, Settings

pytestmark = pytest.mark.server

CANARY = "canary-7f3a9c"
DAY = dt.timedelta(days=1)


@dataclass(frozen=True)
class Authority:
    """Signs certificates for this test; ``file`` is what clients trust."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / "ca.pem"

    def issue(self, name: str, *, host: str = "127.0.0.1", age: dt.timedelta = DAY, password: str | None = None) -> Path:
        """A PEM file with a key and the certificate for a host, from ``age`` ago for two days."""
        key = ec.generate_private_key(ec.SECP256R1())
        try:
            alternative: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            alternative = x509.DNSName(host)
        certificate = _signed(name, key.public_key(), (self.certificate.subject, self.key), x509.SubjectAlternativeName([alternative]), age)
        encryption = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
        file = self.folder / f"{name}.pem"
        file.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
            + certificate.public_bytes(serialization.Encoding.PEM)
            + self.certificate.public_bytes(serialization.Encoding.PEM)
        )
        return file


def _signed(name, public_key, issuer, extension, age) -> x509.Certificate:
    issuer_name, issuer_key = issuer
    now = dt.datetime.now(dt.UTC)  # certificates are checked against the machine's own clock
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer_name)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - age)
        .not_valid_after(now - age + 2 * DAY)
        .add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        .sign(issuer_key, hashes.SHA256())
    )


def new_authority(folder: Path) -> Authority:
    folder.mkdir()
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
    certificate = _signed("test authority", key.public_key(), (subject, key), x509.BasicConstraints(ca=True, path_length=None), DAY)
    authority = Authority(key, certificate, folder)
    authority.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return new_authority(tmp_path_factory.mktemp("tls") / "authority")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return new_authority(tmp_path_factory.mktemp("tls") / "stranger")


@contextlib.contextmanager
def listening(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port on 127.0.0.1 whose connections are handed to ``serve``, one after the other."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection, contextlib.suppress(OSError):
                    serve(connection)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join(PATIENCE_S)


@contextlib.contextmanager
def tls_server(pem: Path, *, highest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> Iterator[tuple[int, list[str | None]]]:
    """A TLS server, and the version of every handshake that came about."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = highest
    versions: list[str | None] = []

    def serve(connection: socket.socket) -> None:
        connection.settimeout(PATIENCE_S)
        with context.wrap_socket(connection, server_side=True) as secured:
            versions.append(secured.version())

    with listening(serve) as port:
        yield port, versions


def trusting(authority: Authority, port: int, *, host: str = "127.0.0.1", **more: object) -> Settings:
    settings = {"url": f"kafka://{host}:{port}", "kafka_security_protocol": "SSL", "kafka_ssl_ca": authority.file}
    return Settings(**{**settings, **more})


def test_a_broker_with_tls_1_3_is_accepted(authority: Authority) -> None:
    with tls_server(authority.issue("good")) as (port, versions):
        assert probe_tls(trusting(authority, port)) == []
    assert versions == ["TLSv1.3"]


def test_a_broker_with_tls_1_2_only_is_refused_with_what_to_do(authority: Authority) -> None:
    with tls_server(authority.issue("old"), highest=ssl.TLSVersion.TLSv1_2) as (port, versions):
        with pytest.raises(SettingsError, match=r"does not speak TLS 1\.3.*ssl\.enabled\.protocols") as caught:
            probe_tls(trusting(authority, port))
        assert caught.value.name == "TALLYROLL_KAFKA_TLS_MINIMUM"
    assert versions == []


def test_tls_1_2_is_accepted_when_it_is_asked_for_by_name(authority: Authority) -> None:
    with tls_server(authority.issue("old"), highest=ssl.TLSVersion.TLSv1_2) as (port, versions):
        assert probe_tls(trusting(authority, port, kafka_tls_minimum="1.2")) == []
    assert versions == ["TLSv1.2"]


def test_a_foreign_authority_is_refused(authority: Authority, stranger: Authority) -> None:
    with tls_server(stranger.issue("foreign")) as (port, _), pytest.raises(SettingsError, match="name the authority") as caught:
        probe_tls(trusting(authority, port))
    assert caught.value.name == "KAFKA_SSL_CA_LOCATION"


def test_without_an_authority_the_systems_are_asked(authority: Authority) -> None:
    with tls_server(authority.issue("good")) as (port, _), pytest.raises(SettingsError) as caught:
        probe_tls(Settings(url=f"kafka://127.0.0.1:{port}", kafka_security_protocol="SSL"))
    assert caught.value.name == "KAFKA_SSL_CA_LOCATION"


@pytest.mark.parametrize("names", [("elsewhere.example", "127.0.0.1"), ("127.0.0.1", "localhost")], ids=["address", "name"])
def test_a_certificate_for_another_host_is_refused(authority: Authority, names: tuple[str, str]) -> None:
    certified, asked = names
    with tls_server(authority.issue("other", host=certified)) as (port, _), pytest.raises(SettingsError, match="certificate has") as caught:
        probe_tls(trusting(authority, port, host=asked))
    assert caught.value.name == "TALLYROLL_URL"


@pytest.mark.parametrize(("age", "word"), [(4 * DAY, "expired"), (-DAY, "not yet valid")])
def test_a_certificate_outside_its_dates_is_refused(authority: Authority, age: dt.timedelta, word: str) -> None:
    with tls_server(authority.issue("dated", age=age)) as (port, _), pytest.raises(SettingsError, match=f"{word}.*renew"):
        probe_tls(trusting(authority, port))


def test_a_listener_without_tls_is_refused(authority: Authority) -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(1024)  # then closes, as a broker does with bytes that are no request of Kafka's

    with listening(serve) as port, pytest.raises(SettingsError, match="does not answer in TLS") as caught:
        probe_tls(trusting(authority, port))
    assert caught.value.name == "KAFKA_SECURITY_PROTOCOL"


def test_a_broker_that_cannot_be_reached_is_named_and_no_reason_not_to_start(authority: Authority) -> None:
    with tls_server(authority.issue("good")) as (port, _):
        settings = Settings(url=f"kafka://127.0.0.1:1,127.0.0.1:{port}", kafka_security_protocol="SSL", kafka_ssl_ca=authority.file)
        assert probe_tls(settings) == ["127.0.0.1:1"]


def test_one_bad_broker_among_good_ones_is_refused(authority: Authority) -> None:
    with tls_server(authority.issue("good")) as (good, _), tls_server(authority.issue("old"), highest=ssl.TLSVersion.TLSv1_2) as (old, _):
        settings = Settings(url=f"kafka://127.0.0.1:{good},127.0.0.1:{old}", kafka_security_protocol="SSL", kafka_ssl_ca=authority.file)
        with pytest.raises(SettingsError, match=f"127.0.0.1:{old}"):
            probe_tls(settings)


def test_brokers_met_later_are_probed_by_address(authority: Authority) -> None:
    with tls_server(authority.issue("good")) as (good, versions):
        assert probe_tls(trusting(authority, 1), [("127.0.0.1", good)]) == []
    assert versions == ["TLSv1.3"]


def test_without_tls_nothing_is_probed() -> None:
    assert probe_tls(Settings(url="kafka://127.0.0.1:1")) == []


@pytest.mark.parametrize("field", ["kafka_ssl_ca", "kafka_ssl_certificate"])
@pytest.mark.parametrize("content", [None, "no PEM"], ids=["missing", "no PEM"])
def test_a_file_that_is_no_pem_is_refused_by_name(authority: Authority, tmp_path: Path, field: str, content: str | None) -> None:
    file = tmp_path / "file.pem"
    if content is not None:
        file.write_text(content)
    more = {"kafka_ssl_certificate": file, "kafka_ssl_key": file} if field == "kafka_ssl_certificate" else {"kafka_ssl_ca": file}
    with pytest.raises(SettingsError, match="PEM file") as caught:
        probe_tls(trusting(authority, 1, **more))
    assert caught.value.name in ("KAFKA_SSL_CA_LOCATION", "KAFKA_SSL_CERTIFICATE_LOCATION")


@pytest.mark.parametrize("password", [None, Secret(CANARY)], ids=["none", "wrong"])
def test_an_encrypted_key_without_its_password_is_refused_and_nobody_is_asked(authority: Authority, password: Secret | None) -> None:
    pem = authority.issue("locked", password="the right one")  # noqa: S106  # of this test only
    with pytest.raises(SettingsError, match="KAFKA_SSL_KEY_PASSWORD") as caught:
        probe_tls(trusting(authority, 1, kafka_ssl_certificate=pem, kafka_ssl_key=pem, kafka_ssl_key_password=password))
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    ("minimum", "highest", "spoken"),
    [("1.3", ssl.TLSVersion.TLSv1_2, set()), ("1.3", ssl.TLSVersion.TLSv1_3, {"TLSv1.3"}), ("1.2", ssl.TLSVersion.TLSv1_2, {"TLSv1.2"})],
    ids=["1.2-refused", "1.3", "1.2-by-name"],
)
def test_the_client_itself_cannot_talk_below_the_minimum(
    authority: Authority, minimum: str, highest: ssl.TLSVersion, spoken: set[str]
) -> None:
    """Without any probe, so that it also holds for brokers that are met later."""
    with tls_server(authority.issue("server"), highest=highest) as (port, versions):
        client = AdminClient(client_config(trusting(authority, port, kafka_tls_minimum=minimum)))
        with pytest.raises(KafkaException):  # no Kafka behind it
            client.list_topics(timeout=0.5)
        deadline = time.monotonic() + PATIENCE_S
        while set(versions) != spoken and time.monotonic() < deadline:
            client.poll(0.05)
        assert set(versions) == spoken


@pytest.fixture(scope="module")
def secure_kafka(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    tls = Tls(keystore=authority.issue("broker"), truststore=authority.file)
    with KafkaCluster(tmp_path_factory.mktemp("tls-kafka"), tls=tls) as cluster:
        yield cluster


async def test_a_real_broker_is_reached_by_tls_1_3_and_our_certificate(authority: Authority, secure_kafka: KafkaCluster) -> None:
    pem = authority.issue("client", password=CANARY)
    settings = Settings(
        url=f"kafka://{secure_kafka.tls_bootstrap}",
        kafka_security_protocol="SSL",
        kafka_ssl_ca=authority.file,
        kafka_ssl_certificate=pem,
        kafka_ssl_key=pem,
        kafka_ssl_key_password=Secret(CANARY),
    )
    admin = await KafkaAdmin.open(settings)
    assert await admin.broker_count() == 1


async def test_the_plain_listener_of_a_real_broker_is_not_taken_for_tls(authority: Authority, secure_kafka: KafkaCluster) -> None:
    settings = Settings(url=f"kafka://{secure_kafka.bootstrap}", kafka_security_protocol="SSL", kafka_ssl_ca=authority.file)
    with pytest.raises(SettingsError, match="TLS listener"):
        await KafkaAdmin.open(settings)

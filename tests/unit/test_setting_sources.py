"""One TOML file and the environment: every setting can be reached, the environment wins, slips and secrets are refused by name."""

from __future__ import annotations

import contextlib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.test_settings import COMPANIONS, IDS, VARIABLES

from tallyroll.cli.config.example import example_text
from tallyroll.errors import SecretInFile, SettingsError, UnknownSetting
from tallyroll.settings import Secret, Settings, Source, settings_and_sources

CANARY = "canary-5d1c77a0e2"
EXAMPLE = Path(__file__).parents[2] / "deploy" / "tallyroll.toml"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tallyroll.toml"


def read(file: Path, text: str, environ: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
    file.write_text(text)
    return Settings.from_toml(file, environ or {}, **overrides)


def as_toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(name)} = {as_toml(one)}" for name, one in value.items()) + "}"
    return json.dumps(value if isinstance(value, (bool, int, float)) else str(value))


@pytest.mark.parametrize(("env", "name", "default", "good", "value", "bad"), VARIABLES, ids=IDS)
def test_every_setting_can_be_in_the_file(file: Path, env: str, name: str, default: Any, good: str, value: Any, bad: str | None) -> None:  # noqa: ARG001, PLR0913  # one row of the table
    if isinstance(value, Secret):
        (file.parent / "secret").write_text(good)
        line = f"{name}_file = {as_toml(file.parent / 'secret')}"
    else:
        line = f"{name} = {as_toml(value)}"
    settings = read(file, line, COMPANIONS.get(env))
    assert getattr(settings, name) == value
    assert type(getattr(settings, name)) is type(value)


def test_the_example_says_what_no_file_says_also_with_every_line_uncommented(file: Path) -> None:
    assert EXAMPLE.read_text() == example_text()
    assert Settings.from_toml(EXAMPLE, {}) == Settings()
    every = re.sub(r"^#(?=\w)", "", example_text(), flags=re.MULTILINE)
    assert read(file, every) == Settings()
    secrets = {f"{item.name}_file" for item in fields(Settings) if "Secret" in str(item.type)}
    plain = {item.name for item in fields(Settings) if "Secret" not in str(item.type)}
    assert set(tomllib.loads(every)) == plain | secrets


def test_a_common_first_word_may_be_a_table(file: Path) -> None:
    settings = read(
        file,
        """
        url = "kafka://broker:9092"
        [redis]
        host = "cache"
        port = 6380
        [kafka]
        preset = "throughput"
        sasl.username = "me"
        [kafka.producer]
        linger_ms = 9
        [topics.task-events]
        partitions = 16
        """,
    )
    assert (settings.redis_host, settings.redis_port, settings.kafka_preset) == ("cache", 6380, "throughput")
    assert (settings.kafka_sasl_username, settings.kafka_producer) == ("me", {"linger_ms": 9})
    assert settings.topics == {"task-events": {"partitions": 16}}


def test_the_environment_wins_over_the_file_and_the_caller_over_both(file: Path) -> None:
    text = 'source = "file"\nredis_port = 1\nurl = "kafka://file:1"\n'
    settings = read(file, text, {"TALLYROLL_SOURCE": "environment", "KAFKA_BOOTSTRAP_SERVERS": "environment:1"})
    assert (settings.source, settings.redis_port, settings.url) == ("environment", 1, "kafka://environment:1")
    assert read(file, text, {"TALLYROLL_SOURCE": "environment"}, source="caller").source == "caller"


def test_a_secret_of_the_environment_wins_over_the_file_of_the_file(file: Path) -> None:
    (file.parent / "secret").write_text("of the file")
    text = f"redis_password_file = {as_toml(file.parent / 'secret')}"
    assert read(file, text).redis_password == Secret("of the file")
    assert read(file, text, {"REDIS_PASSWORD": "of the environment"}).redis_password == Secret("of the environment")


def test_the_environment_names_the_file(file: Path) -> None:
    file.write_text("redis_port = 7\n")
    assert Settings.from_env({"TALLYROLL_CONFIG": str(file)}).redis_port == 7
    assert Settings.from_env({"TALLYROLL_CONFIG": ""}) == Settings()


def test_where_each_value_comes_from_is_known(file: Path) -> None:
    file.write_text('redis.port = 7\nsource = "x"\n')
    _, sources = settings_and_sources(file, {"TALLYROLL_SOURCE": "y", "KAFKA_BOOTSTRAP_SERVERS": "b:1"}, batch_records=3)
    assert sources["redis_port"] == Source("file", "redis.port")
    assert sources["source"] == Source("environment", "TALLYROLL_SOURCE")
    assert sources["url"] == Source("environment", "KAFKA_BOOTSTRAP_SERVERS")
    assert sources["batch_records"] == Source("given", "batch_records")
    assert sources["stall_ms"] == Source("default")


@pytest.mark.parametrize("environ", [{"TALLYROLL_URL": "sqlite:///./x"}, {"TALLYROLL_DATA_DIR": "x"}])
def test_of_folder_and_url_one_follows_from_the_other(environ: dict[str, str]) -> None:
    _, sources = settings_and_sources(None, environ)
    assert sources["url"] == sources["data_dir"] == Source("environment", next(iter(environ)))


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("redis_prot = 1", "redis_port"),
        ("[redis]\nprot = 1", "redis_port"),
        ("[redys]\nport = 1", "redis_port"),
        ("data-dir = 'x'", "data_dir"),
        ("redis_pasword_file = 'x'", "redis_password_file"),
        ("redis_host_file = 'x'", None),
        ("qqqqqqq = 1", None),
        ("[qqqqqqq]", None),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest(file: Path, text: str, near: str | None) -> None:
    with pytest.raises(UnknownSetting) as caught:
        read(file, text)
    assert caught.value.name.startswith(f"{file}: ")
    if near is not None:
        assert caught.value.near == near
        assert f"did you mean {near}?" in str(caught.value)


@pytest.mark.parametrize("text", [f"redis_password = '{CANARY}'", f"[redis]\npassword = '{CANARY}'", f"redis.password = ['{CANARY}']"])
def test_a_secret_in_the_clear_is_refused_and_not_shown(file: Path, text: str) -> None:
    with pytest.raises(SecretInFile) as caught:
        read(file, text)
    assert CANARY not in str(caught.value)
    assert "password_file" in str(caught.value)
    assert "REDIS_PASSWORD" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("redis_port = '7'", "redis_port"),
        ("redis_port = true", "redis_port"),
        ("redis_port = 1.5", "redis_port"),
        ("[redis]\nport = 0", "redis.port"),
        ("wait_for_ack = 'yes'", "wait_for_ack"),
        ("source = 7", "source"),
        ("data_dir = ['x']", "data_dir"),
        ("topics = 'x'", "topics"),
        ("[topics.task-events]\npartitions = 0", "topics.task-events.partitions"),
        ("[topics]\ntask-events.retention = 7", "topics.task-events"),
        ("[topics.no-such]\npartitions = 3", "topics"),
        ("nats_mode = 'best'", "nats_mode"),
        ("batch_records = -1", "batch_records"),
        ("url = 'postgres://x'", "url"),
        ("redis_port = 1\n[redis]\nport = 2", "redis.port"),
        ("redis_password_file = '/nowhere/at/all'", "redis_password_file"),
    ],
)
def test_a_bad_value_is_refused_by_file_and_key(file: Path, text: str, key: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read(file, text)
    assert caught.value.name == f"{file}: {key}"


@pytest.mark.parametrize("content", [f"x = {CANARY}".encode(), b"= 1", b"\xff", b"a = 1\na = 2", f'"{CANARY}'.encode()])
def test_what_is_not_toml_is_refused_without_showing_it(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        Settings.from_toml(file, {})
    assert caught.value.name == str(file)
    assert CANARY not in str(caught.value)


def test_a_file_that_is_not_there_is_refused(file: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        Settings.from_toml(file, {})
    with pytest.raises(SettingsError, match="cannot be read"):
        Settings.from_env({"TALLYROLL_CONFIG": str(file)})


scalars = st.one_of(
    st.booleans(), st.integers(-10, 10**6), st.floats(allow_nan=False, allow_infinity=False), st.text("abcü=\"'\n", max_size=8)
)
names = st.one_of(st.sampled_from([item.name for item in fields(Settings)]), st.text("abredis_", min_size=1, max_size=9))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(names, st.one_of(scalars, st.dictionaries(names, scalars, max_size=3)), max_size=4))
def test_any_toml_gives_settings_or_a_settings_error(tmp_path_factory: pytest.TempPathFactory, table: dict[str, Any]) -> None:
    file = tmp_path_factory.getbasetemp() / "any.toml"
    file.write_text("".join(f"{json.dumps(name)} = {as_toml(value)}\n" for name, value in table.items()))
    with contextlib.suppress(SettingsError):  # anything else is a defect
        assert isinstance(Settings.from_toml(file, {}), Settings)

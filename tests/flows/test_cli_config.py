"""The configuration file through the commands: which file, what wins, what is shown and what never is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tallyroll.cli.app import app
from tallyroll.settings import Settings

CANARY = "canary-0c6f1e"


def call(*words: str, code: int = 0, **environ: str) -> str:
    result = CliRunner(env=environ).invoke(app, list(words), prog_name="tallyroll")
    assert result.exit_code == code, f"{words}: {result.exit_code}\n{result.output}\n{result.exception!r}"
    return result.output


def shown(*words: str, **environ: str) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in json.loads(call(*words, "config", "show", "--json", **environ))["settings"]}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "password").write_text(CANARY)
    path = tmp_path / "tallyroll.toml"
    path.write_text(
        f'url = "sqlite:///{tmp_path / "log"}"\n[redis]\nhost = "cache"\npassword_file = "{tmp_path / "password"}"\n'
        f'[alerts]\nwebhook_url = "https://hooks.example/{CANARY}"\nwebhook_secret_file = "{tmp_path / "password"}"\n'
    )
    (tmp_path / "password").write_text(CANARY + "-long-enough")
    return path


def test_the_option_the_variable_and_the_environment(file: Path, tmp_path: Path) -> None:
    assert shown("--config", str(file))["redis_host"]["value"] == "cache"
    assert shown(TALLYROLL_CONFIG=str(file))["redis_host"]["value"] == "cache"
    assert shown(TALLYROLL_CONFIG=str(file), REDIS_HOST="other")["redis_host"]["value"] == "other"
    (tmp_path / "second.toml").write_text('redis_host = "second"\n')
    assert shown("--config", str(tmp_path / "second.toml"), TALLYROLL_CONFIG=str(file))["redis_host"]["value"] == "second"


def test_every_value_is_shown_with_its_source_and_no_secret(file: Path) -> None:
    rows = shown("--config", str(file), TALLYROLL_SOURCE="urn:x")
    assert set(rows) == set(Settings.__dataclass_fields__)
    assert (rows["redis_password"]["value"], rows["redis_password"]["from"]) == ("***", "redis.password_file")
    assert (rows["source"]["source"], rows["source"]["from"]) == ("environment", "TALLYROLL_SOURCE")
    assert (rows["stall_ms"]["value"], rows["stall_ms"]["source"]) == (2000, "default")
    assert rows["alerts_webhook_url"]["value"] == "https://hooks.example/***"
    text = call("--config", str(file), "config", "show")
    assert "(file redis.host)" in text
    assert CANARY not in text + json.dumps(rows)


def test_commands_work_on_what_the_file_names(file: Path, tmp_path: Path) -> None:
    call("--config", str(file), "publish", "agent.started", "a-1")
    assert (tmp_path / "log").is_dir()
    assert "url of the file" in call("--config", str(file), "config", "check")


def test_check_finds_what_cannot_work(file: Path, tmp_path: Path) -> None:
    assert json.loads(call("--config", str(file), "config", "check", "--json"))["ok"]
    gone = json.loads(call("--config", str(file), "config", "check", "--json", code=1, KAFKA_SSL_CA_LOCATION=str(tmp_path / "no.pem")))
    assert [one["says"].split(":")[0] for one in gone["checks"] if one["verdict"] == "fail"] == ["KAFKA_SSL_CA_LOCATION"]
    metrics = tmp_path / "metrics.toml"
    metrics.write_text(
        '[[metric]]\nname = "steps"\nunit = "steps"\nhelp = "Steps."\nevent_types = ["task.faild"]\nvalue = { type = "one" }\n'
    )
    slip = json.loads(call("--config", str(file), "config", "check", "--json", TALLYROLL_METRICS_FILE=str(metrics)))
    (warned,) = [one for one in slip["checks"] if "metric steps" in one["says"]]
    assert (warned["verdict"], "did you mean task.failed?" in warned["says"]) == ("warn", True)
    file.write_text("redis.prot = 1\n")
    refused = json.loads(call("--config", str(file), "config", "check", "--json", code=2))
    assert (refused["type"], "did you mean redis_port?" in refused["error"]) == ("UnknownSetting", True)
    assert "TALLYROLL_BATCH_RECORDS" in call("config", "check", TALLYROLL_BATCH_RECORD="7")


def test_a_secret_in_the_clear_ends_every_command_and_is_not_shown(file: Path) -> None:
    file.write_text(f'redis.password = "{CANARY}"\n')
    for words in (("config", "show"), ("config", "check"), ("run", "--once"), ("lag",)):
        said = call("--config", str(file), *words, code=2)
        assert "redis.password_file" in said
        assert CANARY not in said
    assert CANARY not in call("--config", str(file), "doctor", code=1)


def test_the_example_as_json_says_of_each_setting_what_the_file_says():
    rows, text = json.loads(call("config", "example", "--json")), call("config", "example")
    assert [row["name"] for row in rows] == re.findall(r"^#(\w+) = ", text, re.MULTILINE)
    assert all(row["help"] and f"{row['variable']}: " in text for row in rows)
    [secret] = [row for row in rows if row["name"] == "redis_password_file"]
    assert secret["variable"] == "REDIS_PASSWORD_FILE"


def test_the_example_is_a_file_that_loads(tmp_path: Path) -> None:
    (tmp_path / "tallyroll.toml").write_text(call("config", "example"))
    assert Settings.from_toml(tmp_path / "tallyroll.toml", {}) == Settings()

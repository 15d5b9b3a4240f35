"""What doctor makes of a Redis, a NATS and an outbox that it has looked at."""

from __future__ import annotations

from typing import Any

import pytest

from tallyroll.adapters.nats.server_report import NatsReport
from tallyroll.adapters.redis.server_report import RedisReport
from tallyroll.cli.doctor.bridges import nats_findings, redis_findings
from tallyroll.cli.doctor.checks import Check
from tallyroll.cli.doctor.outbox import outbox_finding
from tallyroll.ports import OutboxRow
from tallyroll.settings import Settings

NOW_US = 1_700_000_000_000_000
REDIS = RedisReport("7.0.15", cluster=False, evicts=False, persistence="every write", persists_well=True, scripts=True, now_us=NOW_US,
                    looked_at=10, foreign=0)  # fmt: skip
NATS = NatsReport("2.10.0", 1_048_576, jetstream=True, stream="agents", duplicate_window_s=1_200)
BRIDGES = Settings(nats_servers="nats://n:4222")


def troubles(found: list[Check]) -> list[tuple[str, str]]:
    assert all(check.next for check in found if check.verdict != "ok"), "every trouble says what to do"
    return [(check.verdict, check.says) for check in found if check.verdict != "ok"]


@pytest.mark.parametrize(
    ("change", "verdict", "says"),
    [
        ({}, None, ""),
        ({"version": "6.2.0"}, None, ""),
        ({"version": "7.unstable"}, None, ""),
        ({"version": "6.0.16"}, "fail", "older than 6.2"),
        ({"version": "5.0"}, "fail", "older than 6.2"),
        ({"cluster": True}, "fail", "cluster"),
        ({"evicts": True}, "fail", "evicts any key"),
        ({"scripts": False}, "fail", "may not run scripts"),
        ({"persistence": "snapshots"}, None, ""),
        ({"persistence": "nothing"}, "warn", "keeps nothing on disk"),
        ({"persists_well": False}, "fail", "last write to disk failed"),
        ({"foreign": 3}, "warn", "3 of 10 states"),
        ({"now_us": NOW_US + 5_000_000}, "warn", "differ by 5.0 s"),
        ({"now_us": NOW_US - 900_000}, None, ""),
    ],
)
def test_redis(change: dict[str, Any], verdict: str | None, says: str) -> None:
    found = troubles(list(redis_findings("cache:6379", REDIS._replace(**change), NOW_US)))
    assert [one[0] for one in found] == ([verdict] if verdict else [])
    assert all(says in one[1] for one in found)


@pytest.mark.parametrize(
    ("settings", "change", "verdict", "says"),
    [
        (BRIDGES, {}, None, ""),
        (BRIDGES, {"jetstream": False, "stream": None}, "fail", "JetStream is off"),
        (BRIDGES, {"stream": None}, "fail", "no stream covers agents.*.status"),
        (BRIDGES, {"duplicate_window_s": 120.0}, "fail", "forgets ids after 2 min"),
        (BRIDGES, {"duplicate_window_s": 600.0}, None, ""),
        (BRIDGES, {"max_payload": 65_536}, "warn", "65,536 bytes"),
        (Settings(nats_servers="nats://n:4222", nats_mode="core"), {"jetstream": False, "stream": None}, "warn", "mode core"),
    ],
)
def test_nats(settings: Settings, change: dict[str, Any], verdict: str | None, says: str) -> None:
    found = troubles(list(nats_findings(settings, NATS._replace(**change))))
    assert [one[0] for one in found] == ([verdict] if verdict else [])
    assert all(says in one[1] for one in found)


def waiting(age_s: float, *, made: bool = True) -> OutboxRow:
    since_us = NOW_US - int(age_s * 1_000_000)
    return OutboxRow(f"r{age_s}", since_us, since_us + 60_000_000, b"canary", b"canary" if made else None)


@pytest.mark.parametrize(
    ("rows", "verdict", "says"),
    [
        ([], "ok", "empty"),
        ([waiting(0.5, made=False)], "ok", "1 task asked for and not in the log yet, 0 of them made; the oldest for 500 ms"),
        ([waiting(-3)], "ok", "the oldest for 0 ms"),
        ([waiting(359), waiting(5)], "ok", "2 tasks"),
        ([waiting(5), waiting(7_200), waiting(400, made=False)], "warn", "in the log yet, 2 of them made; the oldest for 2.0 h"),
        ([waiting(float(age)) for age in range(1_000)], "warn", "1,000 tasks or more"),
    ],
)  # fmt: skip
def test_an_outbox(rows: list[OutboxRow], verdict: str, says: str) -> None:
    found = outbox_finding(rows, NOW_US)
    assert found.verdict == verdict
    assert says in found.says
    assert bool(found.next) == (verdict != "ok")
    assert "canary" not in found.says + found.next

"""When a service that follows is alive, and when it is ready."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from tallyroll.cli.exits import CommandError
from tallyroll.cli.run.serving import Watch, address_of
from tallyroll.errors import LogUnavailable
from tallyroll.follow.health import STUCK_S, FollowerHealth, why_not_alive, why_not_ready
from tallyroll.settings import Settings
from tallyroll.testing.clock import FakeClock

WELL = FollowerHealth("state", None, 4, 100_000)


@pytest.mark.parametrize(
    ("follower", "reason"),
    [
        (WELL, None),
        (WELL._replace(partitions=0, behind=0), None),
        (WELL._replace(partitions=0), "state: holds no partition yet"),
        (WELL._replace(partitions=0, behind=None), "state: holds no partition yet; the log has not answered"),
        (WELL._replace(behind=None), None),
        (WELL._replace(failure="SpanGone"), "state: ended by SpanGone"),
    ],
)
def test_a_follower_is_ready_when_it_has_its_share(follower: FollowerHealth, reason: str | None) -> None:
    assert why_not_ready([WELL, follower], stopping=False) == ([reason] if reason else [])


def test_a_service_that_starts_or_stops_is_not_ready() -> None:
    assert why_not_ready([], stopping=False) == ["starting"]
    assert why_not_ready([WELL], stopping=True) == ["stopping"]


def test_a_loop_that_stands_still_is_not_alive() -> None:
    assert why_not_alive(STUCK_S) == []
    assert why_not_alive(STUCK_S + 1) == ["the event loop has not turned for 11 s"]


def told(answer: Any) -> tuple[int, list[str]]:
    return int(answer.status), msgspec.json.decode(answer.body)["reasons"]


async def test_the_watch_is_alive_while_it_beats() -> None:
    clock = FakeClock()
    watch = Watch(clock)
    beat = asyncio.create_task(watch.beat())
    await clock.until_asleep()
    assert told(watch.alive("")) == (200, [])
    beat.cancel()
    clock.advance(STUCK_S + 5)
    assert told(watch.alive(""))[0] == 503
    assert len(told(watch.ready(""))[1]) == 2


async def test_readiness_names_the_class_of_an_error_and_not_its_text() -> None:
    watch = Watch(FakeClock())
    assert told(watch.ready("")) == (503, ["starting"])
    watch.begin({"state": SimpleNamespace(failure=LogUnavailable("canary-in-a-message", "x"), assignment=set())})  # type: ignore[dict-item]
    assert told(watch.ready("")) == (503, ["state: ended by LogUnavailable"])
    assert b"canary" not in watch.ready("").body


@pytest.mark.parametrize(
    ("option", "environ", "names", "address"),
    [
        (None, {}, ["state"], None),
        (None, {}, ["state", "analytics"], ("127.0.0.1", 8080)),
        (None, {"TALLYROLL_HTTP_HOST": "0.0.0.0"}, ["analytics"], ("0.0.0.0", 8080)),  # noqa: S104
        (None, {"TALLYROLL_HTTP_PORT": "0"}, ["state"], ("127.0.0.1", 0)),
        ("off", {"TALLYROLL_HTTP_PORT": "9090"}, ["analytics"], None),
        ("10.0.0.1:9090", {"TALLYROLL_HTTP_PORT": "1"}, ["state"], ("10.0.0.1", 9090)),
        (":9090", {"TALLYROLL_HTTP_HOST": "10.0.0.2"}, ["state"], ("10.0.0.2", 9090)),
        ("[::1]:9090", {}, ["state"], ("::1", 9090)),
    ],
)
def test_the_address_comes_from_the_option_then_the_settings(
    option: str | None, environ: dict[str, str], names: list[str], address: tuple[str, int] | None
) -> None:
    assert address_of(option, Settings.from_env(environ), names) == address


@pytest.mark.parametrize("option", ["8080x", "host", "host:", "host:99999", "host:-1", "host:٣"])
def test_an_address_that_is_none_is_refused(option: str) -> None:
    with pytest.raises(CommandError, match="HOST:PORT"):
        address_of(option, Settings(), ["state"])

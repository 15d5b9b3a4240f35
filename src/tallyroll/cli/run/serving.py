"""What ``tallyroll run`` serves over HTTP: whether it is alive, whether it is ready, and its metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, Final

import msgspec

from tallyroll.adapters.extras import require
from tallyroll.adapters.http.server import Answer, Page, served, why_not_served
from tallyroll.cli.exits import CommandError, ExitCode
from tallyroll.cli.run.services import ALL
from tallyroll.errors import MissingExtra, SettingsError, TallyrollError
from tallyroll.follow.health import FollowerHealth, why_not_alive, why_not_ready
from tallyroll.follow.loop import FollowLoop
from tallyroll.ports import Clock
from tallyroll.roll import ANALYTICS_FOLLOWER, Roll
from tallyroll.settings import Settings
from tallyroll.telemetry import FOLLOW_LAG, Counters

OFF: Final = "off"
_DEFAULT_PORT: Final = 8_080
_ALWAYS_SERVED: Final = frozenset({ANALYTICS_FOLLOWER, ALL})
_BEAT_S: Final = 1.0
_LOOK_S: Final = 5.0  # a look asks the log for its ends: one request per look, and the lag of a scrape is no older
_MAX_PORT: Final = 65_535


def address_of(option: str | None, settings: Settings, words: Sequence[str]) -> tuple[str, int] | None:
    """Where to serve, None for nowhere: what the option says, else the settings, else port 8080 for analytics and for all.

    Raises CommandError for an option that is no address.
    """
    if option == OFF:
        return None
    if option is not None:
        host, _, port = option.rpartition(":")
        if not port.isascii() or not port.isdigit() or int(port) > _MAX_PORT:
            raise CommandError(ExitCode.USAGE, "--http: expected HOST:PORT or off", "write 127.0.0.1:8080, or :0 for any free port")
        return host.strip("[]") or settings.http_host, int(port)
    if settings.http_port is None:
        return (settings.http_host, _DEFAULT_PORT) if _ALWAYS_SERVED & set(words) else None
    return settings.http_host, settings.http_port


def check_ports(place: tuple[str, int] | None, processes: int, *, setting: str) -> None:
    """Raises SettingsError, which names ``setting``, where one of several processes would find its port taken, or find none.

    Each serves one port above the one before. Asked before any is started: what one of them says ends the others, which have
    joined their groups by then.
    """
    if place is None or not place[1]:
        return
    host, first = place
    last = first + processes - 1
    where = f"{processes} processes serve on the ports {first} to {last}"
    if last > _MAX_PORT:
        raise SettingsError(setting, f"{where}, and there are none above {_MAX_PORT}; name a lower one")
    for port in range(first, last + 1):
        if why := why_not_served(host, port):
            raise SettingsError(setting, f"{why}; {where}: name another one, 0 for any free ones, or --http off")


class Watch:
    """Looks at the loops of a service each second, and at their lag every five.

    Written by the event loop, read by the threads of the server: each field is set whole.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._beat = clock.monotonic()
        self._loops: Mapping[str, FollowLoop] = {}
        self._behind: Mapping[str, int] = {}
        self.stopping = False

    def begin(self, loops: Mapping[str, FollowLoop]) -> None:
        """These are the loops."""
        self._loops = dict(loops)

    async def beat(self) -> None:
        """Shows that the event loop turns, until cancelled."""
        while True:
            self._beat = self._clock.monotonic()
            await self._clock.sleep(_BEAT_S)

    async def look(self, roll: Roll) -> None:
        """Measures the lag, until cancelled; while the log cannot be reached it is unknown."""
        while True:
            for name in self._loops:
                try:
                    lags = await roll.lag(name)
                except TallyrollError as error:
                    if not error.retriable:
                        raise
                    self._behind = {known: left for known, left in self._behind.items() if known != name}
                    continue
                for lag in lags:
                    place = {"topic": lag.partition.topic, "partition": str(lag.partition.partition)}
                    roll.telemetry.observe(FOLLOW_LAG, lag.records, follower=name, **place)
                self._behind = {**self._behind, name: sum(lag.records for lag in lags)}
            await self._clock.sleep(_LOOK_S)

    def alive(self, _accept: str) -> Answer:
        """``/healthz``."""
        return _verdict(why_not_alive(self._clock.monotonic() - self._beat), {})

    def ready(self, _accept: str) -> Answer:
        """``/readyz``."""
        behind = self._behind
        followers = [
            FollowerHealth(name, type(loop.failure).__name__ if loop.failure else None, len(loop.assignment), behind.get(name))
            for name, loop in self._loops.items()
        ]
        reasons = why_not_alive(self._clock.monotonic() - self._beat) + why_not_ready(followers, stopping=self.stopping)
        shown = [{**follower._asdict(), "ready": not why_not_ready([follower], stopping=self.stopping)} for follower in followers]
        return _verdict(reasons, {"followers": shown})


def _verdict(reasons: list[str], more: Mapping[str, Any]) -> Answer:
    status = HTTPStatus.SERVICE_UNAVAILABLE if reasons else HTTPStatus.OK
    return Answer(status, "application/json", msgspec.json.encode({"ok": not reasons, "reasons": reasons, **more}) + b"\n")


@contextmanager
def serving(address: tuple[str, int] | None, watch: Watch, counters: Counters, *, setting: str) -> Iterator[str | None]:
    """Serves ``/healthz``, ``/readyz`` and ``/metrics`` while the block runs; gives the URL, None where nothing is served.

    Raises SettingsError, which names ``setting``, where the address cannot be had.
    """
    if address is None:
        yield None
        return
    pages = {"/healthz": watch.alive, "/readyz": watch.ready, "/metrics": metrics_page(counters)}
    with served(*address, pages, setting=setting) as url:
        yield url


def metrics_page(counters: Counters) -> Page:
    """``/metrics``; without the extra the page says how to install it."""
    try:
        require("analytics")
    except MissingExtra as missing:
        absent = Answer(HTTPStatus.NOT_IMPLEMENTED, "text/plain; charset=utf-8", f"{missing}\n".encode())
        return lambda _: absent
    from tallyroll.adapters.prometheus.exporter import PrometheusExporter  # noqa: PLC0415  # needs the extra

    exporter = PrometheusExporter(counters)

    def page(accept: str) -> Answer:
        body, content_type = exporter.text(accept)
        return Answer(HTTPStatus.OK, content_type, body)

    return page

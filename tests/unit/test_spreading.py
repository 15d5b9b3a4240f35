"""How followers are spread over processes: who runs with whom, and what is started."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallyroll.cli.run.services import SERVICES
from tallyroll.cli.run.spreading import commands, shares

NAMES = st.lists(st.sampled_from([*SERVICES]), min_size=1, unique=True)


def load(names: tuple[str, ...]) -> int:
    return sum(SERVICES[name].load for name in names)


@given(NAMES, st.integers(1, 9))
def test_every_follower_runs_once_and_no_process_has_much_more_to_do(names: list[str], processes: int) -> None:
    parts = shares(names, processes)
    assert sorted(name for part in parts for name in part) == sorted(names)
    assert len(parts) == min(processes, len(names))
    assert all(parts)
    heaviest = max(SERVICES[name].load for name in names)
    assert max(map(load, parts)) - min(map(load, parts)) <= heaviest


def test_on_two_cores_the_two_that_take_most_run_apart() -> None:
    assert shares([*SERVICES], 2) == [("audit", "analytics", "nats"), ("archive", "state", "redis")]


@pytest.mark.parametrize(
    ("place", "addresses"),
    [
        (("127.0.0.1", 8_080), ["127.0.0.1:8080", "127.0.0.1:8081"]),
        (("::1", 9_000), ["[::1]:9000", "[::1]:9001"]),
        (("0.0.0.0", 0), ["0.0.0.0:0", "0.0.0.0:0"]),  # noqa: S104  # nobody listens
        (None, ["off", "off"]),
    ],
)
def test_each_process_serves_on_a_port_of_its_own(place: tuple[str, int] | None, addresses: list[str]) -> None:
    started = commands([("audit",), ("state", "redis")], ["--url", "sqlite:///x"], ["--interval", "1s"], place)
    assert [*started] == [("audit",), ("state", "redis")]
    for (names, command), address in zip(started.items(), addresses, strict=True):
        words = command[command.index("tallyroll") + 1 :]
        assert words == ["--url", "sqlite:///x", "run", *names, "--interval", "1s", "--http", address, "--share"]

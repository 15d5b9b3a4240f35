"""What the watch on reducers finds, and what it lets pass."""

from __future__ import annotations

import os
import random
import secrets
import socket
import subprocess
import time
import uuid
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from random import choice
from time import perf_counter as now

import pytest
from tests.unit.replay_histories import event

from tallyroll.errors import ReducerFailed
from tallyroll.replay.kinds import StateType
from tallyroll.replay.projector import StateProjector
from tallyroll.testing.purity import Impure, assert_pure, no_effects

IMPURE = {
    "clock": time.time_ns,
    "clock under another name": now,
    "date": lambda: datetime.now(UTC),
    "today": date.today,
    "sleep": lambda: time.sleep(0),
    "random": random.random,
    "random by name": lambda: choice([1]),  # noqa: S311  # not a secret
    "a generator of one's own": lambda: random.Random(1).random(),  # noqa: S311  # not a secret
    "secret": lambda: secrets.token_hex(2),
    "uuid": uuid.uuid1,
    "random uuid": uuid.uuid4,  # noqa: TID251  # it is to be found
    "urandom": lambda: os.urandom(1),
    "file": lambda: Path(__file__).open(),  # noqa: SIM115  # never opened
    "builtin open": lambda: open(__file__),  # noqa: PTH123, SIM115  # never opened
    "read": lambda: Path(__file__).read_text(),
    "stat": lambda: Path(__file__).exists(),
    "environment": lambda: os.environ.get("HOME"),
    "process": lambda: subprocess.run(["true"], check=False),
    "socket": socket.socket,
    "name": lambda: socket.gethostbyname("localhost"),
    "print": print,
    "salted hash": lambda: hash("a"),
    "address": lambda: id(object()),
}
PURE = {
    "arithmetic": lambda: sorted({"a": 1, "b": 2}.items(), reverse=True),
    "time of an event": lambda: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=1),
    "a text as time": lambda: datetime.fromisoformat("2026-01-01T00:00:00Z").timestamp(),
    "parsed uuid": lambda: uuid.UUID("00000000-0000-0000-0000-000000000001").hex,
}


def projector(act: object) -> StateProjector:
    made = StateProjector()
    made.register_projection(StateType.TASK_STATE, None, lambda state, _event: (act(), {**state, "n": state.get("n", 0) + 1})[1])
    return made


@pytest.mark.parametrize("what", IMPURE)
def test_a_reducer_that_touches_the_world_fails(what: str) -> None:
    with pytest.raises(Impure):
        assert_pure(projector(IMPURE[what]), StateType.TASK_STATE, [event("task.started", "task:t")])


@pytest.mark.parametrize("what", PURE)
def test_a_reducer_that_only_computes_passes(what: str) -> None:
    events = [event("task.started", "task:t"), event("task.completed", "task:t", at_s=1)]
    assert assert_pure(projector(PURE[what]), StateType.TASK_STATE, events).state == {"n": 2}


def test_one_that_hides_its_failure_is_found_at_the_end() -> None:
    def act() -> None:
        with suppress(Exception):
            time.time_ns()

    with pytest.raises(Impure, match=r"time\.time_ns"):
        assert_pure(projector(act), StateType.TASK_STATE, [event("task.started", "task:t")])


def test_a_first_import_is_no_effect() -> None:
    def act() -> None:
        import this_module_is_not_there  # noqa: F401

    with pytest.raises(ReducerFailed) as caught:
        assert_pure(projector(act), StateType.TASK_STATE, [event("task.started", "task:t")])
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_changing_the_state_in_place_fails_here_and_the_projector_stays_as_it_was() -> None:
    def handler(state: dict, _event: object) -> dict:
        state["n"] = 1
        return state

    made = StateProjector()
    made.register_projection(StateType.TASK_STATE, "task.started", handler)
    with pytest.raises(ReducerFailed, match="changed the state"):
        assert_pure(made, StateType.TASK_STATE, [event("task.started", "task:t")])
    assert not made.strict


def test_outside_of_the_watch_everything_is_as_before() -> None:
    with pytest.raises(Impure), no_effects():
        time.time_ns()
    assert time.time_ns() > 0
    assert Path(__file__).exists()

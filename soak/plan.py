"""Which fault happens when: drawn from a seed, so that a run can be repeated. Pure."""

from __future__ import annotations

from collections.abc import Collection
from random import Random
from typing import Final, NamedTuple

CALM_S: Final = 8.0
"""At the beginning and at the end nothing is broken: something has to be there before it can be lost."""

_GAP_S: Final = (2.0, 12.0)  # between two faults; one often begins before the last one is over


class Step(NamedTuple):
    """One fault: when it begins, after how long it is mended, and a number that chooses among several targets."""

    at_s: float
    fault: str
    lasts_s: float
    which: int


class Kind(NamedTuple):
    """How often a fault comes, beside the others, and how long it lasts."""

    weight: int
    lasts_s: tuple[float, float] = (0.0, 0.0)


KINDS: Final[dict[str, Kind]] = {
    "kill publisher": Kind(5, (0.0, 2.0)),
    "drain publisher": Kind(3, (0.0, 2.0)),
    "freeze publisher": Kind(2, (1.0, 8.0)),
    "kill follower": Kind(5, (0.0, 6.0)),
    "drain follower": Kind(3, (0.0, 3.0)),
    "freeze follower": Kind(3, (1.0, 14.0)),  # some longer than a session lasts
    "add follower": Kind(3, (4.0, 20.0)),
    "kill redis": Kind(2, (0.0, 6.0)),
    "flush redis": Kind(2),
    "freeze redis": Kind(1, (1.0, 8.0)),
    "kill nats": Kind(2, (0.0, 6.0)),
    "stop nats": Kind(1, (0.0, 4.0)),
    "freeze nats": Kind(1, (1.0, 8.0)),
    "kill broker": Kind(2, (0.0, 10.0)),
    "stop broker": Kind(1, (0.0, 5.0)),
    "freeze broker": Kind(2, (1.0, 12.0)),
    "cut connections": Kind(3),
    "lose answers": Kind(3),
    "slow answers": Kind(1, (2.0, 8.0)),
    "cut redis": Kind(1),
    "hold redis": Kind(1, (1.0, 10.0)),  # some longer than a client waits
    "deafen redis": Kind(1, (0.5, 4.0)),
    "cut nats": Kind(1),
    "hold nats": Kind(1, (1.0, 10.0)),
    "deafen nats": Kind(1, (0.5, 4.0)),
    "erase person": Kind(3),
    "kill erasure": Kind(1, (0.5, 4.0)),
    "seal archive": Kind(2),
    "prune archive": Kind(1),
    "rotate keys": Kind(1),
    "retain trail": Kind(1),
    "restore elsewhere": Kind(1),
    "write garbage": Kind(2),
}


def plan(seed: int, seconds: float, faults: Collection[str] = tuple(KINDS)) -> list[Step]:
    """The faults of a run, of these kinds, in order; the same for the same arguments."""
    rng = Random(seed)  # noqa: S311  # repeatable, no secret
    names = [name for name in KINDS if name in faults]
    weights = [KINDS[name].weight for name in names]
    steps, at_s = [], CALM_S
    while (at_s := at_s + rng.uniform(*_GAP_S)) < seconds - CALM_S:
        (fault,) = rng.choices(names, weights)
        steps.append(Step(round(at_s, 1), fault, round(rng.uniform(*KINDS[fault].lasts_s), 1), rng.randrange(1_000)))
    return steps

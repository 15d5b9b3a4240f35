"""A labelled set of series that needs no download: usual days with faults planted at known rows, the same each time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tallyroll.testing.nab import Labelled

ROWS = 2_400
DAY = 288  # panes of five minutes
WINDOW = (-5, 54)  # rows around a fault's first one

Values = NDArray[np.float64]


def seasonal(random: np.random.Generator) -> Values:
    return 100 + 30 * np.sin(2 * np.pi * np.arange(ROWS) / DAY) + random.normal(0, 4, ROWS)


def flat(random: np.random.Generator) -> Values:
    return random.normal(100, 8, ROWS)


def counts(random: np.random.Generator) -> Values:
    return random.poisson(100 + 30 * np.sin(2 * np.pi * np.arange(ROWS) / DAY)).astype(float)


KINDS: Mapping[str, tuple[Callable[[np.random.Generator], Values], float]] = {
    "seasonal": (seasonal, 4),
    "flat": (flat, 8),
    "counts": (counts, 10),
}
"""How a usual series is drawn, and how far its noise goes."""


def spike(values: Values, at: int, far: float, _: np.random.Generator) -> None:
    values[at : at + 3] += 2 * far


def shift(values: Values, at: int, far: float, _: np.random.Generator) -> None:
    values[at:] += 1.3 * far


def drop_out(values: Values, at: int, _: float, __: np.random.Generator) -> None:
    values[at : at + 25] = 0


def unrest(values: Values, at: int, far: float, random: np.random.Generator) -> None:
    values[at : at + 40] += random.normal(0, far, 40)


FAULTS: Sequence[Callable[[Values, int, float, np.random.Generator], None]] = (spike, shift, drop_out, unrest)


def planted(seed: int = 9) -> list[Labelled]:
    """Each kind with each fault, planted twice: barely to be seen, and to be seen by anybody."""
    random, found = np.random.default_rng(seed), []
    for kind, (draw, noise) in KINDS.items():
        for fault in FAULTS:
            values = draw(random)
            places = [int(random.integers(700, 1_400)), int(random.integers(1_600, 2_200))]
            for at, strength in zip(places, (4, 7), strict=True):
                fault(values, at, strength * noise, random)
            windows = [(at + WINDOW[0], at + WINDOW[1]) for at in places]
            found.append(Labelled(f"{kind}/{fault.__name__}", values, windows, ROWS / DAY))
    return found

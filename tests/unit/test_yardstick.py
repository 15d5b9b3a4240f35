"""The measure of CPU time fails where it must, on any machine."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from tests.yardstick import at_most, work

TOLD = r"^\d+\.\d\d s of CPU time; 0\.001 s are allowed on the machine of reference, and this one is \d+\.\d times slower$"


def beside() -> None:
    other = threading.Thread(target=work)
    other.start()
    other.join()


@pytest.mark.parametrize("done", [work, beside], ids=["here", "in another thread"])
def test_more_than_is_allowed_fails_and_says_how_much(done: Callable[[], object]) -> None:
    with pytest.raises(AssertionError, match=TOLD), at_most(0.001):
        done()  # a hundred times as much, on a machine of any speed


def test_less_passes_however_long_it_waits() -> None:
    with at_most(2):
        work()
    with at_most(0.1):
        threading.Event().wait(0.3)


def test_what_fails_inside_is_what_is_told() -> None:
    with pytest.raises(ZeroDivisionError), at_most(0):
        raise ZeroDivisionError

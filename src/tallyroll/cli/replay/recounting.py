"""Progress while metrics are counted anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tallyroll.cli.progress import Progress
from tallyroll.cli.session import Session


@contextmanager
def recounting_bar(session: Session) -> Iterator[Callable[[int, int], None]]:
    """A bar, and what tells it how many of how many offsets are done."""
    with Progress("metrics", None, silent=session.json) as bar:

        def tell(done: int, total: int) -> None:
            bar.resize(total)
            bar.advance_to(done)

        yield tell

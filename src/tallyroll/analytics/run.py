"""What an observer sees: the values that one run of the kernel has just put into panes, and the panes they went into.

A run covers the records of many batches and partitions, a few milliseconds of them when little happens, some ten thousand
when much does. Whoever alarms on live values, keeps baselines or evaluates rules is an observer; the follower calls it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from tallyroll.analytics.pane import Pane
from tallyroll.analytics.spec import MetricSpec
from tallyroll.events.position import Position
from tallyroll.ports import DocumentWrite

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Observed(Protocol):
    """The values of one metric over one dimension in one run; at least one. Columns of equal length ``n``, read-only.

    They are made when first asked for: ``spec`` and ``dimension`` tell whether they are worth a look. Values that came later
    than the lateness of their metric are left out: they count, but they are the past.
    """

    @property
    def spec(self) -> MetricSpec:
        """The metric."""

    @property
    def dimension(self) -> str:
        """The dimension."""

    @property
    def keys(self) -> Sequence[str]:
        """The distinct keys touched, no two alike; ``__other__`` is among them where the metric has too many keys."""

    @property
    def key_of(self) -> NDArray[np.int32]:
        """``(n,) int32``: indexes into ``keys``."""

    @property
    def values(self) -> NDArray[np.float64]:
        """``(n,) float64``, as shown: in the unit of the spec, an exact metric's divided by its scale; of ``Success`` 1 or 0.

        Never NaN or infinite, and negative only where the spec is signed.
        """

    @property
    def bins(self) -> NDArray[np.int32] | NDArray[np.int64]:
        """``(n,)`` integers, where the spec has a histogram: the bin of each value; of one below the domain that of its lower end.

        As in panes: of an exact metric before it is divided by its scale.
        """

    @property
    def starts(self) -> NDArray[np.int64]:
        """``(n,) int64``: the pane's first second since 1970."""

    @property
    def rows(self) -> NDArray[np.int32]:
        """``(n,) int32``: rows of the run, ascending, for ``KernelRun.evidence``."""


class KernelRun(Protocol):
    """One run of the kernel. Valid until the observer returns; keep what you copied out of it, not the run."""

    @property
    def observed(self) -> Sequence[Observed]:
        """Per metric and dimension that got a value, in the order of the specs and their dimensions."""

    def evidence(self, row: int) -> tuple[str, Position]:
        """The event id of a row, and where it lies."""

    def open_pane(self, metric: str, dimension: str, key: str, start: int) -> Pane:
        """What this process has of a pane, this run in it: its partitions merged, in order. Empty where it has nothing.

        Closed panes are given as long as they are held: until their lateness is over, but not where a process began after
        they had closed, or has too many rows to hold.
        Not promised: what other processes of the group have of the same pane; the store merges those.
        """


class Observer(Protocol):
    """Looks at every run, and keeps small documents beside the panes, written in the same transaction unless it goes ahead.

    Called by the follower, from the task of the follow loop, never by two at a time. It must be quick, and it must not raise:
    an error would stop the follower. Not promised: that a run is seen once. After a crash or a conflict the records behind
    the stored position are read again, and so is what an observer made of them; its documents go back with it.
    """

    def observed(self, run: KernelRun) -> None:
        """Takes one run."""

    @property
    def goes_ahead(self) -> bool:
        """Whether its documents are stored by themselves, before the panes of the runs they followed from. Always the same.

        Only for an observer whose documents, all of them, are the same however often the records are read. It waits for no flush.
        """

    @property
    def is_urgent(self) -> bool:
        """Whether its documents should be stored at once; asked of one that goes ahead. An alert may leave only then."""

    def take_documents(self) -> Sequence[DocumentWrite]:
        """What is to be stored with the panes of the runs so far, or ahead of them; the observer holds it to be stored from here on.

        Either ``stored`` or ``give_back`` follows before it is asked again; more runs may come before that.
        """

    def stored(self) -> None:
        """The documents that were taken are durable, and so is everything they followed from; or there were none."""

    def give_back(self) -> None:
        """The documents that were taken were not stored: the next ``take_documents`` gives them again."""

    def forget(self) -> None:
        """Everything not stored is void: the follower begins again from what the store has, and so must the observer.

        Follows a PositionConflict, ``give_back`` having been called.
        """

"""The archive's files: where they lie, and how columns become bytes and come back."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from tallyroll.events.rows import IntColumn, TextColumn

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class SegmentFiles(Protocol):
    """The files of one partition's segments: a folder, or a place in an object store. Written once, never changed.

    Every method blocks; several threads may call. Raises OSError. Not promised: any order of names.
    """

    def put(self, name: str, content: bytes) -> None:
        """Stores a file, whole or not at all; durable when it returns. Replaces one of that name."""

    def open(self, name: str) -> memoryview:
        """The content, without reading all of it now where that can be avoided. Raises FileNotFoundError."""

    def size(self, name: str) -> int | None:
        """How many bytes it has; None if it is not there."""

    def names(self) -> Sequence[str]:
        """Everything that lies there, half-written files among it."""

    def remove(self, name: str) -> None:
        """Removes a file; one that is not there is no error. Who has it open may go on reading."""


class SegmentColumn(NamedTuple):
    """One column of a segment; every one may have holes.

    ``int``; ``word``, text with few values; ``text``; ``bytes``; ``json``, written as text and read as bytes.
    """

    name: str
    kind: Literal["int", "word", "text", "bytes", "json"]


class Cells(Protocol):
    """The cells of one column, made into objects when they are asked for. Not promised: the same objects each time."""

    def __len__(self) -> int:
        """How many cells there are."""

    def take(self, rows: NDArray[np.intp]) -> list[Any]:
        """The cells of these rows: bytes for bytes and JSON, text for text, None where there is nothing."""


class OpenSegment(Protocol):
    """A segment under reading. Several threads may call. What it raises is an OSError: the file is damaged.

    Not promised: to notice a change of bytes that nobody reads.
    """

    @property
    def footer(self) -> Mapping[str, str]:
        """The texts that were written beside the columns."""

    @property
    def rows(self) -> int:
        """How many rows there are."""

    @property
    def names(self) -> Collection[str]:
        """Which columns there are."""

    def read(self, names: Sequence[str], start: int = 0, stop: int | None = None) -> Sequence[IntColumn | TextColumn | Cells]:
        """The rows ``start`` to ``stop`` (exclusive) of these columns: words as TextColumn, text and bytes as Cells."""

    def read_folded(self, names: Sequence[str]) -> Sequence[IntColumn | TextColumn | Cells]:
        """These of the columns that the writer was given as ``folded``, in their own order; OSError where there are none."""

    @property
    def has_pieces(self) -> bool:
        """Whether ``look_up`` finds anything: a file may be older than that."""

    def look_up(self, names: Sequence[str], start: int, stop: int) -> Sequence[Sequence[Any]]:
        """The same rows and cells as ``read``, of columns that the writer was given as ``looked_up``, as objects; quick for a few.

        JSON comes as bytes. OSError where the columns are not there.
        """


class SegmentWriter(Protocol):
    """A segment in the making. Not promised: to take anything after ``finish``."""

    def add(self, cells: Sequence[Iterable[object]]) -> None:
        """The next rows: one run of cells per column, equally long; ``json`` ones as bytes, valid UTF-8.

        Raises OverflowError for an integer beyond 64 bits; then none of the rows was taken.
        """

    def finish(  # noqa: PLR0913  # a file is written at once
        self,
        names: Sequence[str],
        order: NDArray[np.intp],
        footer: Mapping[str, str],
        *,
        group_rows: int,
        folded: Sequence[str] = (),
        folded_order: NDArray[np.intp] | None = None,
        looked_up: Sequence[str] = (),
        piece_rows: int = 1,
    ) -> bytes:
        """The content of a file: the named columns, with the rows in that order, so many to a group that is read at once.

        ``folded`` ones are kept a second time, of the rows in ``folded_order``, each in one piece, for who wants all of a
        column. ``looked_up`` ones are kept so too, in pieces of ``piece_rows``, of which a group holds a whole number, for who
        wants a few rows.
        """


class SegmentCodec(Protocol):
    """Columns as bytes of a file and back. Not promised: the same bytes for the same columns in another version of a library."""

    def writer(self, columns: Sequence[SegmentColumn]) -> SegmentWriter:
        """Begins a segment."""

    def open(self, content: memoryview) -> OpenSegment:
        """What a writer has made. Raises OSError for anything else."""

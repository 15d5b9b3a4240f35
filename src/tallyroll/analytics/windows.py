"""Windows of time: which stretches they are, what they are called, and which panes make them. Pure.

All windows begin at multiples of their length (or slide) since 1970-01-01T00:00Z, contain their start and not their end. Moments are
aware datetimes outside and whole seconds since 1970 inside.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final, NamedTuple

from tallyroll.analytics.spec import MINUTE_S
from tallyroll.errors import SettingsError
from tallyroll.events.moments import EPOCH

QUARTER_S: Final = 900
"""What one-minute panes are rolled up into."""

MINUTES_KEPT_S: Final = 48 * 3_600
"""How long narrow panes are kept, behind the newest event of their partition."""

QUARTERS_KEPT_S: Final = 35 * 86_400
"""How long rolled-up panes are kept, unless the settings say otherwise."""


class Kept(NamedTuple):
    """How long panes of one width are kept: ``own_s`` behind the newest event of their partition.

    ``gathered``: as they are until their whole quarter hour is that old, then in quarter hours for ``quarters_s``.
    """

    own_s: int
    gathered: bool
    quarters_s: int


class Retention(NamedTuple):
    """How long panes are kept, by their width."""

    quarters_s: int = QUARTERS_KEPT_S

    def of(self, pane_s: int) -> Kept:
        """How long panes of that width are kept."""
        quarters_s = max(self.quarters_s, MINUTES_KEPT_S)
        if pane_s >= QUARTER_S or quarters_s >= _FOREVER_S:
            return Kept(quarters_s, gathered=False, quarters_s=quarters_s)
        return Kept(MINUTES_KEPT_S, QUARTER_S % pane_s == 0, quarters_s)


USUALLY_KEPT: Final = Retention()
"""What is kept where nobody says how long."""

_FOREVER_S: Final = 2**40
FOREVER: Final = Retention(_FOREVER_S)
"""Of a store that nobody tidies: minutes stay, too."""

_SECOND: Final = timedelta(seconds=1)


class Stretch(NamedTuple):
    """From ``start`` to ``end`` (exclusive), seconds since 1970."""

    start: int
    end: int

    @property
    def duration_s(self) -> int:
        """How long it is."""
        return self.end - self.start


EVER: Final = Stretch(-(2**40), 2**40)
"""All time that an event can have."""


def _whole_panes(what: str, length: timedelta, pane: timedelta) -> int:
    if pane < _SECOND or pane % _SECOND:
        raise ValueError(f"a pane is whole seconds, at least one, not {pane}")
    if length < pane or length % pane:
        raise ValueError(f"{what} {length} is no whole multiple of the pane of {pane}")
    return length // _SECOND


class TimeWindow:
    """Windows of one duration: side by side without ``slide``, else one that begins with each ``slide``.

    Both are whole multiples of the pane (one minute unless given), else ValueError. A moment lies in one window, or in
    ``duration / slide`` of them; a slide longer than the duration leaves gaps, and some moments in none.
    """

    __slots__ = ("_duration_s", "_slide_s", "slide")

    def __init__(self, duration: timedelta, slide: timedelta | None = None, *, pane: timedelta = timedelta(seconds=MINUTE_S)) -> None:
        self.slide = slide
        self._duration_s = _whole_panes("duration", duration, pane)
        self._slide_s = self._duration_s if slide is None else _whole_panes("slide", slide, pane)

    @property
    def duration(self) -> timedelta:
        """How long each window is."""
        return timedelta(seconds=self._duration_s)

    @property
    def duration_s(self) -> int:
        """The duration in seconds."""
        return self._duration_s

    @property
    def slide_s(self) -> int:
        """Seconds from the start of one window to that of the next."""
        return self._slide_s

    def containing(self, moment: datetime) -> list[tuple[datetime, datetime]]:
        """Start and end of every window that the moment lies in, earliest first."""
        at = seconds_of(moment)
        return [(moment_of(one.start), moment_of(one.end)) for one in self.between(at, at + 1)]

    def between(self, start: int, end: int) -> Iterator[Stretch]:
        """Every window that shares time with that stretch (seconds since 1970), earliest first."""
        first = (start - self._duration_s) // self._slide_s + 1
        for number in range(first, -(-end // self._slide_s)):
            begin = number * self._slide_s
            yield Stretch(begin, begin + self._duration_s)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TimeWindow) and (self._duration_s, self._slide_s) == (other._duration_s, other._slide_s)

    def __hash__(self) -> int:
        return hash((self._duration_s, self._slide_s))

    def __repr__(self) -> str:
        return f"TimeWindow({self.duration!r})" if self.slide is None else f"TimeWindow({self.duration!r}, {self.slide!r})"


WINDOWS: Final[Mapping[str, TimeWindow]] = MappingProxyType(
    {
        "1min": TimeWindow(timedelta(minutes=1)),
        "5min": TimeWindow(timedelta(minutes=5)),
        "15min": TimeWindow(timedelta(minutes=15)),
        "1hour": TimeWindow(timedelta(hours=1)),
        "1day": TimeWindow(timedelta(days=1)),
    }
)
"""The five windows that have a name."""


def window_named(name: str, setting: str = "time_window") -> TimeWindow:
    """The window of that name. Raises SettingsError, which is a ValueError too, for another name."""
    try:
        return WINDOWS[name]
    except KeyError:
        raise SettingsError(setting, f"{name!r} is no window; accepted: {', '.join(WINDOWS)}") from None


def rolling(now_s: float, duration_s: int, pane_s: int = MINUTE_S) -> Stretch:
    """Whole panes that cover the last ``duration_s`` up to now, the open pane included: up to one pane longer than asked for."""
    return Stretch(int((now_s - duration_s) // pane_s) * pane_s, int(now_s // pane_s) * pane_s + pane_s)


def readable(stretch: Stretch, pane_s: int, newest_s: int) -> Stretch:
    """The stretch widened to what is still kept of it: to quarter hours where narrow panes have been removed.

    ``newest_s`` is the newest event time stored. No narrow pane within 48 hours of it has been removed.
    """
    if pane_s >= QUARTER_S or stretch.start >= newest_s - MINUTES_KEPT_S:
        return stretch
    end = stretch.end if stretch.end >= newest_s - MINUTES_KEPT_S else -(-stretch.end // QUARTER_S) * QUARTER_S
    return Stretch(stretch.start // QUARTER_S * QUARTER_S, end)


def seconds_of(moment: datetime) -> int:
    """Whole seconds since 1970, rounded down. Raises ValueError for a naive datetime, which could mean any zone."""
    if moment.tzinfo is None:
        raise ValueError("a moment needs a time zone: datetime(..., tzinfo=UTC)")
    return (moment - EPOCH) // _SECOND


def moment_of(seconds: float) -> datetime:
    """Seconds since 1970 as an aware datetime."""
    return EPOCH + timedelta(seconds=seconds)

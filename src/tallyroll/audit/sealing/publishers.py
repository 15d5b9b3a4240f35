"""How records fit into their publishers' chains: what an entry says of that. Pure."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Final, Literal

import msgspec

from tallyroll.audit.compiled import FOLLOWS, LINKED, ODD, STRAYS, UNLINKED, Entries
from tallyroll.events.chain import GENESIS, MAX_NUMBER_DIGITS, MAX_SESSIONS
from tallyroll.events.codec import Head

Fit = Literal["linked", "first", "unlinked", "gap", "altered", "repeated"]
"""How a record fits into its publisher's chain: it continues what was read before it, nothing of its session was read before it,
it has no link, something is missing before it, it links to other bytes, or its number was read already."""

FITS: Final[frozenset[Fit]] = frozenset({"linked", "first", "unlinked"})
"""With these nothing is wrong."""

SAID: Final[Mapping[int, Fit]] = {UNLINKED: "unlinked", LINKED: "linked", FOLLOWS: "linked", STRAYS: "altered"}
"""What the core says where nobody knows better."""

_RUNS: Final = re.compile(rb"\x00+|\x01+|\x02[\x03\x04]*")  # records that are odd, that have no link, that continue each other


class _Linked(msgspec.Struct, gc=False):
    chainsession: str
    chainnumber: str
    chainprev: str = ""


class Publishers:
    """The publishers' chains of one partition, as far as they can be told from what was read since this process began with it."""

    def __init__(self) -> None:
        self._sessions: OrderedDict[str, tuple[int, str]] = OrderedDict()

    def fit(self, session: str, text: str, prev: str, digest: str) -> Fit:
        """How a record fits, by its session, its number and what it links to; remembers it."""
        sessions = self._sessions
        if not session or not text.isdecimal() or len(text) > MAX_NUMBER_DIGITS:
            return "unlinked"
        number, known = int(text), sessions.get(session)
        if known is None:
            sessions[session] = (number, digest)
            if len(sessions) > MAX_SESSIONS:
                sessions.popitem(last=False)
            return ("linked" if prev == GENESIS else "altered") if number == 1 else "first"
        high, before = known
        if number <= high:
            return "repeated"
        sessions[session] = (number, digest)
        sessions.move_to_end(session)
        if number > high + 1:
            return "gap"
        return "linked" if prev == before else "altered"

    def fits(self, plain: Entries, odd: Sequence[tuple[Head, str] | None], values: Sequence[bytes | None]) -> list[Fit]:
        """As ``fit`` of each record, in their order; ``odd`` are the heads and the digests of those of which there is no entry.

        What is no event, None there, fits as well as any.
        """
        fits, links, digests = list[Fit](), iter(plain.links), iter(plain.ids[1::6])
        for run in _RUNS.finditer(plain.fits):
            start, stop = run.span()
            how = plain.fits[start]
            if how == ODD:
                fits += ["unlinked" if event is None else self._fit_odd(*event) for event in odd[start:stop]]
            elif how == UNLINKED:
                fits += ["unlinked"] * (stop - start)
                next(islice(digests, stop - start - 1, None))
            else:
                link = next(links), next(links), next(links)
                fits += self._fit_run(*link, list(islice(digests, stop - start)), plain.fits[start + 1 : stop], values[start + 1 : stop])
        return fits

    def _fit_odd(self, head: Head, digest: str) -> Fit:
        return self.fit(head.chainsession, head.chainnumber, head.chainprev, digest)

    def _fit_run(  # noqa: PLR0913  # a record, and what is told of those behind it
        self, session: str, text: str, prev: str, digests: Sequence[str], hows: bytes, values: Sequence[bytes | None]
    ) -> list[Fit]:
        """Of a record, and of those behind it that have the numbers behind its."""
        fits = [self.fit(session, text, prev, digests[0])]
        if fits[0] == "repeated":  # then they may be, too
            linked = [_decode_linked(value or b"") for value in values]
            fits += [self.fit(one.chainsession, one.chainnumber, one.chainprev, own) for one, own in zip(linked, digests[1:], strict=True)]
        elif hows:
            self._sessions[session] = (int(text) + len(hows), digests[-1])
            fits += [SAID[how] for how in hows]
        return fits


_decode_linked: Final = msgspec.json.Decoder(_Linked).decode

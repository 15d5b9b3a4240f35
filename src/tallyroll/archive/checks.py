"""What is checked of all records of a partition in offset order: sequence numbers and the publishers' chains. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from tallyroll.errors import Undecodable
from tallyroll.events.chain import ChainChecker, ChainFinding, ChainState
from tallyroll.events.codec import Head
from tallyroll.events.position import TopicPartition
from tallyroll.ports import ArchivedFinding, Judged, TailColumns
from tallyroll.replay.findings import Finding, SequenceCheck, SequenceState

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(tuple[ChainState, SequenceState]).decode


class Checks:
    """Both checkers of one partition, carried from seal to seal by ``dump``. ``from_start``: the log began at offset 0."""

    def __init__(self, partition: TopicPartition, dumped: bytes = b"", *, from_start: bool = True) -> None:
        if dumped:
            chain, sequences = _decode(dumped)
            self._chain = ChainChecker.load(chain)
            self._sequences = SequenceCheck.load(*partition, sequences)
        else:
            self._chain = ChainChecker(from_start=from_start)
            self._sequences = SequenceCheck(*partition)
        self._found: list[ArchivedFinding] = []

    def read(self, records: Sequence[Judged], heads: Sequence[Head | Undecodable]) -> None:
        """Takes the next records, with their heads."""
        self.read_columns(TailColumns.of(records), heads)

    def read_columns(self, tail: TailColumns, heads: Sequence[Head | Undecodable]) -> None:
        """As ``read``, of records that are columns."""
        offsets, values, _, _, odd = tail
        copies = {index for index, one in odd.items() if one.verdict in ("repeat", "duplicate")}
        self._found += [ArchivedFinding(one.verdict, offsets[index], one.reason, one.aggregate or "") for index, one in odd.items()]
        chained = [None if isinstance(head, Undecodable) else head for head in heads]
        for index, found in self._chain.feed_all(offsets, values, chained):
            head, reason = chained[index], f"{found.session}/{found.number}"
            aggregate = f"{head.aggregatetype}:{head.aggregateid}" if head is not None else ""
            self._found.append(ArchivedFinding(found.kind, offsets[index], reason, aggregate))
        self._sequences.read_heads(offsets, heads, copies)

    def settle(self) -> list[ArchivedFinding]:
        """What is certain, in offset order; forgets it."""
        found, self._found = self._found, []
        found += _chain_gaps(self._chain.settle())
        found += map(_of_sequence, self._sequences.settle())
        return sorted(found, key=lambda one: one.offset)

    def findings(self) -> list[ArchivedFinding]:
        """As ``settle``, with the gaps that a late record could still close. Leaves everything as it is."""
        open_ones = [*_chain_gaps(self._chain.open_gaps()), *map(_of_sequence, self._sequences.findings())]
        return sorted([*self._found, *open_ones], key=lambda one: one.offset)

    def dump(self) -> bytes:
        """The state behind ``settle``."""
        return _encode((self._chain.dump(), self._sequences.dump()))


def _of_sequence(finding: Finding) -> ArchivedFinding:
    return ArchivedFinding(finding.kind, finding.position.offset, finding.reason, finding.aggregate, finding.missing)


def _chain_gaps(gaps: Iterable[ChainFinding]) -> list[ArchivedFinding]:
    """One finding per session and place, however many numbers are missing there."""
    counts = Counter((gap.offset, gap.session) for gap in gaps)
    return [ArchivedFinding("session_gap", offset, session, missing=missing) for (offset, session), missing in counts.items()]

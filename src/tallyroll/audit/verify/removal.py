"""Whether what is missing may be missing. What nothing in the ledger justifies is a finding, whoever removed it."""

from __future__ import annotations

from .registry import DAY_US, Registry, Removal
from .report import Findings


class Removals:
    """The justifications for one partition. Asked in the order of indexes."""

    def __init__(self, registry: Registry, partition: int, today: int, findings: Findings, *, withheld: bool = False) -> None:
        self._withheld = withheld
        self._registry = registry
        self._partition = partition
        self._today = today
        self._findings = findings
        self._runs: dict[tuple[str, int], _Run] = {}
        self.bodies = 0
        self.parts = 0

    def env_missing(self, index: int, seq: int, retention_class: int, keep_until: int, handles: set[bytes]) -> None:
        """The env of a record is not there."""
        self.bodies += 1
        if self._today <= keep_until:
            self._findings.add("env_missing", self._partition, index, seq, f"to be kept to the end of day {keep_until}")
            return
        self._by_retention("body", index, seq, (retention_class, keep_until), handles)

    def part_missing(self, index: int, seq: int, part: int, mark: tuple[int, bytes], record: tuple[int, int, int, bool]) -> None:
        """A part is not there. ``mark`` is its type and handle; ``record`` class, last day, timestamp, and whether its env is gone."""
        part_type, handle = mark
        self.parts += 1
        retention_class, keep_until, ts_us, bodiless = record
        erased = [
            found
            for found in (
                self._registry.erased_handles.get(handle), self._registry.erased_parts.get((self._partition, index, part)),
            )
            if found is not None
        ]  # fmt: skip
        if erased:
            if self._registry.held(self._partition, index, index + 1, {handle}, min(erased)):
                self._findings.add("held", self._partition, index, seq, f"part {part} was erased under a hold")
            return
        days = self._registry.personal_days.get(retention_class)
        if days is not None and self._covering("personal", index, retention_class):
            self._by_retention("personal", index, seq, (retention_class, ts_us // DAY_US + days), {handle})
        elif bodiless and self._today > keep_until:
            self._by_retention("body", index, seq, (retention_class, keep_until), {handle})
        elif part_type == 4 and self._withheld:
            self._findings.add("withheld", self._partition, index, seq, f"part {part}")
        else:
            self._findings.add("part_missing", self._partition, index, seq, f"part {part}")

    def _by_retention(self, what: str, index: int, seq: int, due: tuple[int, int], handles: set[bytes]) -> None:
        """``due`` is the record's class and the last day on which it had to be there."""
        named = self._covering(what, index, due[0])
        timely = [removal for removal in named if removal.day > due[1]]
        if not named:
            self._findings.add("removal_unlogged", self._partition, index, seq, what)
        elif not timely:
            self._findings.add("early_removal", self._partition, index, seq, f"{what}: removed on day {named[0].day}, kept to {due[1]}")
            return
        moments: list[int | None] = [removal.logged for removal in timely] or [None]
        if all(self._registry.held(self._partition, index, index + 1, handles, moment) for moment in moments):
            self._findings.add("held", self._partition, index, seq, what)

    def _covering(self, what: str, index: int, retention_class: int) -> list[Removal]:
        run = self._runs.get((what, retention_class))
        if run is None:
            run = self._runs[what, retention_class] = _Run(self._registry.removals.get((self._partition, what, retention_class), []))
        return run.at(index)


class _Run:
    """The removals that cover an index, as the index rises: each is looked at twice, not once a record."""

    def __init__(self, removals: list[Removal]) -> None:
        self._waiting = sorted(removals, reverse=True)
        self._open: list[Removal] = []

    def at(self, index: int) -> list[Removal]:
        while self._waiting and self._waiting[-1].start <= index:
            self._open.append(self._waiting.pop())
        if any(removal.end <= index for removal in self._open):
            self._open = [removal for removal in self._open if removal.end > index]
        return self._open

"""Random corruptions of one ledger in which everything happens: none crashes the verifier, none goes unseen, and nor do lawful changes
raise an alarm. ``scripts/fuzz-ledger`` asks about a hundred thousand."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from tests.unit.ledgers import DEK, HANDLE, Opened, new_ledger, report_on, signer, trust_of

from tallyroll.adapters.crypto import AesGcm, Ed25519Signer, is_signed
from tallyroll.audit.ledger import layout, records
from tallyroll.audit.ledger.chain import Draft, Part, Writer
from tallyroll.audit.ledger.layout import Kind, PartType
from tallyroll.audit.ledger.records import Stretch
from tallyroll.audit.verify import verify_files
from tallyroll.testing.ledger import DAY_US, NonceWatch
from tallyroll.testing.ledger_corruption import corruptions
from tallyroll.testing.ledger_story import story


@pytest.mark.slow
def test_random_corruptions() -> None:
    ledger = story(NonceWatch(AesGcm()), Ed25519Signer, is_signed)
    files = ledger.export()
    seen = verify_files(files, trust_of(ledger), check=is_signed)[1]
    trust = trust_of(ledger, remembered=seen)
    untouched = report_on(files, trust)
    assert untouched.valid
    kinds: Counter[str] = Counter()
    for corrupted in islice(corruptions(files, 20_261_126), 1_000):
        report = report_on(corrupted.files, trust)
        assert report != untouched, corrupted.what
        kinds.update(report.counts)
    assert len(kinds) > 20, "the corruptions are of many kinds"


def test_a_change_that_is_none_is_not_found() -> None:
    """A control of the test above: what compares reports must be able to say that nothing happened."""
    ledger = story(AesGcm(), Ed25519Signer, is_signed)
    files = ledger.export()
    assert Opened.of(files).build() == files
    assert report_on(Opened.of(files).build(), trust_of(ledger)) == report_on(files, trust_of(ledger))


class LawfulLedger(RuleBasedStateMachine):
    """Anything that may happen to a ledger, in any order: it verifies, with losses where losses were named."""

    @initialize()
    def begin(self) -> None:
        self.ledger = new_ledger()
        self.writers: dict[bytes, Writer] = {}
        self.lost = False
        self.erased = False
        self.held = False
        self.numbers = 0
        for name in (b"writer-a", b"writer-b"):
            self.start(name, 1, None)

    def start(self, name: bytes, epoch: int, previous: tuple[int, list[records.Head]] | None) -> None:
        """A writer epoch begins with a heartbeat: one that was admitted and never heard of is an alarm."""
        self.writers[name] = self.ledger.enrol(name, epoch, previous)
        self.ledger.beat(self.writers[name], 0)

    @rule(
        name=st.sampled_from([b"writer-a", b"writer-b"]),
        partition=st.integers(0, 1),
        retention_class=st.integers(1, 2),
        parts=st.integers(0, 2),
    )
    def write(self, name: bytes, partition: int, retention_class: int, parts: int) -> None:
        sealed = [Part(PartType.SUBJECT, HANDLE, DEK, b"text %d" % part) for part in range(0 if self.erased else parts)]
        self.ledger.write(self.writers[name], partition, b"{}", *sealed, retention_class=retention_class, keep_days=60)

    @rule(seconds=st.sampled_from([1, 4, 16, 3_600]))
    def wait(self, seconds: int) -> None:
        self.ledger.wait(seconds)
        for writer in self.writers.values():
            self.ledger.beat(writer, 0)

    @rule(name=st.sampled_from([b"writer-a", b"writer-b"]), partition=st.integers(0, 1))
    def redeliver(self, name: bytes, partition: int) -> None:
        sealed = self.ledger.seal(self.writers[name], partition, Draft(Kind.ENTRY, b"{}", (), 1, self.ledger.now_us // DAY_US + 60))
        self.ledger.offer(*sealed, *sealed)

    @rule(name=st.sampled_from([b"writer-a", b"writer-b"]), late=st.booleans())
    def lose(self, name: bytes, late: bool) -> None:  # noqa: FBT001  # drawn
        seal = [self.ledger.seal(self.writers[name], 0, Draft(Kind.ENTRY, b'{"n":%d}' % number, (), 1, 0)) for number in range(2)]
        self.ledger.offer(*seal[1])
        if late:
            self.ledger.offer(*seal[0])
        else:
            self.lost = True

    @rule(name=st.sampled_from([b"writer-a", b"writer-b"]), crash=st.booleans())
    def restart(self, name: bytes, crash: bool) -> None:  # noqa: FBT001  # drawn
        old = self.writers[name]
        if not crash:
            self.ledger.close(old)
        self.start(name, old.epoch + 1, (old.epoch, old.heads))

    @rule()
    def erase(self) -> None:
        request = f"request-{self.numbers}"
        self.numbers += 1
        self.ledger.registry(Kind.ERASURE, records.erasure_request(request))
        self.ledger.registry(Kind.ERASURE, records.erasure(request, [HANDLE]))
        self.erased = True
        for partition in (0, 1):
            for index, record in enumerate(self.ledger.partitions[partition].records):
                for number in range(len(record.parts)):
                    self.ledger.drop_part(partition, index, number)

    @rule(released=st.booleans())
    def hold(self, released: bool) -> None:  # noqa: FBT001  # drawn
        name = f"case-{self.numbers}"
        self.numbers += 1
        self.ledger.registry(Kind.HOLD, records.hold(name, "counsel", "why", handle=b"handle-of-others"))
        if released:
            self.ledger.registry(Kind.HOLD, records.hold_released(name, "counsel", "settled"))
        self.held = self.held or not released

    @precondition(lambda self: len(self.ledger.signers) < 3)
    @rule()
    def rotate(self) -> None:
        self.ledger.rotate(signer(seed=b"key %d" % len(self.ledger.signers)))

    @rule(cut=st.integers(0, 12), prune=st.booleans())
    def expire(self, cut: int, prune: bool) -> None:  # noqa: FBT001  # drawn
        """Days pass in which the writers do not run; then bodies, or a whole prefix, are past their day."""
        stopped = dict(self.writers)
        self.ledger.close(*stopped.values())
        target = self.ledger.partitions[0]
        cut = min(cut, len(target.records))
        self.ledger.wait(400 * 86_400)
        for name, writer in stopped.items():
            self.start(name, writer.epoch + 1, (writer.epoch, writer.heads))
        if prune and cut > target.start and not self.held:  # whose parts were in a prefix, nobody can say afterwards
            self.ledger.checkpoint()
            self.ledger.prune(0, cut)
        elif not prune:
            for index in range(target.start, cut):
                if layout.unpack_core(target.records[index].core).kind == Kind.ENTRY:
                    self.ledger.drop_body(0, index)
            for retention_class in (1, 2):
                self.ledger.retain("body", Stretch(0, target.start, cut, retention_class, 1))

    @rule()
    def checkpoint(self) -> None:
        self.ledger.checkpoint()

    def teardown(self) -> None:
        if not hasattr(self, "ledger"):
            return
        self.ledger.close(*self.writers.values())
        self.ledger.checkpoint()
        files = self.ledger.export()
        report = report_on(files, trust_of(self.ledger))
        assert not report.broken, report.findings
        assert report.lossy <= self.lost
        for corrupted in islice(corruptions(files, len(files["00000.records"])), 3):
            assert report_on(corrupted.files, trust_of(self.ledger)) != report, corrupted.what


LawfulLedger.TestCase.settings = settings(max_examples=40, stateful_step_count=25)
TestLawfulLedger = pytest.mark.slow(LawfulLedger.TestCase)

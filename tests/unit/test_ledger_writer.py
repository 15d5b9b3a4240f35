"""Writers and the taking side: links, numbers, nonces that are never used twice, and what becomes of records that arrive."""

from hashlib import sha256

import pytest
from tests.unit.ledgers import DEK, HANDLE, LOG_ID, new_ledger, personal, report_on, trust_of

from tallyroll.adapters.crypto import AesGcm
from tallyroll.audit.ledger import layout, records
from tallyroll.audit.ledger.chain import Draft, Part, Writer, part_key
from tallyroll.audit.ledger.layout import Kind, PartType
from tallyroll.audit.ledger.partition import LedgerPartition, Verdict
from tallyroll.ports import Cipher, Enrolment
from tallyroll.testing.ledger import NonceReused, NonceWatch

ENTRY = Draft(Kind.ENTRY, b"{}", (personal(), personal(b"second part")))


def writer(cipher: Cipher, name: bytes = b"w", epoch: int = 1) -> Writer:
    enrolment = Enrolment(name.ljust(16, b"\0"), epoch, sha256(name + bytes((epoch,))).digest(), "token", 0)
    return Writer(LOG_ID, enrolment, cipher, rule_set="1")


def test_a_chain_begins_with_its_genesis_and_every_record_links_to_the_one_before() -> None:
    one = writer(NonceWatch(AesGcm()))
    sealed = [*one.seal(0, ENTRY, 1), *one.seal(0, ENTRY, 2), *one.seal(1, ENTRY, 3), *one.seal(0, ENTRY, 4)]
    assert [(item.chain.partition, item.seq) for item in sealed] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (0, 3)]
    in_zero = [item for item in sealed if item.chain.partition == 0]
    prev = layout.genesis_prev(in_zero[0].chain)
    for item in in_zero:
        core = layout.unpack_core(item.record.core)
        assert core.prev == prev
        assert (core.kind == Kind.GENESIS) == (item.seq == 0)
        prev = item.leaf
    assert [(head.partition, head.seq) for head in one.heads] == [(0, 3), (1, 1)]
    assert one.heads[0].leaf == in_zero[-1].leaf


def test_a_sealed_part_opens_with_its_subjects_key_at_its_place() -> None:
    sealed = writer(NonceWatch(AesGcm())).seal(2, ENTRY, 1)[1]
    core = layout.unpack_core(sealed.record.core)
    for number, text in enumerate((b'{"user_id":"anna"}', b"second part")):
        aad = layout.aad_of(sealed.chain.packed(), sealed.seq, number, PartType.SUBJECT)
        opened = AesGcm().open(part_key(DEK, sealed.chain), core.parts[number].nonce, sealed.record.parts[number] or b"", aad)
        assert opened == text
        assert text not in sealed.record.parts[number]


def test_a_plain_part_is_stored_as_it_is() -> None:
    plain = Part(PartType.PLAIN, bytes(16), b"", bytes(16) + b"text")
    sealed = writer(NonceWatch(AesGcm())).seal(0, Draft(Kind.ENTRY, b"{}", (plain,)), 1)[1]
    assert sealed.record.parts == (plain.text,)
    assert layout.unpack_core(sealed.record.core).parts[0].nonce == bytes(12)


def test_no_nonce_is_used_twice_by_writers_epochs_partitions_and_parts() -> None:
    watch = NonceWatch(AesGcm())
    for name in (b"a", b"b"):
        for epoch in (1, 2):  # a restart, a fork and a day's end all begin a new epoch
            one = writer(watch, name, epoch)
            for partition in (0, 1):
                for second in range(3):
                    one.advance(second)
                    one.seal(partition, ENTRY, second)


class FailingOnce(AesGcm):
    """Has no memory left at the fourth part that it is to seal."""

    calls = 0

    def seal(self, key: bytes, nonce: bytes, plain: bytes, aad: bytes) -> bytes:
        self.calls += 1
        if self.calls == 4:
            raise MemoryError
        return super().seal(key, nonce, plain, aad)


def test_records_are_sealed_together_or_not_at_all() -> None:
    one = writer(FailingOnce())
    with pytest.raises(MemoryError):
        one.seal_all(0, (ENTRY, ENTRY), 1)
    assert one.heads == []
    sealed = one.seal_all(0, (ENTRY, ENTRY), 1)
    assert [item.seq for item in sealed] == [0, 1, 2], "nothing is missing of what nobody was given"
    assert judged(sealed, 0, 1, 2) == [Verdict.APPEND] * 3


def test_who_seals_a_number_again_reuses_a_nonce() -> None:
    watch = NonceWatch(AesGcm())
    writer(watch).seal(0, ENTRY, 1)
    with pytest.raises(NonceReused):
        writer(watch).seal(0, Draft(Kind.ENTRY, b'{"sealed":"again"}', (personal(b"another text"),)), 1)


def test_forgetting_a_key_changes_nothing_for_who_still_has_it() -> None:
    one = writer(NonceWatch(AesGcm()))
    before = one.seal(0, ENTRY, 1)[1]
    one.forget(DEK)
    after = one.seal(0, ENTRY, 1)[0]
    assert layout.unpack_core(after.record.core).parts[0].handle == layout.unpack_core(before.record.core).parts[0].handle == HANDLE


def judged(sealed: list, *arrivals: int) -> list[Verdict]:
    partition = LedgerPartition(LOG_ID, 0)
    verdicts = []
    for at in arrivals:
        offered = partition.judge(sealed[at].record, {(sealed[at].chain.writer, 1)})
        verdicts.append(offered.verdict)
        if offered.verdict in (Verdict.APPEND, Verdict.LATE, Verdict.GAP):
            partition.append([offered])
    return verdicts


def test_what_becomes_of_records_that_arrive() -> None:
    one = writer(NonceWatch(AesGcm()))
    sealed = [item for second in range(5) for item in one.seal(0, ENTRY, second)]
    assert judged(sealed, 0, 1, 2, 2, 1, 0) == [Verdict.APPEND] * 3 + [Verdict.REPEAT] * 3
    assert judged(sealed, 0, 1, 4, 2, 3, 5) == [Verdict.APPEND, Verdict.APPEND, Verdict.GAP, Verdict.LATE, Verdict.LATE, Verdict.APPEND]
    assert judged(sealed, 0, 4, 3, 1, 2) == [Verdict.APPEND, Verdict.GAP, Verdict.REPEAT, Verdict.LATE, Verdict.LATE]
    assert judged(sealed, 2, 0, 1) == [Verdict.GAP, Verdict.LATE, Verdict.LATE]


def test_broken_foreign_and_closed() -> None:
    one = writer(NonceWatch(AesGcm()))
    sealed = [*one.seal(0, ENTRY, 1), *one.seal(0, Draft(Kind.CLOSE, records.close("end")), 2), *one.seal(0, ENTRY, 3)]
    assert judged(sealed, 0, 1, 2, 3)[-1] == Verdict.CLOSED
    partition, admitted = LedgerPartition(LOG_ID, 0), {(one.writer, 1)}
    record = sealed[0].record
    assert partition.judge(record._replace(core=record.core[:-1]), admitted).verdict == Verdict.BROKEN
    assert partition.judge(record._replace(env=None), admitted).verdict == Verdict.BROKEN, "nobody may deliver what is removed already"
    assert partition.judge(record._replace(env=b"[]"), admitted).verdict == Verdict.BROKEN
    assert partition.judge(record, set()).verdict == Verdict.UNREGISTERED
    assert LedgerPartition(bytes(16), 0).judge(record, admitted).verdict == Verdict.FOREIGN
    with pytest.raises(ValueError, match="broken"):
        partition.append([partition.judge(record._replace(core=b""), admitted)])


class Twin(Writer):
    """Goes on with another's chains by an older key: what somebody could who has kept it, and no writer of ours."""

    def __init__(self, other: Writer, log_id: bytes, enrolment: Enrolment) -> None:
        super().__init__(log_id, enrolment, AesGcm(), rule_set="1")
        self._tips = other._tips


def test_a_mac_epoch_that_goes_back_is_not_taken() -> None:
    ledger = new_ledger()
    anna = ledger.enrol(b"writer-a")
    ledger.wait(10)
    ledger.write(anna, 0, b"{}")
    twin = Twin(anna, ledger.log_id, Enrolment(anna.writer, 1, ledger.k0[anna.writer, 1], "", anna.opened_us))
    back = twin.seal(0, Draft(Kind.ENTRY, b"{}"), ledger.now_us)
    assert ledger.offer(*back) == Verdict.BROKEN
    target = ledger.partitions[0]
    ledger.append(target, target.ledger.judge(back[0].record, {(anna.writer, 1)}))
    ledger.checkpoint()
    assert "mac_epoch" in report_on(ledger.export(), trust_of(ledger)).counts

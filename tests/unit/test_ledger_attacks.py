"""The attack table: what somebody could do to a ledger, and by what it shows. Every attack is made on an export.

The codes that are expected are asked for exactly where only one thing can notice (``only``), else as a subset: an attack that
shows in three ways is not worse for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from hashlib import sha256

import pytest
from tests.unit.ledgers import (
    DEK,
    HANDLE,
    ORIGIN,
    Opened,
    codes,
    fill,
    new_ledger,
    personal,
    relink,
    report_on,
    signer,
    standard,
    trust_of,
    with_core,
)

from tallyroll.adapters.crypto import AesGcm
from tallyroll.audit.ledger import layout, note, records
from tallyroll.audit.ledger.chain import Draft, Ratchet, Writer
from tallyroll.audit.ledger.layout import META, Kind, Record
from tallyroll.audit.ledger.note import Checkpoint
from tallyroll.audit.ledger.partition import Verdict
from tallyroll.audit.ledger.records import Stretch
from tallyroll.audit.sealing.witness import Refusal
from tallyroll.audit.verify import verify_files
from tallyroll.ports import Enrolment
from tallyroll.testing.ledger import REGISTRAR, MemoryLedger


def opened() -> Opened:
    return Opened.of(standard()[1])


def of(change: Callable[[Opened], Opened], **options: object) -> set[str]:
    return codes(change(opened()).build(), trust_of(standard()[0], **options))


def of_a(attack: Opened, kind: int = 0, at: int = 3, partition: int = 0) -> int:
    return attack.find(partition, writer=b"writer-a", kind=kind)[at]


def test_the_untouched_ledger_verifies() -> None:
    ledger, files = standard()
    report = report_on(files, trust_of(ledger))
    assert report.valid
    assert not report.counts
    assert report.coverage["macs_checked"] == report.coverage["entries"] == sum(len(kept) for kept in opened().records.values())
    assert set(ledger.verdicts) == {Verdict.APPEND}


# A1 to A3: something is modified


def test_a1_a_changed_env() -> None:
    assert of(lambda attack: attack.change(0, 9, lambda record: record._replace(env=b'{"n":0}'))) == {"env_hash"}


@pytest.mark.parametrize("field", ["ts_us", "retention_class", "keep_until_day", "seq", "mac_epoch", "env_hash", "prev", "kind"])
def test_a2_a_changed_core(field: str) -> None:
    def change(record: Record) -> Record:
        value = getattr(layout.unpack_core(record.core), field)
        return with_core(record, **{field: sha256(value).digest() if isinstance(value, bytes) else value + 1})

    assert {"mac", "root"} <= of(lambda attack: attack.change(0, of_a(attack), change))
    assert "root" in of(lambda attack: attack.change(0, of_a(attack), change), macs=False)


def test_a3_a_changed_ciphertext() -> None:
    def change(record: Record) -> Record:
        return record._replace(parts=(bytes(len(record.parts[0] or b"")),))

    assert of(lambda attack: attack.change(0, of_a(attack), change)) == {"part_hash"}


# A4 to A7: records deleted, repeated, moved


def delete(attack: Opened, partition: int, index: int) -> Opened:
    del attack.records[partition][index]
    return attack


def test_a4_a_deleted_entry() -> None:
    assert {"sequence", "size"} <= of(lambda attack: delete(attack, 0, of_a(attack)))


def test_a5_a_repeated_entry() -> None:
    def attack(ledger: Opened) -> Opened:
        index = of_a(ledger)
        ledger.records[0].insert(index, ledger.records[0][index])
        return ledger

    assert {"duplicate", "root"} <= of(attack)


def test_a6_the_order_of_one_writer_changed() -> None:
    def attack(ledger: Opened) -> Opened:
        first, second = of_a(ledger, at=3), of_a(ledger, at=4)
        kept = ledger.records[0]
        kept[first], kept[second] = kept[second], kept[first]
        return ledger

    assert {"sequence", "order", "root"} <= of(attack)


def test_a7_neighbours_of_two_writers_swapped_show_in_the_root_only() -> None:
    def attack(ledger: Opened) -> Opened:
        kept, index = ledger.records[0], of_a(ledger)
        assert ledger.core(0, index).chain.writer != ledger.core(0, index + 1).chain.writer
        kept[index], kept[index + 1] = kept[index + 1], kept[index]
        return ledger

    assert of(attack) == {"root"}


# A8 and A9: without keys


def replaced(attack: Opened) -> Opened:
    index = of_a(attack)
    return attack.change(0, index, lambda record: record._replace(env=b'{"action":"nothing"}'))


def test_a8_replaced_with_the_chain_recomputed() -> None:
    def attack(ledger: Opened) -> Opened:
        return relink(replaced(ledger), 0, b"writer-a", lambda _core, leaf: sha256(leaf).digest())

    assert {"mac", "root", "head_mismatch"} <= of(attack)
    assert {"root"} <= of(attack, macs=False)


def test_a9_the_mac_stripped() -> None:
    change = partial(Record._replace, mac=layout.NO_MAC)
    assert of(lambda attack: attack.change(0, of_a(attack), change)) == {"mac_missing"}
    assert of(lambda attack: attack.change(0, of_a(attack), change), macs=False) == {"mac_missing"}, "also for who has no keys"


# A10 to A12: the tail


def test_a10_the_tail_cut_and_the_notes_kept() -> None:
    def attack(ledger: Opened) -> Opened:
        del ledger.records[0][-4:]
        return ledger

    assert of(attack) == {"size"}


def cut(attack: Opened, *partitions: int, drop: int) -> Opened:
    for partition in partitions:
        del attack.records[partition][-drop:]
    return attack.resign(signer())


def test_a11_the_notes_cut_too_with_a_remembered_note() -> None:
    ledger, files = standard()
    seen = verify_files(files, trust_of(ledger))[1]
    assert "rolled_back" in codes(cut(opened(), 0, 1, drop=6).build(), trust_of(ledger, quorum=0, remembered=seen))
    other = fill(new_ledger(), action=b"erase")
    other.checkpoint()
    assert codes(other.export(), trust_of(ledger)) == set(), "another history of the same length is whole in itself"
    assert codes(other.export(), trust_of(ledger, remembered=seen)) == {"split_view"}


def test_a12_the_notes_cut_too_with_heads() -> None:
    ledger = fill(new_ledger(), 60)
    attack = Opened.of(ledger.export())
    del attack.records[1][-15:]
    assert "head_missing" in codes(attack.resign(signer()).build(), trust_of(ledger, quorum=0))


def test_a12_a_partition_that_only_lags_is_a_warning() -> None:
    ledger = fill(new_ledger(), 60)
    attack = Opened.of(ledger.export())
    del attack.records[1][-3:]
    report = report_on(attack.resign(signer()).build(), trust_of(ledger, quorum=0))
    assert report.valid
    assert set(report.counts) == {"head_pending"}


# A13 and A14: removed without cause


def test_a13_an_env_removed_without_cause() -> None:
    assert of(lambda attack: attack.change(0, 9, partial(Record._replace, env=None))) == {"env_missing"}


def test_a14_a_part_removed_without_cause() -> None:
    assert of(lambda attack: attack.change(0, of_a(attack), partial(Record._replace, parts=(None,)))) == {"part_missing"}


# A15: a writer


def test_a15_a_whole_writer_removed() -> None:
    def without(attack: Opened, partitions: tuple[int, ...]) -> Opened:
        for partition in partitions:
            for index in reversed(attack.find(partition, writer=b"writer-b")):
                del attack.records[partition][index]
        return attack

    assert {"size", "root"} & of(lambda attack: without(attack, (0, 1)))
    ledger = fill(new_ledger(), 60)
    attack = without(Opened.of(ledger.export()), (0, 1)).resign(signer())
    assert codes(attack.build(), trust_of(ledger, quorum=0)) == {"silent"}, "the registry remembers it when every note is forged"


# A16 to A18: keys are stolen


def key_of(ledger: MemoryLedger, writer: bytes, epoch: int) -> Ratchet:
    ratchet = Ratchet(ledger.k0[writer.ljust(16, b"\0"), 1])
    ratchet.advance(epoch)
    return ratchet


def rewritten(ledger: MemoryLedger, mac: Callable[[layout.Core, bytes], bytes], **fields: object) -> Opened:
    attack = relink(replaced(Opened.of(ledger.export())), 0, b"writer-a", mac, **fields)
    for index in attack.find(0, writer=b"writer-a", kind=Kind.HEADS):
        assert attack.core(0, index).kind == Kind.HEADS
    return attack.resign(signer())


def test_a16_the_mac_key_of_now_cannot_rewrite_the_past() -> None:
    ledger = fill(new_ledger(), 200)
    stolen = key_of(ledger, b"writer-a", 199)
    attack = rewritten(ledger, lambda _core, leaf: stolen.mac(layout.mac_input(leaf)))
    assert "mac" in codes(attack.build(), trust_of(ledger, quorum=0))
    relabelled = rewritten(ledger, lambda _core, leaf: stolen.mac(layout.mac_input(leaf)), mac_epoch=199)
    assert "backdated" in codes(relabelled.build(), trust_of(ledger, quorum=0)), "nor when it calls the past its own"
    assert "backdated" in codes(relabelled.build(), trust_of(ledger, quorum=0, macs=False))


def with_root_keys(ledger: MemoryLedger) -> Opened:
    """A rewrite by who holds the first MAC key and the log's key; heads are made to fit as well."""
    attack = Opened.of(ledger.export())
    del attack.records[0][-12:]
    for index in attack.find(0, kind=Kind.HEADS):
        attack.change(0, index, lambda record: record._replace(env=records.heads([])))
    replaced(attack)
    for writer in (b"writer-a", b"writer-b", REGISTRAR):
        relink(attack, 0, writer, lambda core, leaf, writer=writer: key_of(ledger, writer, core.mac_epoch).mac(layout.mac_input(leaf)))
    return attack.resign(signer())


def test_a17_root_keys_stolen_with_a_witness() -> None:
    ledger, _ = standard()
    assert codes(with_root_keys(ledger).build(), trust_of(ledger)) == {"quorum"}


def test_a17_an_old_cosigned_note_does_not_cover_the_forgery() -> None:
    ledger, files = standard()
    attack = with_root_keys(ledger)
    attack.files["meta.notes"] = files["meta.notes"]
    found = report_on(attack.build(), trust_of(ledger))
    assert "quorum" not in found.counts
    assert META in {finding.partition for finding in found.findings if finding.code in {"root", "size"}}


def test_a18_root_keys_stolen_with_a_remembered_note() -> None:
    ledger, files = standard()
    seen = verify_files(files, trust_of(ledger))[1]
    assert {"rolled_back"} <= codes(with_root_keys(ledger).build(), trust_of(ledger, quorum=0, remembered=seen))


# A19 and A20: two histories


def test_a19_a_split_view_is_refused_by_the_witness_and_two_notes_prove_it() -> None:
    ledger, files = standard()
    other = note.sign(Checkpoint(ORIGIN, ledger.meta.size, sha256(b"another").digest()).text(), [signer()])
    assert ledger.witnesses[0].add(ledger.meta.size, other, [], 1) == Refusal.CONFLICT
    longer = note.sign(Checkpoint(ORIGIN, ledger.meta.size + 1, sha256(b"another").digest()).text(), [signer()])
    assert ledger.witnesses[0].add(ledger.meta.size, longer, [bytes(32)], 1) == Refusal.INCONSISTENT
    assert codes(files, replace(trust_of(ledger), notes=(other.packed(),))) == {"split_view"}


def test_a20_a_rollback_is_refused_by_the_witness_and_a_remembered_note_proves_it() -> None:
    ledger, files = standard()
    witness = ledger.witnesses[0]
    assert witness.add(3, note.sign(Checkpoint(ORIGIN, 3, ledger.meta.root(3)).text(), [signer()]), [], 1) == Refusal.CONFLICT
    assert witness.add(0, note.sign(Checkpoint("another/log", 3, ledger.meta.root(3)).text(), [signer()]), [], 1) == Refusal.UNKNOWN_LOG
    assert (
        witness.add(ledger.meta.size, note.sign(Checkpoint(ORIGIN, 99, bytes(32)).text(), [signer(seed=b"x")]), [], 1)
        == Refusal.UNKNOWN_KEY
    )
    later = note.sign(Checkpoint(ORIGIN, ledger.meta.size + 4, sha256(b"more").digest()).text(), [signer()])
    assert codes(files, replace(trust_of(ledger), notes=(later.packed(),))) == {"rolled_back"}


# A21 to A24: before it is sealed into the ledger


def test_a21_records_deleted_before_sealing_are_a_named_loss() -> None:
    ledger = new_ledger()
    anna = ledger.enrol(b"writer-a")
    ledger.write(anna, 0, b'{"n":0}')
    ledger.seal(anna, 0, Draft(Kind.ENTRY, b'{"n":1}'))  # never arrives
    ledger.write(anna, 0, b'{"n":2}')
    ledger.checkpoint()
    assert Verdict.GAP in ledger.verdicts
    report = report_on(ledger.export(), trust_of(ledger))
    assert set(report.counts) == {"gap"}
    assert not report.valid, "a loss that is named is still a loss"
    assert not report.broken


def test_a22_the_same_number_with_other_content() -> None:
    ledger = new_ledger()
    anna = ledger.enrol(b"writer-a")
    ledger.write(anna, 0, b'{"n":0}')
    twin = Writer(ledger.log_id, Enrolment(anna.writer, 1, ledger.k0[anna.writer, 1], "token-1", anna.opened_us), AesGcm(), rule_set="1")
    forked = twin.seal(0, Draft(Kind.ENTRY, b'{"n":"other"}'), ledger.now_us)[1]
    assert ledger.offer(forked) == Verdict.FORK
    target = ledger.partitions[0]
    ledger.append(target, target.ledger.judge(forked.record, {(anna.writer, 1)}))
    ledger.checkpoint()
    assert codes(ledger.export(), trust_of(ledger)) == {"fork"}


def test_a23_a_record_copied_to_another_partition() -> None:
    ledger = fill(new_ledger(), 10)
    stolen = ledger.partitions[0].records[5]
    target = ledger.partitions[1]
    offered = target.ledger.judge(stolen, {})
    assert offered.verdict == Verdict.FOREIGN
    ledger.append(target, offered)
    ledger.checkpoint()
    assert "core" in codes(ledger.export(), trust_of(ledger))


def test_a24_an_unregistered_producer() -> None:
    ledger = fill(new_ledger(), 10)
    mallory = ledger.writer(b"mallory")
    sealed = ledger.seal(mallory, 0, Draft(Kind.ENTRY, b"{}"))
    assert ledger.offer(*sealed) == Verdict.UNREGISTERED
    target = ledger.partitions[0]
    for item in sealed:
        ledger.append(target, target.ledger.judge(item.record, {(mallory.writer, 1)}))
    ledger.checkpoint()
    assert codes(ledger.export(), trust_of(ledger)) == {"unregistered"}


# A25 to A27: removal


def test_a25_an_erasure_that_nobody_logged() -> None:
    ledger = fill(new_ledger(), 10)
    ledger.drop_part(0, ledger_index(ledger), 0)
    assert codes(ledger.export(), trust_of(ledger)) == {"part_missing"}


def ledger_index(ledger: MemoryLedger) -> int:
    return next(index for index, record in enumerate(ledger.partitions[0].records) if record.parts)


def test_a26_a_body_removed_early() -> None:
    ledger = fill(new_ledger(), 10)
    ledger.drop_body(0, 7)
    ledger.retain("body", Stretch(0, 0, 10, 1, 1))
    ledger.checkpoint()
    assert codes(ledger.export(), trust_of(ledger)) == {"env_missing"}
    assert codes(ledger.export(), trust_of(ledger, days=400)) == {"early_removal"}, "its day passes later, and the record of it stays"


def pruned_ledger(cut_at: int, length: int = 200) -> MemoryLedger:
    """Two writers in one partition, everything due after a year, and the first records pruned then."""
    ledger = new_ledger()
    anna, bert = ledger.enrol(b"writer-a"), ledger.enrol(b"writer-b")
    for number in range(length // 2):
        ledger.write(anna, 0, b'{"n":%d}' % number, personal())
        ledger.write(bert, 0, b'{"n":%d}' % number)
        if number % 10 == 0:
            ledger.checkpoint()
    ledger.wait(367 * 86_400)
    ledger.registry(Kind.GAP, records.gap(records.Missing(0, anna.writer, 1, anna.heads[0].seq + 1, None), "stopped"))
    ledger.registry(Kind.GAP, records.gap(records.Missing(0, bert.writer, 1, bert.heads[0].seq + 1, None), "stopped"))
    ledger.prune(0, cut_at)
    ledger.checkpoint()
    return ledger


def test_a27_a_peak_of_a_pruned_prefix_altered() -> None:
    ledger = pruned_ledger(77)
    attack = Opened.of(ledger.export())
    head = bytearray(attack.heads[0])
    head[25] ^= 1
    attack.heads[0] = bytes(head)
    assert {"prune", "root"} <= codes(attack.build(), trust_of(ledger))


def test_a27_a_prefix_pruned_without_a_record_or_before_its_day() -> None:
    ledger = fill(new_ledger(), 30)
    ledger.prune(0, 16)
    ledger.checkpoint()
    assert codes(ledger.export(), trust_of(ledger)) == {"early_removal"}
    ledger = fill(new_ledger(), 30)
    ledger.partitions[0].start = 16
    assert "prune" in codes(ledger.export(), trust_of(ledger))


def test_a27_an_old_note_needs_a_proof_into_what_is_left() -> None:
    ledger = pruned_ledger(77)
    files = ledger.export()
    assert files.pop("00000.proofs")
    assert codes(files, trust_of(ledger)) == {"proof"}


# Accepted


def test_r1_a_redelivered_record_is_dropped() -> None:
    ledger = new_ledger()
    anna = ledger.enrol(b"writer-a")
    sealed = ledger.seal(anna, 0, Draft(Kind.ENTRY, b"{}"))
    assert ledger.offer(*sealed) == Verdict.APPEND
    size = ledger.partitions[0].tree.size
    assert ledger.offer(*sealed) == Verdict.REPEAT
    assert ledger.partitions[0].tree.size == size


@pytest.mark.parametrize("single", [False, True])
def test_l1_a_logged_erasure(*, single: bool) -> None:
    ledger = fill(new_ledger(), 10)
    index = ledger_index(ledger)
    ledger.registry(Kind.ERASURE, records.erasure_request("request-1"))
    ledger.registry(Kind.ERASURE, records.erasure("request-1", [] if single else [HANDLE], [(0, index, 0)] if single else ()))
    ledger.drop_part(0, index, 0)
    ledger.checkpoint()
    report = report_on(ledger.export(), trust_of(ledger))
    assert not report.counts
    assert report.coverage["parts_removed"] == 1


def test_l1_an_erasure_without_its_request_is_none() -> None:
    ledger = fill(new_ledger(), 10)
    ledger.registry(Kind.ERASURE, records.erasure("request-1", [HANDLE]))
    ledger.drop_part(0, ledger_index(ledger), 0)
    ledger.checkpoint()
    assert codes(ledger.export(), trust_of(ledger)) == {"control", "part_missing"}


def test_l2_a_shredded_key_changes_nothing() -> None:
    ledger = fill(new_ledger(), 10)
    ledger.registry(Kind.ERASURE, records.erasure_request("request-1"))
    ledger.registry(Kind.ERASURE, records.erasure("request-1", [HANDLE]))
    ledger.checkpoint()
    assert DEK not in b"".join(ledger.export().values())
    assert not codes(ledger.export(), trust_of(ledger))


def test_l3_expiry_on_date() -> None:
    ledger = fill(new_ledger(), 10)
    ledger.wait(366 * 86_400)
    kept = ledger.partitions[0].records
    due = [index for index, record in enumerate(kept) if layout.unpack_core(record.core).kind == Kind.ENTRY][:6]
    for index in due:
        ledger.drop_body(0, index)
    unlogged = ledger.export()
    assert "removal_unlogged" in codes(unlogged, trust_of(ledger))
    ledger.retain("body", Stretch(0, 0, due[-1] + 1, 1, len(due)))
    ledger.checkpoint()
    assert codes(ledger.export(), trust_of(ledger)) == {"silent"}, "the writers have stopped, but what was removed is justified"


def test_l3_personal_parts_on_their_own_date() -> None:
    ledger = new_ledger()
    anna = ledger.enrol(b"writer-a")
    index = ledger.write(anna, 0, b"{}", personal(), retention_class=2)
    ledger.drop_part(0, index, 0)
    ledger.close(anna)
    ledger.wait(29 * 86_400)
    ledger.retain("personal", Stretch(0, 0, 9, 2, 1))
    ledger.checkpoint()
    assert codes(ledger.export(), trust_of(ledger)) == {"early_removal"}
    ledger.wait(2 * 86_400)
    ledger.retain("personal", Stretch(0, 0, 9, 2, 1))
    ledger.checkpoint()
    assert not codes(ledger.export(), trust_of(ledger))


@pytest.mark.parametrize("size", [128, 77])
def test_l4_l5_a_pruned_prefix(size: int) -> None:
    ledger = pruned_ledger(size)
    report = report_on(ledger.export(), trust_of(ledger))
    assert not report.counts
    assert report.coverage["pruned"] == {"0": size}


def test_a_hold_outranks_dates_and_erasures() -> None:
    ledger = fill(new_ledger(), 10)
    index = ledger_index(ledger)
    ledger.registry(Kind.HOLD, records.hold("case-1", "counsel-7", "litigation", handle=HANDLE))
    ledger.registry(Kind.ERASURE, records.erasure_request("request-1"))
    ledger.registry(Kind.ERASURE, records.erasure("request-1", [HANDLE]))
    ledger.drop_part(0, index, 0)
    ledger.checkpoint()
    assert codes(ledger.export(), trust_of(ledger)) == {"held"}
    other = fill(new_ledger(), 10)
    other.registry(Kind.HOLD, records.hold("case-1", "counsel-7", "litigation", handle=HANDLE))
    other.registry(Kind.HOLD, records.hold_released("case-1", "counsel-7", "settled"))
    other.registry(Kind.ERASURE, records.erasure_request("request-1"))
    other.registry(Kind.ERASURE, records.erasure("request-1", [HANDLE]))
    other.drop_part(0, index, 0)
    other.checkpoint()
    assert not codes(other.export(), trust_of(other))


# Blind spots: documented, and tested as such


def test_b1_tail_and_notes_cut_before_a_verifier_without_memory() -> None:
    """Nobody who sees only the shorter ledger can know. Memory, later heads elsewhere, or a witness are the cure."""
    ledger, _ = standard()
    attack = opened()
    for kept, writers in ((attack.records[0], 2), (attack.records[1], 1)):
        del kept[-writers:]
    report = report_on(attack.resign(signer()).build(), trust_of(ledger, quorum=0))
    assert not report.broken
    assert report.coverage["remembered"] is False
    assert report.coverage["witnessed_size"] is None


def test_b2_root_keys_stolen_and_no_witness() -> None:
    ledger, _ = standard()
    assert not report_on(with_root_keys(ledger).build(), trust_of(ledger, quorum=0)).broken


def test_b3_a_false_event_from_an_honest_writer() -> None:
    ledger = new_ledger()
    ledger.write(ledger.enrol(b"writer-a"), 0, b'{"action":"what did not happen"}')
    ledger.checkpoint()
    assert report_on(ledger.export(), trust_of(ledger)).valid


def test_a_number_awaited_at_the_cut_of_a_prefix_may_still_come() -> None:
    ledger = new_ledger()
    anna = ledger.enrol(b"writer-a")
    ledger.write(anna, 0, b"{}")
    late, early = (ledger.seal(anna, 0, Draft(Kind.ENTRY, b'{"n":%d}' % number)) for number in range(2))
    ledger.offer(*early)
    size = len(ledger.partitions[0].records)
    ledger.close(anna)
    ledger.wait(400 * 86_400)
    ledger.prune(0, size)
    ledger.checkpoint()
    assert codes(ledger.export(), trust_of(ledger)) == {"gap"}, "what is still lacking is not forgotten with the prefix"
    assert ledger.offer(*late) == Verdict.LATE
    ledger.checkpoint()
    assert codes(ledger.export(), trust_of(ledger)) == {"late"}
    attack = Opened.of(ledger.export())
    attack.change(0, attack.find(0, writer=b"writer-a")[-1], lambda record: with_core(record, ts_us=1))
    assert "link" in codes(attack.build(), trust_of(ledger)), "and nothing else may come in its place"


def test_an_epoch_is_accounted_for_when_the_start_of_the_next_one_was_pruned() -> None:
    ledger = new_ledger()
    anna = ledger.enrol(b"writer-a")
    ledger.write(anna, 1, b"{}")
    ledger.enrol(b"writer-a", 2, (1, anna.heads))
    assert "silent" in codes(closed_after(ledger), trust_of(ledger))
    ledger = new_ledger()
    anna = ledger.enrol(b"writer-a")
    ledger.write(anna, 1, b"{}")
    second = ledger.enrol(b"writer-a", 2, (1, anna.heads))
    ledger.write(second, 0, b"{}")
    ledger.close(second)
    size = len(ledger.partitions[0].records)
    ledger.wait(400 * 86_400)
    ledger.prune(0, size)
    assert not codes(closed_after(ledger), trust_of(ledger))


def closed_after(ledger: MemoryLedger) -> dict[str, bytes]:
    ledger.wait(60)
    ledger.checkpoint()
    return ledger.export()

"""One small ledger in which everything happens that a format has to survive: for golden files, and to be corrupted.

Two writers, three kinds of parts, a record that comes late into a gap, a writer epoch that is succeeded, a hold, an erasure,
a checkpoint key that is rotated, bodies that expire, and a prefix that is pruned. Deterministic: same arguments, same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

from tallyroll.audit.ledger import layout, records
from tallyroll.audit.ledger.chain import Draft, Part, Writer, group_key
from tallyroll.audit.ledger.layout import Kind, PartType
from tallyroll.audit.ledger.note import Checker
from tallyroll.audit.ledger.records import Stretch
from tallyroll.ports import Cipher, Signer
from tallyroll.testing.ledger import MemoryLedger, MemoryWitness

ANNA = b"handle-of-anna  "
BERT = b"handle-of-bert  "
PRUNED = 13


def story(cipher: Cipher, signer_of: Callable[[str, bytes], Signer], check: Checker) -> MemoryLedger:
    """The ledger at the end of the story; ``signer_of`` makes a signer from a name and a 32-byte seed."""
    log_id = sha256(b"story").digest()[:16]
    origin = f"example.com/audit/{log_id.hex()}"
    ledger = MemoryLedger(cipher, signer_of(origin, _key(b"first log key")), log_id=log_id)
    ledger.witnesses.append(MemoryWitness(signer_of("witness.example/w1", _key(b"witness")), ledger.key, check))
    first, second = ledger.enrol(b"writer-a"), ledger.enrol(b"writer-b")
    _early_days(ledger, first, second)
    ledger.rotate(signer_of(origin, _key(b"second log key")))
    third = ledger.enrol(b"writer-a", 2, (1, first.heads))
    ledger.close(first)
    for number in range(4):
        ledger.write(third, 1, b'{"action":"plan","n":%d}' % number, _subject(ANNA), keep_days=800)
        ledger.wait(1)
    ledger.beat(third, 1)
    ledger.checkpoint()
    _erasure(ledger)
    ledger.close(second, third)
    ledger.checkpoint()
    _years_later(ledger)
    return ledger


def _early_days(ledger: MemoryLedger, first: Writer, second: Writer) -> None:
    for number in range(6):
        ledger.write(first, 0, b'{"action":"read","n":%d}' % number, _subject(ANNA), _plain(number))
        ledger.write(second, 0, b'{"action":"write","n":%d}' % number, _group(), retention_class=2)
        ledger.write(second, 1, b'{"action":"note"}', _unknown(number))
        ledger.wait(1)
        if number in (2, 5):
            ledger.beat(first, 0)
            ledger.beat(second, 1)
            ledger.checkpoint()
    late, early = (ledger.seal(second, 1, Draft(Kind.ENTRY, b'{"action":"%s"}' % name, (), 1, 0)) for name in (b"late", b"early"))
    ledger.offer(*early)
    ledger.offer(*late)


def _erasure(ledger: MemoryLedger) -> None:
    ledger.registry(Kind.HOLD, records.hold("case-1", "counsel-7", "litigation", handle=BERT))
    ledger.registry(Kind.ERASURE, records.erasure_request("request-1"))
    ledger.registry(Kind.ERASURE, records.erasure("request-1", [ANNA], [(1, 1, 0)]))
    ledger.drop_part(1, 1, 0)
    for partition, target in ledger.partitions.items():
        for index, record in enumerate(target.records):
            for number, mark in enumerate(layout.unpack_core(record.core).parts):
                if mark.handle == ANNA:
                    ledger.drop_part(partition, index, number)
    ledger.registry(Kind.HOLD, records.hold_released("case-1", "counsel-7", "settled"))


def _years_later(ledger: MemoryLedger) -> None:
    ledger.wait(400 * 86_400)
    ledger.drop_part(0, PRUNED + 3, 0)
    ledger.retain("personal", Stretch(0, 0, PRUNED + 4, 2, 1))
    for index in range(PRUNED, PRUNED + 2):
        ledger.drop_body(0, index)
    ledger.retain("body", Stretch(0, PRUNED, PRUNED + 2, 1, 1))
    ledger.retain("body", Stretch(0, PRUNED, PRUNED + 2, 2, 1))
    ledger.prune(0, PRUNED)
    ledger.checkpoint()


def _key(name: bytes) -> bytes:
    return sha256(b"story/" + name).digest()


def _subject(handle: bytes) -> Part:
    return Part(PartType.SUBJECT, handle, _key(handle), b'{"user_id":"%s"}' % handle.rstrip())


def _group() -> Part:
    key = group_key([(ANNA, _key(ANNA)), (BERT, _key(BERT))])
    return Part(PartType.GROUP, b"handle-of-both  ", key, b'{"description":"two people"}')


def _unknown(number: int) -> Part:
    return Part(PartType.UNKNOWN, b"handle-unknown-%d" % number, _key(b"entry %d" % number), b'{"description":"free text"}')


def _plain(number: int) -> Part:
    return Part(PartType.PLAIN, bytes(16), b"", _key(b"salt %d" % number)[:16] + b'{"resource":"report"}')

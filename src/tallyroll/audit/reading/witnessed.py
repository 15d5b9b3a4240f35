"""What witnesses remember of a ledger, against what is stored: a ledger that was replaced as a whole shows nowhere else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

from tallyroll.audit.ledger import note, proving
from tallyroll.audit.ledger.layout import META
from tallyroll.audit.ledger.note import Checker, Checkpoint, Note, NoteKey
from tallyroll.audit.ledger.tree import EMPTY_ROOT
from tallyroll.audit.sealing.witness import Refusal
from tallyroll.errors import LedgerTampered, Undecodable, WitnessRefused, WitnessUnavailable
from tallyroll.ports import LedgerStore, Signer, Witness

_TRIES: Final = 8  # a sealer at work moves it about once a second, and an answer takes at most some


class Answer(NamedTuple):
    """What one witness says: the ``size`` of the newest checkpoint that it has cosigned, None where it does not tell.

    ``code`` and ``detail`` are what is wrong, if something is; ``confirmed`` is the stored note that continues what it has seen.
    """

    name: str
    size: int | None
    code: str = ""
    detail: str = ""
    confirmed: bytes = b""


AskWitnesses = Callable[[], Awaitable[Sequence[Answer]]]
"""Asks everybody who is configured; no answers where nobody is."""


async def ask_all(
    witnesses: Sequence[Witness], store: LedgerStore, signer: Signer, keys: Sequence[NoteKey], check: Checker
) -> Sequence[Answer]:
    """Of each witness whether the newest checkpoint that is stored continues what it remembers; it cosigns it then.

    A ledger without one is offered as an empty one. ``keys`` are those of witnesses, if they are known: then an answer has to be
    signed by one. Raises StoreUnavailable.
    """
    return await asyncio.gather(*(_ask(one, store, signer, keys, check) for one in witnesses))


async def _ask(witness: Witness, store: LedgerStore, signer: Signer, keys: Sequence[NoteKey], check: Checker) -> Answer:
    name, seen = witness.name, None
    for _ in range(_TRIES):
        signed, size = await _newest(store, signer)
        if seen is not None and seen > size:  # a sealer stores before it asks, and this was read after the witness has said so
            return Answer(name, seen, "rolled_back", f"{name} has seen {seen}, and {size} are there")
        old = size if seen is None else seen
        try:
            answer = await witness.add(old, signed.packed(), await proving.consistency(store, META, old, size))
            cosigned = Note(signed.text, (note.cosignature_in(answer),))
        except (WitnessUnavailable, Undecodable, LookupError) as error:  # the last: nodes of the tree are missing
            return Answer(name, None, "split_view" if isinstance(error, LookupError) else "witness_away", str(error))
        except WitnessRefused as refusal:
            found = _refused(name, old, refusal)
            if isinstance(found, Answer):
                return found
            seen = found
        else:
            if keys and not any(cosigned.signed_by(key, check) for key in keys):
                return Answer(name, None, "note_signature", f"what answers as {name} has the key of no known witness")
            return Answer(name, old, confirmed=signed.packed() if size else b"")
    return Answer(name, None, "witness_away", f"{name} remembers something else each time")


def _refused(name: str, old: int, refusal: WitnessRefused) -> Answer | int:
    """What a refusal comes to; the size that the witness has seen, where that says nothing yet."""
    if refusal.status != Refusal.CONFLICT or refusal.known_size is None:
        return Answer(name, None, "split_view" if refusal.status == Refusal.INCONSISTENT else "witness", f"{name}: {refusal}")
    if refusal.known_size == old:
        return Answer(name, old, "split_view", f"{name} has seen another history of {old}")
    return refusal.known_size or Answer(name, 0)  # nothing to compare with; the sealer makes it known


async def _newest(store: LedgerStore, signer: Signer) -> tuple[Note, int]:
    """The newest stored note; where there is none that can be read, that the ledger is empty."""
    try:
        newest = await proving.newest(store)
        if newest is not None:
            return note.parse(newest), proving.read_signed(newest).size
    except (LedgerTampered, Undecodable):
        pass  # the verification says so
    return note.sign(Checkpoint(signer.name, 0, EMPTY_ROOT).text(), [signer]), 0

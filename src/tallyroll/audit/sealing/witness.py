"""What a witness decides: whether a checkpoint continues the last one it has cosigned. Pure; the witness persists and signs.

The refusals carry the status codes of c2sp.org/tlog-witness.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import NamedTuple

from tallyroll.audit.ledger import tree
from tallyroll.audit.ledger.note import Checker, Checkpoint, Note, NoteKey
from tallyroll.errors import Undecodable


class Refusal(IntEnum):
    """Why a witness does not cosign."""

    MALFORMED = 400
    UNKNOWN_KEY = 403
    UNKNOWN_LOG = 404
    CONFLICT = 409
    INCONSISTENT = 422


class Judged(NamedTuple):
    """The checkpoint to remember and then to cosign; or a refusal, and the size that the witness remembers."""

    checkpoint: Checkpoint | None
    refusal: Refusal | None
    known_size: int


def judge(  # noqa: PLR0913  # what a witness knows, and what it is offered
    trusted: Mapping[str, Sequence[NoteKey]],
    known: Mapping[str, Checkpoint],
    old_size: int,
    offered: Note,
    proof: Sequence[bytes],
    check: Checker,
) -> Judged:
    """Whether to cosign. ``trusted`` are the keys per origin, ``known`` the newest checkpoint cosigned per origin.

    Whoever calls it has to remember the result durably before cosigning, both under one lock: else two answers of the same
    moment could take the log back.
    """
    try:
        checkpoint = Checkpoint.parse(offered.text)
    except Undecodable:
        return Judged(None, Refusal.MALFORMED, 0)
    last = known.get(checkpoint.origin, Checkpoint(checkpoint.origin, 0, tree.EMPTY_ROOT))
    keys = trusted.get(checkpoint.origin)
    refusal: Refusal | None = None
    if keys is None:
        refusal = Refusal.UNKNOWN_LOG
    elif not any(offered.signed_by(key, check) for key in keys):
        refusal = Refusal.UNKNOWN_KEY
    elif old_size > checkpoint.size:
        refusal = Refusal.MALFORMED
    elif old_size != last.size or (old_size == checkpoint.size and last.root != checkpoint.root):
        refusal = Refusal.CONFLICT
    elif not tree.is_consistent(last.size, last.root, checkpoint.size, checkpoint.root, proof):
        refusal = Refusal.INCONSISTENT
    return Judged(None if refusal else checkpoint, refusal, last.size)

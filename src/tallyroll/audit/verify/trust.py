"""What the auditor brings along: keys, witnesses, MAC keys, and what was seen the last time."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from .reading import base64_of, read_json

STATE_FORMAT: Final = "tallyroll-ledger-state/1"


class Checkpoint(NamedTuple):
    """A tree as a note says it is: of a partition (``LEDGER/NUMBER``) or over all of them (``LEDGER``)."""

    origin: str
    size: int
    root: bytes


@dataclass(frozen=True)
class Trust:
    """What a verification may rely on. Each thing left out makes the verdict rest on less, and ``coverage`` says so.

    ``keys`` are the log's public keys and ``witnesses`` those of witnesses, as ``NAME+ID+BASE64``; ``quorum`` is how many
    witnesses must have cosigned. ``mac_keys`` are first MAC keys by (writer, epoch). ``remembered`` is what an earlier
    verification or a witness saw; ``notes`` are signed notes from elsewhere. ``today`` counts days since 1970, UTC.
    ``withheld``: the export may leave out parts that are not sealed, which would show personal data to whoever reads it.
    """

    today: int
    keys: tuple[str, ...] = ()
    witnesses: tuple[str, ...] = ()
    quorum: int = 0
    mac_keys: Mapping[tuple[bytes, int], bytes] = field(default_factory=dict, repr=False)
    remembered: tuple[Checkpoint, ...] = ()
    notes: tuple[bytes, ...] = ()
    withheld: bool = False


def write_state(checkpoints: Iterable[Checkpoint]) -> str:
    """What to remember, as JSON."""
    rows = ",\n  ".join(json.dumps([origin, size, b64encode(root).decode()]) for origin, size, root in checkpoints)
    return f'{{"format": "{STATE_FORMAT}", "checkpoints": [\n  {rows}\n]}}\n'


def read_state(raw: bytes) -> tuple[Checkpoint, ...] | None:
    """What ``write_state`` wrote, or None: a state that cannot be read is a finding, never an empty memory."""
    value = read_json(raw)
    if not isinstance(value, dict) or value.get("format") != STATE_FORMAT or not isinstance(value.get("checkpoints"), list):
        return None
    found = []
    for row in value["checkpoints"]:
        if not isinstance(row, list) or len(row) != 3:
            return None
        origin, size, encoded = row
        root = base64_of(encoded) if isinstance(encoded, str) else None
        if not isinstance(origin, str) or not isinstance(size, int) or not 0 <= size < 1 << 63 or root is None or len(root) != 32:
            return None
        found.append(Checkpoint(origin, size, root))
    return tuple(found)

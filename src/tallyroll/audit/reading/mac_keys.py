"""The first MAC keys of the writer epochs that a ledger's registry admits. None is ever destroyed, so one that is missing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Final, NamedTuple

import msgspec

from tallyroll.audit.ledger.layout import REGISTRY, Kind, unpack_record
from tallyroll.errors import KeyGone, Undecodable
from tallyroll.ports import KeyRing, LedgerStore

_PAGE: Final = 1_000
_env: Final = msgspec.json.Decoder(dict[str, Any])


class MacKeys(NamedTuple):
    """Those that the ring has, by writer and epoch, and the writer epochs whose key it lacks, by where the registry admits them."""

    found: Mapping[tuple[bytes, int], bytes]
    lost: Mapping[int, tuple[bytes, int]]


async def mac_keys(store: LedgerStore, ring: KeyRing) -> MacKeys:
    """All of them; records of the registry that cannot be read are passed over. Raises StoreUnavailable, KeyRingUnavailable."""
    admitted, start = dict[int, tuple[bytes, int]](), 0
    while rows := await store.rows(REGISTRY, start, _PAGE):
        start = rows[-1].number + 1
        for row in rows:
            with suppress(Undecodable, ValueError, KeyError, TypeError):  # the verifier names a record that cannot be read
                record = unpack_record(row.raw)
                if row.raw[5] == Kind.KEY and record.env is not None:
                    env = _env.decode(record.env)
                    if env.get("key") == "writer":
                        admitted[row.number] = bytes.fromhex(env["writer"]), int(env["epoch"])
    found = await asyncio.to_thread(_known, ring, admitted.values())
    return MacKeys(found, {number: chain for number, chain in admitted.items() if chain not in found})


def _known(ring: KeyRing, admitted: Iterable[tuple[bytes, int]]) -> Mapping[tuple[bytes, int], bytes]:
    found = {}
    for chain in admitted:
        with suppress(KeyGone):
            found[chain] = ring.k0(*chain)
    return found

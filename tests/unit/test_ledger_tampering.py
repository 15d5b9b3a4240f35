"""Whoever writes into the file of a ledger's store is found by the verification in place, whatever they write; nothing ends it."""

from __future__ import annotations

import asyncio
import shutil
from itertools import islice
from pathlib import Path

import pytest
from tests.unit.ledger_tampering import Tampering, store_in, tamperings, verified_in

from tallyroll.adapters.crypto import AesGcm, Ed25519Signer, is_signed
from tallyroll.testing.ledger_story import story

DONE = 150


def _copy(whole: Path, torn: Path) -> None:
    for path in torn.parent.glob(f"{torn.name}*"):
        path.unlink()
    shutil.copy(whole, torn)


@pytest.mark.slow
def test_no_tampering_with_a_store_is_missed(tmp_path: Path) -> None:
    ledger = story(AesGcm(), Ed25519Signer, is_signed)

    async def missed() -> tuple[int, list[Tampering]]:
        whole, torn = tmp_path / "whole.sqlite", tmp_path / "torn.sqlite"
        await (await store_in(whole, ledger)).close()
        untouched = await verified_in(whole, ledger, is_signed)
        assert untouched["counts"] == {"late": 1}
        done, found = 0, []
        for one in islice(tamperings(whole, 3), DONE):
            _copy(whole, torn)
            if one.do(torn):
                done += 1
                if await verified_in(torn, ledger, is_signed) == untouched:
                    found.append(one)
        return done, found

    done, found = asyncio.run(missed())
    assert found == []
    assert done > DONE // 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM node WHERE partition = 0 AND height = 2",
        "UPDATE node SET hashes = x'' WHERE partition = 0",
        "UPDATE tail SET start = 3",
    ],
)
def test_nodes_that_stand_for_what_was_pruned_are_missed_and_the_place_is_said(tmp_path: Path, statement: str) -> None:
    ledger = story(AesGcm(), Ed25519Signer, is_signed)

    async def verified() -> dict:
        path = tmp_path / "ledger.sqlite"
        await (await store_in(path, ledger)).close()
        assert Tampering(((statement, ()),), "one").do(path)
        return await verified_in(path, ledger, is_signed)

    found = asyncio.run(verified())
    assert not found["valid"]
    assert {one["partition"] for one in found["findings"]} >= {0}

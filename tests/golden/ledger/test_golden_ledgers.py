"""What was sealed under a released format verifies for ever, and today's writer still seals the newest format byte for byte."""

from __future__ import annotations

import json

import pytest
from tests.golden.ledger.golden import files_of, load, names, report_of
from tests.golden.ledger.plain_verifier import problems

from tallyroll.adapters.crypto import AesGcm, Ed25519Signer, is_signed
from tallyroll.audit.verify import verify_files
from tallyroll.testing.ledger_story import story

NEWEST = "aud1"


@pytest.mark.parametrize("name", names())
def test_a_ledger_of_a_released_format_verifies(name: str) -> None:
    trust, expected = load(name)
    report, seen = report_of(name)
    assert report.valid
    assert report.counts == expected["counts"]
    assert report.coverage.items() >= expected["coverage"].items(), "later reports may say more, not less"
    assert tuple(seen) == trust.remembered
    slow, _ = verify_files(files_of(name), trust)
    assert slow == report, "without a library for signatures as well"


@pytest.mark.parametrize("name", names())
def test_a_second_verifier_agrees(name: str) -> None:
    files = files_of(name)
    assert problems(files) == []
    for file in (one for one in files if one.endswith(".records")):
        at = len(files[file]) - 40
        broken = {**files, file: files[file][:at] + bytes((files[file][at] ^ 1,)) + files[file][at + 1 :]}
        assert problems(broken), "it is no verifier if it finds nothing"


def test_the_writer_still_seals_the_newest_format() -> None:
    assert story(AesGcm(), Ed25519Signer, is_signed).export() == files_of(NEWEST)


@pytest.mark.parametrize("name", names())
def test_the_story_holds_everything_that_a_format_has_to_survive(name: str) -> None:
    coverage = json.loads(json.dumps(load(name)[1]["coverage"]))
    assert coverage["pruned"]
    assert coverage["macs_checked"] == coverage["entries"]
    assert min(coverage[what] for what in ("bodies_removed", "parts_removed", "proofs", "witnessed_size")) > 0
    assert coverage["writer_epochs"] > 4

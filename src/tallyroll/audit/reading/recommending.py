"""What a compliance report advises: sentences that follow from what was found, each for a cause that the report shows. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from tallyroll.audit.compliance.rules import REVIEWED, ComplianceRule, overdue_reviews, unchecked_citations
from tallyroll.audit.reading.index import KEY_LOST
from tallyroll.audit.reading.integrity import Integrity, keys_alone

_BY_CODE: Final[Mapping[str, str]] = {
    "missing_field": "Give the missing fields when the entry is made; {count} entries lack some that a rule requires.",
    "missing_encryption": "Switch AUDIT_ENABLE_ENCRYPTION on; {count} entries have fields in clear that a rule wants sealed.",
    "card_number_in_clear": "Keep card numbers out of clear fields; {count} entries have one.",
    "one_person_decides": "Have another person approve what one asks for; in {count} entries the same one did both.",
    "tool_outside_grant": "Look into agents that used tools outside their grant; {count} entries say so.",
    "forbidden": "Look into {count} entries that say what a rule forbids.",
}


def recommendations(  # noqa: PLR0913  # what a report knows
    codes: Mapping[str, int],
    integrity: Integrity,
    rules: Iterable[ComplianceRule],
    *,
    reviews: Mapping[str, Any],
    gaps: Sequence[object],
    now_us: int,
) -> list[str]:
    """The most urgent first; empty where nothing was found."""
    found, rules = [], list(rules)
    coverage = integrity["coverage"]
    if lost := integrity["counts"].get(KEY_LOST):
        found.append(
            f"Put the newest copy of the key ring back: it lacks keys of {lost} records, and no erasure says why. "
            "Until then nobody can read them; if there is none, find out who took the keys away."
        )
    if integrity["counts"] and not integrity["valid"] and not keys_alone(integrity):
        names = ", ".join(sorted(integrity["counts"]))
        found.append(f"Keep the ledger as it is and find out what happened to it: it does not verify ({names}).")
    if gaps:
        found.append(f"Find out why records were lost; the registry names {len(gaps)} gaps.")
    for code, count in sorted(codes.items(), key=lambda one: -one[1]):
        found.append(_BY_CODE.get(code, "Look into {count} violations of the kind " + code + ".").format(count=count))
    reviewed_us = max((int(datetime.fromisoformat(one["timestamp"]).timestamp() * 1_000_000) for one in reviews["newest"]), default=None)
    if overdue := overdue_reviews(rules, reviewed_us, now_us):
        found.append(f"Review the trail and record it (event type {REVIEWED}): {', '.join(overdue)} ask for it.")
    if integrity["snapshot"] is None:
        found.append("Have the ledger sealed and signed: nothing in it is noted yet.")
    elif not coverage.get("witness"):
        found.append(
            "Have checkpoints witnessed (AUDIT_WITNESS, AUDIT_WITNESS_KEYS): without, who holds all keys could rewrite everything."
        )
    if coverage.get("writer_epochs_with_keys", 0) < coverage.get("writer_epochs", 0):
        found.append("Find the key ring's lost entries: MACs of some writer epochs could not be checked.")
    if unchecked := unchecked_citations(rules):
        found.append(f"{unchecked} Have somebody read them before you rely on this report.")
    return found

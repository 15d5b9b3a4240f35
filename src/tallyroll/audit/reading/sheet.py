"""Entries of the trail as CSV (RFC 4180), safe to open in a spreadsheet. Pure."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from typing import Any, Final

from tallyroll.audit.ledger.contents import AuditEntry

COLUMNS: Final = (
    "timestamp", "audit_id", "event_type", "category", "severity", "outcome", "action", "user_id", "agent_id", "task_id", "workflow_id",
    "session_id", "resource", "description", "source_ip", "user_agent", "correlation_id", "payload", "compliance_frameworks", "rule_ids",
    "violations", "origin", "event_id", "encrypted", "erased", "key_lost", "retention_date", "state", "partition", "index", "position",
    "chain", "previous_hash", "current_hash", "mac",
)  # fmt: skip
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")


def csv_lines(entries: Iterable[AuditEntry]) -> Iterator[str]:
    """The heading, then a line for each entry, each with its end.

    What a spreadsheet would take for a formula gets an apostrophe before it, since an entry can be written by anybody.
    """
    yield _line(COLUMNS)
    for entry in entries:
        shown = entry.to_dict()
        yield _line([_cell(shown[name]) for name in COLUMNS])


def _cell(value: Any) -> str:  # noqa: ANN401  # any field
    if value is None or value == []:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        value = " ".join(value)
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA) else text


def _line(cells: Iterable[str]) -> str:
    out = io.StringIO()
    csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\r\n").writerow(cells)
    return out.getvalue()

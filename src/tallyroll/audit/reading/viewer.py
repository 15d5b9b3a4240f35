"""A page to look at entries offline: a table that can be searched, with its one script inside. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from typing import Any, Final

from tallyroll.audit.ledger.contents import AuditEntry
from tallyroll.audit.reading.report import ComplianceReport
from tallyroll.audit.reading.report_page import page

MAX_VIEWED: Final = 5_000  # entries in one page: what a browser still searches at once

_SCRIPT: Final = """
const all = JSON.parse(document.getElementById('entries').textContent), body = document.getElementById('rows'),
  find = document.getElementById('find'), count = document.getElementById('count'), more = document.getElementById('more');
const columns = ['timestamp', 'event_type', 'category', 'severity', 'outcome', 'action', 'agent_id', 'task_id', 'rule_ids',
  'violations', 'index'];
const text = value => value == null ? '' : Array.isArray(value) ? value.map(text).join(' ')
  : typeof value == 'object' ? JSON.stringify(value) : String(value);
function line(one) {
  const row = document.createElement('tr');
  for (const name of columns) { const cell = document.createElement('td'); cell.textContent = text(one[name]); row.append(cell); }
  row.onclick = () => { more.textContent = JSON.stringify(one, null, 2); more.scrollIntoView(); };
  return row;
}
function show() {
  const words = find.value.toLowerCase().split(/\\s+/).filter(Boolean);
  const found = all.filter(one => { const said = JSON.stringify(one).toLowerCase(); return words.every(word => said.includes(word)); });
  count.textContent = found.length + ' of ' + all.length;
  body.replaceChildren(...found.slice(0, 500).map(line));
}
find.oninput = show; show();
"""


def viewer_page(entries: Sequence[AuditEntry], total: int, report: ComplianceReport) -> str:
    """The page; ``total`` are all the entries there are, of which these are the newest."""
    shown = [{name: value for name, value in entry.to_dict().items() if value not in (None, [], "")} for entry in entries]
    head = "".join(f"<th>{escape(name)}" for name in _COLUMNS)
    words = f"{len(entries)} of {total} entries, the newest; all are in entries.csv. Fields in clear only. At most 500 rows are shown."
    period = report["report_period"]
    body = (
        f"<h1>Audit trail: {escape(report['framework'].upper())}</h1>"
        f"<p class=dim>{escape(period['start'] or 'the beginning')} to {escape(period['end'] or 'now')}. {escape(words)}</p>"
        '<p><label>Find <input id="find" size="40" autofocus></label> <span id="count"></span></p>'
        f'<table><thead><tr>{head}</tr></thead><tbody id="rows"></tbody></table><pre id="more">Click a row to see all of it.</pre>'
        f'<script type="application/json" id="entries">{_inside(shown)}</script>'
    )
    return page(f"Audit trail {report['framework']}", body, script=_SCRIPT)


_COLUMNS: Final = ("time", "type", "category", "severity", "outcome", "action", "agent", "task", "rules", "violations", "index")


def _inside(value: Any) -> str:  # noqa: ANN401  # JSON values
    """JSON that cannot end the element it stands in."""
    return json.dumps(value).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")

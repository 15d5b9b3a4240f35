"""The compliance report as one HTML page that needs nothing else: no script, no font, no picture from anywhere. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, Final

from tallyroll.audit.reading.integrity import keys_alone
from tallyroll.audit.reading.report import ComplianceReport

STYLE: Final = """
:root{color-scheme:light dark;--line:#8884;--good:#1a7f37;--bad:#cf222e}
body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem;margin-bottom:0}h2{font-size:1.15rem;margin:2rem 0 .5rem;border-bottom:1px solid var(--line)}
table{border-collapse:collapse;width:100%;font-size:.9em}th,td{text-align:left;padding:.25rem .6rem;border-bottom:1px solid var(--line);
vertical-align:top;overflow-wrap:anywhere}th{font-weight:600}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
.good{color:var(--good);font-weight:600}.bad{color:var(--bad);font-weight:600}.dim{opacity:.7}
pre{overflow-x:auto;border:1px solid var(--line);padding:.6rem;font-size:.8em}@media print{body{max-width:none;margin:0}}
"""


def report_page(report: ComplianceReport) -> str:
    """The page. Every text in it is escaped: much of it was written by others."""
    certificate = report["integrity_certificate"]
    period = f"{report['report_period']['start'] or 'the beginning'} to {report['report_period']['end'] or 'now'}"
    parts = [
        f"<h1>Compliance report: {escape(report['framework'].upper())}</h1>",
        f"<p class=dim>{escape(period)} · rule set {escape(report['rule_set'])} · made {escape(report['generated_at'])}</p>",
        _facts({
            "events": report["total_events"], "rules analysed": report["rules_analyzed"], "violations": report["violations_total"],
            "ledger": verdict_of(certificate)[0], "entries verified": f"{certificate['verified_entries']} of "
            f"{certificate['total_entries']}",
        }),
        _list("Recommendations", report["recommendations"], "Nothing was found that asks for action."),
        _rules(report),
        _rows("Violations", report["violations"], ("timestamp", "rule_id", "code", "severity", "fields", "audit_id", "position"),
              f"{report['violations_total']} in all"),
        _certificate(certificate),
        _rows("Populations", [
            {"rule": rule_id, **stretch, "gaps": one["gaps"]}
            for rule_id, one in report["population"].items()
            for stretch in one["stretches"]
        ], ("rule", "partition", "first", "last", "records", "entries", "gaps"),
            "The stretch of a partition in which a rule's entries lie. It has no holes if no gap is named and the ledger verifies."),
        _rows("Reviews", report["review_record"]["newest"], ("timestamp", "audit_id", "action", "purpose"),
              f"{report['review_record']['total']} in all"),
        _rows("Reads of personal fields", report["reads"]["newest"], ("timestamp", "audit_id", "action", "purpose"),
              f"{report['reads']['total']} in all"),
        *(_rows(title, report[name], ("index", "timestamp", *columns), "") for title, name, columns in _REGISTRY),  # type: ignore[literal-required]  # keys of the report
        _sample(report),
    ]  # fmt: skip
    return page(f"Compliance report {report['framework']}", "\n".join(parts))


def page(title: str, body: str, *, script: str = "") -> str:
    """A page that loads nothing: its policy says so to the browser too."""
    run = "; script-src 'unsafe-inline'" if script else ""
    policy = f"default-src 'none'; style-src 'unsafe-inline'{run}"
    code = f"<script>{script}</script>" if script else ""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
        f'<meta name="viewport" content="width=device-width"><title>{escape(title)}</title><style>{STYLE}</style></head>\n'
        f"<body>\n{body}\n{code}</body></html>\n"
    )


_REGISTRY: Final = (
    ("Retention runs", "retention_runs", ("retention", "partition", "start", "end", "size", "removed", "operator")),
    ("Erasures", "erasures", ("erasure", "request", "handles", "restricted")),
    ("Holds", "holds", ("hold", "id", "who", "why", "partition")),
    ("Keys and rule sets", "key_events", ("key", "writer", "epoch", "vkey", "version")),
    ("Losses", "gaps", ("gap", "reason")),
)


def _rules(report: ComplianceReport) -> str:
    rows = []
    for rule_id, one in report["compliance_summary"].items():
        rate = one["compliance_rate_percent"]
        shown = "-" if rate is None else f"{rate:g} %"
        mark = "" if rate is None else " good" if not one["violating_events"] else " bad"
        cells = [
            f"<td>{escape(rule_id)}</td><td>{escape(one['title'])}<br><span class=dim>{escape(one['citation'])}</span></td>",
            f"<td>{escape(one['severity'])}</td><td class=n>{one['applicable_events']}</td><td class=n>{one['violating_events']}</td>",
            f'<td class="n{mark}">{shown}</td>',
        ]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    head = "<th>rule<th>what<th>severity<th class=n>events<th class=n>violating<th class=n>compliant"
    return f"<h2>Rules</h2><table><tr>{head}</tr>{''.join(rows)}</table>"


def verdict_of(certificate: Mapping[str, Any]) -> tuple[str, str]:
    """What a certificate comes to, and whether that is ``good`` or ``bad``."""
    if certificate["valid"]:
        return "verifies", "good"
    return ("verifies, and lacks keys" if keys_alone(certificate) else "does not verify"), "bad"


def _certificate(certificate: Mapping[str, Any]) -> str:
    coverage, snapshot = certificate["coverage"], certificate["snapshot"]
    verdict = "<span class={1}>{0}</span>".format(*verdict_of(certificate))
    facts = {
        "MACs checked": coverage.get("macs_checked", 0), "signatures checked": coverage.get("signatures_checked", False),
        "witnessed up to": coverage.get("witnessed_size") or "not witnessed", "an earlier note": coverage.get("remembered", False),
        "broken links": certificate["broken_links"], "integrity failures": certificate["integrity_failures"],
        "first bad position": certificate["first_bad_position"] or "-", "public keys": " ".join(certificate["public_keys"]),
    }  # fmt: skip
    signed = f"<pre>{escape(snapshot['note'])}</pre>" if snapshot else "<p>Nothing is signed yet.</p>"
    return f"<h2>Integrity certificate</h2><p>The ledger {verdict}. What that rests on:</p>{_facts(facts)}{signed}" + _rows(
        "Findings", certificate["findings"], ("severity", "code", "partition", "index", "seq", "detail"), ""
    )


def _sample(report: ComplianceReport) -> str:
    parts = [
        f"<details><summary>{escape(str(one['audit_id']))} · {escape(one['timestamp'])} · {escape(one['event_type'])} · partition "
        f"{one['partition']}, index {one['index']}</summary><pre>{escape(one['proof'] or 'not noted yet')}</pre></details>"
        for one in report["sample"]
    ]
    seed = f"<p class=dim>Drawn by the seed {escape(report['sample_seed'])}; each proof can be checked alone.</p>"
    return f"<h2>Sample</h2>{seed}{''.join(parts)}"


def _facts(facts: Mapping[str, object]) -> str:
    return "<table>" + "".join(f"<tr><th>{escape(name)}<td>{_text(value)}</tr>" for name, value in facts.items()) + "</table>"


def _list(title: str, lines: Sequence[str], nothing: str) -> str:
    shown = "".join(f"<li>{escape(line)}" for line in lines)
    return f"<h2>{escape(title)}</h2>" + (f"<ul>{shown}</ul>" if lines else f"<p>{escape(nothing)}</p>")


def _rows(title: str, rows: Iterable[Mapping[str, Any]], columns: Sequence[str], words: str) -> str:
    listed = [*rows]
    note = f"<p class=dim>{escape(words)}</p>" if words else ""
    if not listed:
        return f"<h2>{escape(title)}</h2>{note}<p>None.</p>"
    head = "".join(f"<th>{escape(name)}" for name in columns)
    body = "".join("<tr>" + "".join(f"<td>{_text(row.get(name))}" for name in columns) + "</tr>" for row in listed)
    return f"<h2>{escape(title)}</h2>{note}<table><tr>{head}</tr>{body}</table>"


def _text(value: object) -> str:
    if value is None or value in ([], ()):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return escape(" ".join(str(one) for one in value))
    if isinstance(value, Mapping):
        return escape(", ".join(f"{name} {one}" for name, one in value.items()))
    return escape(str(value))

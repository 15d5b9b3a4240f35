"""``tallyroll audit verify|proof|report|evidence``: that the ledger is whole, for oneself and for others."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from tallyroll.audit.reading.evidence import Packed
from tallyroll.audit.reading.index import KEY_LOST
from tallyroll.audit.reading.integrity import Integrity, keys_alone
from tallyroll.audit.reading.report import ComplianceReport
from tallyroll.audit.reading.report_page import report_page, verdict_of
from tallyroll.cli.audit.reading import Since, Until, trail_of
from tallyroll.cli.audit.rules import framework_named
from tallyroll.cli.exits import CommandError, ExitCode
from tallyroll.cli.printing import counted, markup, note, number, paint, plain, say, say_json, table
from tallyroll.cli.progress import Progress
from tallyroll.cli.session import Json, Session, Url, examples, moment_of, run, session_of

_VERIFY: Final = examples(
    "tallyroll audit verify", "tallyroll audit verify --since 30d --json", "tallyroll audit verify --note then.note --save-note now.note"
)
_PROOF: Final = examples(
    "tallyroll audit proof AUDIT_ID --output entry.tlog-proof",
    "python -m tallyroll.audit.verify entry.tlog-proof --key KEY      # KEY as 'tallyroll audit keys status' shows it",
    "tallyroll audit proof --from-size 120                            # that the newest checkpoint continues an older one",
)
_REPORT: Final = examples("tallyroll audit report gdpr --since 30d", "tallyroll audit report sox --html report.html --json > report.json")
_EVIDENCE: Final = examples(
    "tallyroll audit evidence gdpr evidence.zip --since 90d", "unzip evidence.zip -d e && cd e && python3 verify.pyz"
)

FrameworkName = Annotated[
    str, typer.Argument(metavar="FRAMEWORK", help="sox, gdpr, hipaa, pci_dss, soc2, iso27001, nist, eu_ai_act or custom.")
]
Seed = Annotated[str | None, typer.Option("--seed", metavar="TEXT", help="What the sample is drawn by; the signed root if not given.")]


def add_to(app: typer.Typer) -> None:
    """Adds the commands of this module to a collection."""
    app.command(epilog=_VERIFY)(verify)
    app.command(epilog=_PROOF)(proof)
    app.command(epilog=_REPORT)(report)
    app.command(epilog=_EVIDENCE)(evidence)


def verify(  # noqa: PLR0913  # one parameter per option
    context: typer.Context,
    *,
    since: Since = None,
    until: Until = None,
    notes: Annotated[
        list[Path] | None, typer.Option("--note", metavar="FILE", help="A checkpoint kept from before: it must still hold. Repeatable.")
    ] = None,
    save_note: Annotated[
        Path | None,
        typer.Option("--save-note", metavar="FILE", help="Keep the newest checkpoint, where this machine's users cannot write."),
    ] = None,
    url: Url = None,
    json: Json = False,
) -> None:
    """Verify the whole ledger as it is stored; the period says which entries are counted.

    Asks the witness of AUDIT_WITNESS as well, which cosigns the newest checkpoint then, and the log, up to where it was sealed.
    Exit code 1 if something is wrong or lost, be it only keys of the ring. Who runs this holds the keys: an outsider verifies an export,
    'tallyroll audit export --format ledger', with 'python -m tallyroll.audit.verify'.
    """
    session = session_of(context, url, json)
    found = run(_verify(session, since, until, [path.read_bytes() for path in notes or ()]))
    if save_note is not None and (found["valid"] or keys_alone(found)) and found["snapshot"] is not None:
        save_note.write_text(found["snapshot"]["note"], encoding="utf-8")
    if session.json:
        say_json(found)
    else:
        show_integrity(found)
    if not found["valid"]:
        raise typer.Exit(ExitCode.FINDINGS)


async def _verify(session: Session, since: str | None, until: str | None, notes: list[bytes]) -> Integrity:
    async with trail_of(session) as trail:
        note("verifying the ledger")
        return await trail.verify_audit_integrity(moment_of(since, "--since"), moment_of(until, "--until"), notes=notes)


def show_integrity(found: Integrity) -> None:
    """Prints the verdict, what was found, and what it rests on."""
    wrong = f"{counted(found['broken_links'], 'broken link')}, {counted(found['integrity_failures'], 'integrity failure')}"
    verdict = paint("intact", "bold green") if found["valid"] else paint(wrong, "bold red")
    if keys_alone(found):
        verdict = paint("intact, and keys are lost", "bold yellow")
    say(f"{verdict}  {number(found['verified_entries'])} of {counted(found['total_entries'], 'entry')} verified")
    if found["first_bad_position"]:
        say(f"first at {plain(found['first_bad_position'])}")
    if found["findings"]:
        rows = [
            (
                markup(one["severity"], "red" if one["severity"] == "broken" else "yellow"), markup(one["code"]),
                markup(_or_dash(one["partition"])), markup(_or_dash(one["index"])), markup(one["detail"]),
            )
            for one in found["findings"][:20]
        ]  # fmt: skip
        table(("severity", "code", "partition", "index", "detail"), rows)
    if lost := found["counts"].get(KEY_LOST):
        note(f"{counted(lost, 'record')} nobody can read, since keys are lost that no erasure names: put the newest key ring back")
    coverage = found["coverage"]
    if found["snapshot"] is None:
        if found["valid"]:
            note("nothing is recorded or signed yet")
        _show_witnesses(coverage)
        return
    records = f"{number(coverage['entries'])} records of {counted(len(coverage['partitions']), 'partition')}"
    note(f"{records}, {counted(coverage['macs_checked'], 'MAC')}, {counted(coverage['notes'], 'signed note')}")
    if coverage["beyond_notes"]:
        note(f"{counted(coverage['beyond_notes'], 'record')} behind the newest checkpoint: nothing but the MACs was checked of them")
    if coverage["unsealed"] is None:
        note("the log could not be asked: what was sealed once and is lost since would not show")
    elif coverage["unsealed"]:
        note(f"{counted(coverage['unsealed'], 'record')} of the log not in the ledger yet; 'tallyroll run audit' seals them")
    _show_witnesses(coverage)


def _show_witnesses(coverage: dict[str, Any]) -> None:
    """What witnesses vouch for; of one that has something against the ledger, the findings tell."""
    for name, size in coverage["witnesses"].items():
        if size == 0:
            note(f"{plain(name)} has seen nothing of this ledger yet: what was before it cannot vouch for")
        elif size is not None:
            note(f"{plain(name)} has seen it up to checkpoint {number(size)}")
    if not coverage["witnesses"]:
        note("no witness is configured (AUDIT_WITNESS): a ledger that was replaced as a whole, or made anew from the log, would verify too")


def proof(  # noqa: PLR0913  # one parameter per option
    context: typer.Context,
    audit_id: Annotated[str | None, typer.Argument(metavar="[AUDIT_ID]", help="Of which entry.")] = None,
    *,
    from_size: Annotated[
        int | None, typer.Option("--from-size", min=0, metavar="N", help="That the newest checkpoint continues the one of this size.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", metavar="FILE", help="Where to; standard output if not given.")] = None,
    url: Url = None,
    json: Json = False,
) -> None:
    """A proof for somebody who has nothing else: that an entry is in the ledger, or that one checkpoint continues another.

    It is a file as c2sp.org/tlog-proof says; nothing personal is in it. Exit code 4 for an unknown entry.
    """
    session = session_of(context, url, json)
    if (audit_id is None) == (from_size is None):
        raise CommandError(ExitCode.USAGE, "one of AUDIT_ID and --from-size is needed", "see the examples in --help")
    made = run(_proof(session, audit_id, from_size))
    if output is not None:
        output.write_bytes(made)
        say(f"{number(len(made))} bytes in {plain(output)}")
    elif session.json:
        say_json({"audit_id": audit_id, "from_size": from_size, "proof": made.decode()})
    else:
        sys.stdout.write(made.decode())


async def _proof(session: Session, audit_id: str | None, from_size: int | None) -> bytes:
    async with trail_of(session) as trail:
        try:
            return await trail.proof(audit_id) if audit_id is not None else await trail.continuation(from_size or 0)
        except LookupError:
            raise CommandError(ExitCode.NOT_FOUND, "there is no such entry", "see 'tallyroll audit query' for those there are") from None
        except ValueError as error:
            raise CommandError(ExitCode.USAGE, f"--from-size: {error}", "give a size that a checkpoint had") from None


def report(  # noqa: PLR0913  # one parameter per option
    context: typer.Context,
    framework: FrameworkName,
    *,
    since: Since = None,
    until: Until = None,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write the report as a page too; it loads nothing.")] = None,
    sample: Annotated[int, typer.Option(min=0, max=1_000, help="So many entries with their proofs.")] = 5,
    seed: Seed = None,
    url: Url = None,
    json: Json = False,
) -> None:
    """What the rules of a framework made of a period, with proofs. Nothing personal is in it.

    Exit code 1 if the ledger does not verify.
    """
    session, framework = session_of(context, url, json), framework_named(framework)
    found = run(_report(session, framework, since, until, seed, sample))
    if html is not None:
        html.write_text(report_page(found), encoding="utf-8")
        note(f"the page is in {plain(html)}")
    if session.json:
        say_json(found)
    else:
        _show_report(found)
    if not found["integrity_certificate"]["valid"]:
        raise typer.Exit(ExitCode.FINDINGS)


async def _report(  # noqa: PLR0913  # as above
    session: Session, framework: str, since: str | None, until: str | None, seed: str | None, sample: int
) -> ComplianceReport:
    async with trail_of(session) as trail:
        note("verifying the ledger, then reading its entries")
        try:
            return await trail.generate_compliance_report(
                framework, moment_of(since, "--since"), moment_of(until, "--until"), seed=seed, sample=sample
            )
        except ValueError as error:
            raise _usage(error) from None


def _show_report(found: ComplianceReport) -> None:
    certificate = found["integrity_certificate"]
    said, good = verdict_of(certificate)
    verdict = paint(said, "bold green" if good == "good" else "bold red")
    events = f"{counted(found['total_events'], 'event')}, {counted(found['violations_total'], 'violation')}"
    say(f"{found['framework'].upper()}: {events}; the ledger {verdict}")
    rows = [
        (rule_id, markup(one["title"]), one["severity"], number(one["applicable_events"]), number(one["violating_events"]), _rate(one))
        for rule_id, one in found["compliance_summary"].items()
        if one["applicable_events"]
    ]
    if rows:
        table(("rule", "what", "severity", "events", "violating", "compliant"), rows, right=("events", "violating", "compliant"))
    note(f"{counted(found['rules_analyzed'], 'rule')} of the framework, {counted(len(found['sample']), 'proof')} in the sample")
    for line in found["recommendations"]:
        say(f"- {plain(line)}")


def _rate(one: dict[str, Any]) -> str:
    return "-" if one["compliance_rate_percent"] is None else f"{one['compliance_rate_percent']:g} %"


def evidence(  # noqa: PLR0913  # one parameter per option
    context: typer.Context,
    framework: FrameworkName,
    path: Annotated[Path, typer.Argument(metavar="FILE", help="The zip to write.")],
    *,
    since: Since = None,
    until: Until = None,
    sample: Annotated[int, typer.Option(min=0, max=1_000, help="So many entries with their proofs.")] = 20,
    seed: Seed = None,
    in_clear: Annotated[
        bool,
        typer.Option("--with-plain-parts", help="Also what was kept unsealed, which may be personal; left out otherwise, and said so."),
    ] = False,
    url: Url = None,
    json: Json = False,
) -> None:
    """One zip for an auditor: ledger, report, proofs, a page to look at it, and the verifier, which needs plain Python only.

    Sealed parts stay sealed, no key is in it. That it was made is recorded. Exit code 1 if the ledger does not verify.
    """
    session, framework = session_of(context, url, json), framework_named(framework)
    packed = run(_evidence(session, framework, path, (since, until), seed, sample, in_clear=in_clear))
    valid = bool(packed.report["integrity_certificate"]["valid"])
    if session.json:
        say_json({"path": str(path), "files": packed.files, "bytes": packed.bytes, "entries": packed.entries,
                  "withheld": packed.withheld, "valid": valid})  # fmt: skip
    else:
        say(f"{counted(packed.files, 'file')}, {number(packed.bytes)} bytes in {plain(path)}")
        note("to check it: unzip, then 'python3 verify.pyz' in that folder")
        if packed.withheld:
            note(f"{counted(packed.withheld, 'part')} in clear left out; the verifier says so")
    if not valid:
        raise typer.Exit(ExitCode.FINDINGS)


async def _evidence(  # noqa: PLR0913  # as above
    session: Session, framework: str, path: Path, period: tuple[str | None, str | None], seed: str | None, sample: int, *, in_clear: bool
) -> Packed:
    since, until = moment_of(period[0], "--since"), moment_of(period[1], "--until")
    async with trail_of(session) as trail:
        with Progress("bytes", None, silent=session.json) as bar:
            try:
                return await trail.write_evidence(
                    path, framework, since, until, seed=seed, sample=sample, plain=in_clear,
                    progress=lambda _, done: bar.advance_to(done),
                )  # fmt: skip
            except ValueError as error:
                raise _usage(error) from None


def _usage(error: ValueError) -> CommandError:
    return CommandError(ExitCode.USAGE, str(error), "see --help")


def _or_dash(value: object) -> str:
    return "-" if value is None else str(value)

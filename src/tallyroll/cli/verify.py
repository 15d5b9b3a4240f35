"""``tallyroll verify``: what can be proven about the log."""

from __future__ import annotations

import typer

from tallyroll.cli.exits import ExitCode
from tallyroll.cli.printing import counted, markup, note, number, paint, say, say_json, table
from tallyroll.cli.session import Json, Session, Url, examples, group_of, run, session_of, verbs
from tallyroll.replay.chain import ChainReport

app = verbs()
group_of(app, "Check the publishers' chain: loss, reorder, alteration.", "tallyroll verify chain")


@app.command(epilog=examples("tallyroll verify chain", "tallyroll verify chain --json"))
def chain(context: typer.Context, *, url: Url = None, json: Json = False) -> None:
    """Check that nothing was lost, reordered or altered.

    Reads every record and checks each publisher's chain of hashes. Exit code 1 if something is wrong.

    Not told by this: whether the newest events of a publisher are missing, and a forger who rewrites all of a session.
    """
    session = session_of(context, url, json)
    report = run(_verify(session))
    if session.json:
        say_json(
            {
                "intact": report.intact,
                "records": report.records,
                "linked": report.linked,
                "unlinked": report.unlinked,
                "repeats": report.repeats,
                "sessions": report.sessions,
                "truncated": [str(one) for one in report.truncated],
                "findings": [
                    {"kind": one.kind, "position": f"{where}/{one.offset}", "session": one.session, "number": one.number}
                    for where, one in report.findings
                ],
            }
        )
    else:
        show_chain(report)
    if not report.intact:
        raise typer.Exit(ExitCode.FINDINGS)


async def _verify(session: Session) -> ChainReport:
    async with session.roll() as roll:
        return await roll.verify_chain()


def show_chain(report: ChainReport) -> None:
    """Prints the verdict and what it rests on."""
    verdict = paint("intact", "bold green") if report.intact else paint(counted(len(report.findings), "finding"), "bold red")
    say(f"{verdict}  {number(report.linked)} of {number(report.records)} records, in {counted(report.sessions, 'chain')} of publishers")
    if report.findings:
        rows = [
            (markup(one.kind, "red"), markup(f"{where}/{one.offset}"), number(one.number), one.session)
            for where, one in report.findings[:20]
        ]
        table(("what", "seen at", "number", "session"), rows, right=("number",))
    for partition in report.truncated:
        note(f"{partition}: retention removed its start; sessions are judged from their first record that is left")
    if report.unlinked:
        note(f"{number(report.unlinked)} records carry no link (other producers); nothing is said about them")

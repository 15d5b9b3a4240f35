"""``python -m tallyroll.audit.verify WHAT --key KEY``: the verifier as a program. ``--help`` says the rest."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final

from .pack import Pack, is_proof, read_pack, verify_pack
from .proof import verify_proof
from .report import CODES, Report
from .trust import Checkpoint, Trust, read_state, write_state
from .verifying import verify

INTACT: Final = 0
BROKEN: Final = 1
USAGE: Final = 2
LOSSES: Final = 3
_EPOCH: Final = date(1970, 1, 1)
_EPILOG: Final = """exit codes: 0 intact · 1 something is broken · 2 wrong use · 3 intact, but records were lost and the ledger says so

Verifies an exported folder or zip, a single proof (.tlog-proof), or an evidence pack, offline and without secrets. In the
folder of a pack nothing need be given; the keys are then those that came with it: compare them with what you have from
elsewhere, or give yours with --key. MAC keys, if given, are a text file with a line
WRITER/EPOCH KEY for each, all in hex. The state file remembers the newest checkpoints; it is written only when nothing is
broken, and should lie where the keeper of the ledger cannot write."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the verifier; returns the exit code."""
    parser = _parser()
    given = parser.parse_args(arguments)
    pack = read_pack(given.archive)
    _complete(given, pack, parser)
    try:
        trust, state_broken = _trust(given)
        report, checkpoints = _verified(given.archive, pack, trust)
    except (OSError, ValueError) as error:
        parser.error(f"{type(error).__name__}: {getattr(error, 'filename', None) or error}")
    if state_broken:
        parser.error("the state file cannot be read; it is left as it is")
    _print(json.dumps(report.as_dict(), indent=2) if given.json else _shown(report))
    if given.state and checkpoints and not report.broken:
        _remember(given.state, checkpoints)
    return BROKEN if report.broken else LOSSES if report.lossy else INTACT


def _complete(given: argparse.Namespace, pack: Pack | None, parser: argparse.ArgumentParser) -> None:
    """What was not given comes from the pack, if it is one."""
    if pack is not None and not given.key and not given.no_signatures:
        given.key, given.witness = [*pack.keys], given.witness or [*pack.witnesses]
        given.quorum = given.quorum or pack.quorum
        print("the keys are those that came with the pack; compare them with what you have from elsewhere:", file=sys.stderr)  # noqa: T201  # as below
        for key in (*given.key, *given.witness):
            print(f"  {key}", file=sys.stderr)  # noqa: T201  # as below
    if not given.key and not given.no_signatures:
        parser.error("give the ledger's public key with --key, or say --no-signatures")
    if given.quorum and len(given.witness) < given.quorum:
        parser.error("a quorum needs as many --witness keys")


def _verified(path: Path, pack: Pack | None, trust: Trust) -> tuple[Report, list[Checkpoint]]:
    if pack is not None:
        return verify_pack(pack, trust)
    return (verify_proof(path.read_bytes(), trust), []) if is_proof(path) else verify(path, trust)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="verify",
        description="Verifies an exported audit ledger.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "archive", type=Path, nargs="?", default=Path(), help="the exported folder or a zip of it, a .tlog-proof, or the folder of a pack"
    )
    parser.add_argument("--key", action="append", default=[], metavar="NAME+ID+BASE64", help="a public key of the ledger; may be repeated")
    parser.add_argument("--no-signatures", action="store_true", help="do not check who signed; the verdict then rests on hashes alone")
    parser.add_argument(
        "--witness", action="append", default=[], metavar="NAME+ID+BASE64", help="a public key of a witness; may be repeated"
    )
    parser.add_argument("--quorum", type=int, default=0, metavar="N", help="how many witnesses must have cosigned; 0 asks for none")
    parser.add_argument("--mac-keys", type=Path, metavar="FILE", help="first MAC keys of writer epochs, to check MACs as well")
    parser.add_argument(
        "--state", type=Path, metavar="FILE", help="what was seen the last time; must still be there, and is brought up to date"
    )
    parser.add_argument("--withheld", action="store_true", help="parts that are not sealed may have been left out of the export")
    parser.add_argument(
        "--note", type=Path, action="append", default=[], metavar="FILE", help="a signed note from elsewhere, as from a witness"
    )
    parser.add_argument(
        "--today", type=date.fromisoformat, metavar="DATE", help="the day that retention is judged by; today in UTC by default"
    )
    parser.add_argument("--json", action="store_true", help="the report as JSON")
    return parser


def _trust(given: argparse.Namespace) -> tuple[Trust, bool]:
    today = given.today or datetime.now(UTC).date()
    remembered = read_state(given.state.read_bytes()) if given.state and given.state.exists() else ()
    trust = Trust(
        today=(today - _EPOCH).days,
        keys=tuple(given.key),
        witnesses=tuple(given.witness),
        quorum=given.quorum,
        mac_keys=_mac_keys(given.mac_keys.read_text()) if given.mac_keys else {},
        remembered=remembered or (),
        notes=tuple(path.read_bytes() for path in given.note),
        withheld=given.withheld,
    )
    return trust, remembered is None


def _mac_keys(text: str) -> dict[tuple[bytes, int], bytes]:
    keys = {}
    for line in text.splitlines():
        if line.strip():
            name, _, k0 = line.strip().partition(" ")
            writer, _, epoch = name.partition("/")
            keys[bytes.fromhex(writer), int(epoch)] = bytes.fromhex(k0)
    return keys


def _remember(path: Path, checkpoints: Sequence[Checkpoint]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(write_state(checkpoints))
    temporary.replace(path)


def _print(text: str) -> None:
    try:
        print(text, flush=True)  # noqa: T201  # a program for people
    except BrokenPipeError:  # who reads has seen enough, and the exit code still tells; at its end Python would find the pipe again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _shown(report: Report) -> str:
    verdict = "broken" if report.broken else "intact, with losses that it names" if report.lossy else "intact"
    lines = [f"verdict   {verdict}", ""]
    for code, count in sorted(report.counts.items()):
        lines.append(f"{CODES[code][0]:9} {code} ({count}): {CODES[code][1]}")
        for finding in [finding for finding in report.findings if finding.code == code][:5]:
            at = " ".join(
                f"{name} {value}" for name, value in asdict(finding).items() if name in ("partition", "index", "seq") and value is not None
            )
            lines.append(f"            {at or 'the whole'}{': ' + finding.detail if finding.detail else ''}")
    lines += [""] if report.counts else []
    lines += [f"{name:24} {json.dumps(value)}" for name, value in report.coverage.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

"""``python -m tallyroll.audit.verify ARCHIVE --key KEY``: the verifier as a program. ``--help`` says the rest."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final

from .report import CODES, Report
from .trust import Checkpoint, Trust, read_state, write_state
from .verifying import verify

INTACT: Final = 0
BROKEN: Final = 1
USAGE: Final = 2
LOSSES: Final = 3
_EPOCH: Final = date(1970, 1, 1)
_EPILOG: Final = """exit codes: 0 intact · 1 something is broken · 2 wrong use · 3 intact, but records were lost and the ledger says so

Verifies an exported folder or zip, offline and without secrets. MAC keys, if given, are a text file with a line
WRITER/EPOCH KEY for each, all in hex. The state file remembers the newest checkpoints; it is written only when nothing is
broken, and should lie where the keeper of the ledger cannot write."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the verifier; returns the exit code."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if not given.key and not given.no_signatures:
        parser.error("give the ledger's public key with --key, or say --no-signatures")
    if given.quorum and len(given.witness) < given.quorum:
        parser.error("a quorum needs as many --witness keys")
    try:
        trust, state_broken = _trust(given)
        report, checkpoints = verify(given.archive, trust)
    except (OSError, ValueError) as error:
        parser.error(f"{type(error).__name__}: {getattr(error, 'filename', None) or error}")
    if state_broken:
        parser.error("the state file cannot be read; it is left as it is")
    print(json.dumps(report.as_dict(), indent=2) if given.json else _shown(report))  # noqa: T201  # a program for people
    if given.state and not report.broken:
        _remember(given.state, checkpoints)
    return BROKEN if report.broken else LOSSES if report.lossy else INTACT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="verify",
        description="Verifies an exported audit ledger.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("archive", type=Path, help="the exported folder, or a zip of it")
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

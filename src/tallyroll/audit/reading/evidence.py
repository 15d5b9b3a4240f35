"""The evidence pack: one zip with everything an auditor needs who has plain Python and nothing of ours.

The ledger as it is stored (sealed parts stay sealed, no key is in it), a compliance report, proofs of a sample, the entries of
the period in clear fields, a page to look at them, and the verifier itself: ``python verify.pyz`` in the unzipped folder.
"""

from __future__ import annotations

import asyncio
import io
import json
import zipfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import msgspec

from tallyroll.audit.entry import ComplianceFramework
from tallyroll.audit.ledger.contents import AuditEntry
from tallyroll.audit.ledger.note import sign
from tallyroll.audit.ledger.proving import PROOF_SUFFIX, noted
from tallyroll.audit.reading.integrity import Trusted
from tallyroll.audit.reading.ledger_files import Counted, ledger_files
from tallyroll.audit.reading.ocsf import ocsf_event
from tallyroll.audit.reading.query import Wanted
from tallyroll.audit.reading.report import ComplianceReport, Reporting
from tallyroll.audit.reading.report_page import report_page
from tallyroll.audit.reading.sheet import csv_lines
from tallyroll.audit.reading.viewer import MAX_VIEWED, viewer_page
from tallyroll.errors import StoreUnavailable
from tallyroll.ports import LedgerStore, Signer

FORMAT: Final = "tallyroll-evidence/1"
_LIST: Final = "SHA256SUMS"
_LIST_NOTE: Final = "SHA256SUMS.note"
_LIST_TITLE: Final = "tallyroll/evidence@v1"  # in its first line, so that the note can be taken for no checkpoint
_EARLIEST: Final = (1980, 1, 1, 0, 0, 0)  # of a member: the same pack is the same bytes, whenever it is made

Progress = Callable[[str, int], None]
"""Told which file grows, and how many bytes the pack has so far."""


@dataclass(frozen=True, slots=True)
class Packed:
    """What is in a pack. ``withheld`` counts parts that are not sealed and were left out."""

    path: Path
    files: int
    bytes: int
    entries: int
    withheld: int
    report: ComplianceReport


class Evidence:
    """Makes packs of one ledger. Not promised: that a pack holds what was recorded after it was begun."""

    def __init__(self, store: LedgerStore, reporting: Reporting, trusted: Trusted, signer: Signer) -> None:
        self._store = store
        self._reporting = reporting
        self._trusted = trusted
        self._signer = signer

    async def write(  # noqa: PLR0913  # what a pack is about
        self,
        path: Path,
        framework: ComplianceFramework | str,
        start_time: datetime | None = None,
        end_time: datetime | None = None,
        *,
        seed: str | None = None,
        sample: int = 20,
        plain: bool = False,
        progress: Progress | None = None,
    ) -> Packed:
        """Writes the zip, which appears whole or not at all. The ledger in it is the whole one: a part of it proves nothing.

        The list of its files is signed with the key of the ledger's checkpoints: report, tables and keys are those that were packed.
        Parts that are not sealed are left out unless ``plain``; the verifier then reports how many. Raises ValueError as
        ``Reporting.report`` does, StoreUnavailable where nothing is signed yet, OSError.
        """
        report = await self._reporting.report(framework, start_time, end_time, seed=seed, sample=sample)
        known = await noted(self._store)
        if known is None:
            raise StoreUnavailable("audit ledger", "nothing in it is signed yet, so there is no evidence")
        wanted = Wanted(start_time=start_time, end_time=end_time, compliance_framework=str(ComplianceFramework(framework)))
        counted, temporary = Counted(), path.with_name(f".{path.name}.tmp")
        zipped = _Zip(temporary, progress)
        try:
            await zipped.write("verify.pyz", verifier())
            await zipped.write("trust.json", self._trust(known.checkpoint.origin, withheld=not plain))
            await zipped.write("report.json", msgspec.json.format(msgspec.json.encode(report), indent=2))
            await zipped.write("report.html", report_page(report).encode())
            for one in report["sample"]:
                if one["proof"] is not None:
                    await zipped.write(f"proofs/{_name(one['audit_id'])}{PROOF_SUFFIX}", one["proof"].encode())
            entries = await self._entries(zipped, wanted, known.checkpoint.origin, report)
            async for name, piece in ledger_files(self._store, known, counted, withhold_plain=not plain):
                await zipped.append(f"ledger/{name}", piece)
            await zipped.write("README.txt", _README.encode())
            await zipped.write(_LIST_NOTE, await self._signed(known.checkpoint.origin, await zipped.listed()))
            await zipped.finish()
            size = await asyncio.to_thread(_put, temporary, path)
        finally:
            zipped.close()
            temporary.unlink(missing_ok=True)
        return Packed(path, zipped.files, size, entries, counted.withheld, report)

    async def export(self, path: Path, *, plain: bool = False, progress: Progress | None = None) -> int:
        """Writes the ledger alone as a zip that the verifier reads; how many bytes. Raises as ``write``."""
        known = await noted(self._store)
        if known is None:
            raise StoreUnavailable("audit ledger", "nothing in it is signed yet, so there is nothing to verify")
        temporary = path.with_name(f".{path.name}.tmp")
        zipped = _Zip(temporary, progress)
        try:
            async for name, piece in ledger_files(self._store, known, Counted(), withhold_plain=not plain):
                await zipped.append(name, piece)
            await zipped.finish()
            return await asyncio.to_thread(_put, temporary, path)
        finally:
            zipped.close()
            temporary.unlink(missing_ok=True)

    async def _entries(self, zipped: _Zip, wanted: Wanted, ledger: str, report: ComplianceReport) -> int:
        viewed: list[AuditEntry] = []
        count = 0
        async for entry in self._reporting.entries(wanted):
            await zipped.append("entries.ocsf.jsonl", msgspec.json.encode(ocsf_event(entry, ledger=ledger)) + b"\n")
            count += 1
            if len(viewed) < MAX_VIEWED:
                viewed.append(entry)
        async for line in _lines(self._reporting.entries(wanted)):
            await zipped.append("entries.csv", line)
        await zipped.write("viewer.html", viewer_page(viewed, count, report).encode())
        return count

    async def _signed(self, ledger: str, listed: bytes) -> bytes:
        text = f"{_LIST_TITLE}\n{ledger}\n{sha256(listed).hexdigest()}\n"
        return (await asyncio.to_thread(sign, text, [self._signer])).packed()  # a token takes its time

    def _trust(self, ledger: str, *, withheld: bool) -> bytes:
        said = {
            "format": FORMAT, "ledger": ledger, "keys": [*self._trusted.keys], "witnesses": [*self._trusted.witnesses],
            "quorum": self._trusted.quorum, "withheld": withheld,
        }  # fmt: skip
        return (json.dumps(said, indent=2) + "\n").encode()


def verifier() -> bytes:
    """The verifier as one file that plain Python runs; always the same bytes for the same version."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as made:
        folder = files("tallyroll.audit.verify")
        for source in sorted(one.name for one in folder.iterdir() if one.name.endswith(".py")):
            made.writestr(zipfile.ZipInfo(f"verify/{source}", _EARLIEST), folder.joinpath(source).read_bytes())
        start = "import sys\n\nfrom verify.__main__ import main\n\nsys.exit(main())\n"
        made.writestr(zipfile.ZipInfo("__main__.py", _EARLIEST), start)
    return b"#!/usr/bin/env python3\n" + out.getvalue()


class _Zip:
    """Writes members one after the other, each in pieces, and keeps their digests for the list at the end."""

    def __init__(self, path: Path, progress: Progress | None) -> None:
        self.files = 0
        self._zip = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=6)
        self._progress = progress
        self._open: tuple[str, Any, Any] | None = None
        self._sums: list[str] = []
        self._written = 0

    async def write(self, name: str, content: bytes) -> None:
        await self.append(name, content)
        self._end()

    async def append(self, name: str, piece: bytes) -> None:
        if self._open is None or self._open[0] != name:
            self._end()
            info = zipfile.ZipInfo(name, _EARLIEST)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            self._open = name, self._zip.open(info, "w", force_zip64=True), sha256()
        _, member, digest = self._open
        digest.update(piece)
        await asyncio.to_thread(member.write, piece)
        self._written += len(piece)
        if self._progress is not None:
            self._progress(name, self._written)

    async def listed(self) -> bytes:
        """Writes the digests of what is there so far; gives what it wrote."""
        self._end()
        listed = "".join(self._sums).encode()
        await self.write(_LIST, listed)
        return listed

    async def finish(self) -> None:
        self._end()
        await asyncio.to_thread(self._zip.close)

    def close(self) -> None:
        """Gives up what is not finished."""
        if self._open is not None:
            self._open[1].close()
            self._open = None
        self._zip.close()

    def _end(self) -> None:
        if self._open is not None:
            name, member, digest = self._open
            member.close()
            self._sums.append(f"{digest.hexdigest()}  {name}\n")
            self.files += 1
            self._open = None


def _put(temporary: Path, path: Path) -> int:
    temporary.replace(path)
    return path.stat().st_size


async def _lines(entries: AsyncIterator[AuditEntry]) -> AsyncIterator[bytes]:
    yield "".join(csv_lines([])).encode()
    async for entry in entries:
        yield [*csv_lines([entry])][1].encode()


def _name(audit_id: str) -> str:
    """An id as a file name: it was chosen by somebody else."""
    return "".join(one if one.isalnum() or one in "-_" else "_" for one in audit_id)[:100] or "entry"


_README: Final = """Evidence from an audit ledger
=============================

Check it:     python3 verify.pyz              in this folder; plain Python 3.11 or newer, nothing to install, nothing is sent anywhere
              python3 verify.pyz --key KEY    with the public key that you have from elsewhere; this is the one that counts
              python3 verify.pyz proofs/ID.tlog-proof --key KEY        one entry alone
Look at it:   report.html and viewer.html in a browser; they load nothing from anywhere
Work with it: report.json, entries.csv, entries.ocsf.jsonl (Open Cybersecurity Schema Framework)

What is in ledger/ is the ledger as it is stored. Personal parts in it are sealed, and no key is in this pack. trust.json holds
the public keys that came with it. SHA256SUMS lists the digests of the files; SHA256SUMS.note is that list signed with the key of
the ledger, so that nobody without the key can exchange the report, the tables or the pages.

What a verification rests on is said in its report under coverage. Not detected: a tail that was cut together with every note
about it, by who has no earlier note (keep --state FILE for the next time) and no witness; and a false entry by an honest writer.
"""

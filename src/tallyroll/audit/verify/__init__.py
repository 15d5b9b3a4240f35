"""The auditor's program: checks an exported ledger offline, and says what it checked and what it could not.

This folder imports the standard library and nothing else, and shares no code with what writes the ledger: a mistake there is
not made a second time here. Copied alone to another machine it runs as ``python -m verify``.
"""

from .pack import read_pack, verify_pack
from .proof import verify_proof
from .report import Finding, Report
from .trust import Checkpoint, Trust, read_state, write_state
from .verifying import open_archive, verify, verify_files

__all__ = [
    "Checkpoint",
    "Finding",
    "Report",
    "Trust",
    "open_archive",
    "read_pack",
    "read_state",
    "verify",
    "verify_files",
    "verify_pack",
    "verify_proof",
    "write_state",
]

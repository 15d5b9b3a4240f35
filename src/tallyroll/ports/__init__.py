"""The seams: what the features need from the outside, and what they offer to the loop.

Read ``log`` and ``following`` first, then the area that you are in:

- ``log``: what goes into the log, what comes out, who shares it, its topics.
- ``spool``: where accepted records wait while the log is away.
- ``following``: what the loop drives: offered by features, implemented by no adapter.
- ``state``: where the state follower keeps its parts.
- ``analytics``: where panes are kept, what scores values, and where alerts are told.
- ``bridges``: where states and messages go for others, where messages come from, and what is still to be published.
- ``archive``: what a replay reads of the archive, and where what is known of its files is kept.
- ``segments``: where the files of the archive lie, and how columns become bytes and come back.
- ``keys``: encryption, signatures, and the ring that keeps and destroys what they need.
- ``ledger``: where the audit ledger lies.
- ``audit``: who vouches for the ledger, who finds what is personal, and who has to forget it.
- ``process``: what surrounds a process: time, spans, and further processes.

An adapter moves bytes and translates errors, nothing more; whatever decides lives in a feature. Every port says what it does
not promise. All names are to be had from here.
"""

from tallyroll.ports.analytics import (
    AlertSink,
    Detector,
    DocumentWrite,
    Notice,
    OpenPair,
    PaneAt,
    PaneRow,
    Score,
    WindowProgress,
    WindowStore,
    WindowWrite,
)
from tallyroll.ports.archive import (
    Append,
    Archive,
    ArchivedFinding,
    ArchiveIndex,
    ArchiveIndexes,
    ArchiveMark,
    Found,
    Judged,
    Odd,
    Owned,
    Pruned,
    Run,
    Scanned,
    Sealed,
    Segment,
    StoredPart,
    Tail,
    TailColumns,
    Verdict,
)
from tallyroll.ports.audit import ErasureTarget, PiiCandidate, PiiFinder, Witness, WitnessMemory
from tallyroll.ports.bridges import (
    Claim,
    Merged,
    Message,
    MessageSource,
    MessageTarget,
    Outbox,
    OutboxRow,
    PartAt,
    Received,
    StateTarget,
    ViewsWritten,
    ViewWrite,
)
from tallyroll.ports.following import DeadLetter, Follower, LooksFirst
from tallyroll.ports.keys import Cipher, DataKey, Enrolment, KeyRing, Signer
from tallyroll.ports.ledger import (
    LEDGER_META,
    LedgerAppend,
    LedgerCommit,
    LedgerFacts,
    LedgerIndexed,
    LedgerNote,
    LedgerRemoval,
    LedgerRow,
    LedgerStore,
    LedgerTail,
    LedgerTip,
    LedgerWanted,
    TakeOut,
)
from tallyroll.ports.log import (
    AssignmentListener,
    Delivered,
    Encoded,
    EventLog,
    Outcome,
    Pending,
    Rejected,
    Span,
    Subscription,
    TopicAdmin,
    Unknown,
)
from tallyroll.ports.process import Clock, TracedEvents, Tracing, Workers
from tallyroll.ports.segments import Cells, OpenSegment, SegmentCodec, SegmentColumn, SegmentFiles, SegmentWriter
from tallyroll.ports.spool import Spool, Spooled, SpoolFactory
from tallyroll.ports.state import OwnerParts, PartitionWrite, Progress, StateStore

__all__ = [
    "LEDGER_META",
    "AlertSink",
    "Append",
    "Archive",
    "ArchiveIndex",
    "ArchiveIndexes",
    "ArchiveMark",
    "ArchivedFinding",
    "AssignmentListener",
    "Cells",
    "Cipher",
    "Claim",
    "Clock",
    "DataKey",
    "DeadLetter",
    "Delivered",
    "Detector",
    "DocumentWrite",
    "Encoded",
    "Enrolment",
    "ErasureTarget",
    "EventLog",
    "Follower",
    "Found",
    "Judged",
    "KeyRing",
    "LedgerAppend",
    "LedgerCommit",
    "LedgerFacts",
    "LedgerIndexed",
    "LedgerNote",
    "LedgerRemoval",
    "LedgerRow",
    "LedgerStore",
    "LedgerTail",
    "LedgerTip",
    "LedgerWanted",
    "LooksFirst",
    "Merged",
    "Message",
    "MessageSource",
    "MessageTarget",
    "Notice",
    "Odd",
    "OpenPair",
    "OpenSegment",
    "Outbox",
    "OutboxRow",
    "Outcome",
    "Owned",
    "OwnerParts",
    "PaneAt",
    "PaneRow",
    "PartAt",
    "PartitionWrite",
    "Pending",
    "PiiCandidate",
    "PiiFinder",
    "Progress",
    "Pruned",
    "Received",
    "Rejected",
    "Run",
    "Scanned",
    "Score",
    "Sealed",
    "Segment",
    "SegmentCodec",
    "SegmentColumn",
    "SegmentFiles",
    "SegmentWriter",
    "Signer",
    "Span",
    "Spool",
    "SpoolFactory",
    "Spooled",
    "StateStore",
    "StateTarget",
    "StoredPart",
    "Subscription",
    "Tail",
    "TailColumns",
    "TakeOut",
    "TopicAdmin",
    "TracedEvents",
    "Tracing",
    "Unknown",
    "Verdict",
    "ViewWrite",
    "ViewsWritten",
    "WindowProgress",
    "WindowStore",
    "WindowWrite",
    "Witness",
    "WitnessMemory",
    "Workers",
]

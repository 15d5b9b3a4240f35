"""How a command ends: the exit codes, and for every error what happened and what to do next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Any, Final, NamedTuple

from tallyroll import errors


class ExitCode(IntEnum):
    """What a script may rely on."""

    OK = 0
    FINDINGS = 1
    USAGE = 2
    UNAVAILABLE = 3
    NOT_FOUND = 4
    UNCERTAIN = 5
    DEFECT = 70
    INTERRUPTED = 130


MEANINGS: Final[Mapping[ExitCode, str]] = {
    ExitCode.OK: "done, and nothing was found",
    ExitCode.FINDINGS: "a check found something, a store is damaged, or the log refused an event",
    ExitCode.USAGE: "the command or a setting is wrong; nothing was done",
    ExitCode.UNAVAILABLE: "the log, its broker or the state store is away",
    ExitCode.NOT_FOUND: "there is no such agent, event or letter, or its history is gone",
    ExitCode.UNCERTAIN: "nobody knows whether the event is in the log",
    ExitCode.DEFECT: "a defect in tallyroll itself",
    ExitCode.INTERRUPTED: "interrupted; what was accepted is in the log or in the spool",
}


class CommandError(Exception):
    """A command cannot do what it was asked: the exit code, what happened, and what to do next; each one line."""

    def __init__(self, code: ExitCode, what: str, next_step: str) -> None:
        self.code = code
        self.what = what
        self.next_step = next_step
        super().__init__(what)


class Trouble(NamedTuple):
    """An error as it is shown: the code, the name of its class, what happened, what to do next."""

    code: ExitCode
    type: str
    what: str
    next_step: str


_Advice = tuple[ExitCode, str | Callable[[Any], str]]

# The most particular class first: an error is looked up along this list.
_ADVICE: Final[tuple[tuple[type[BaseException], _Advice], ...]] = (
    (errors.MissingExtra, (ExitCode.USAGE, "install it with the command above, then try again")),
    (errors.SettingsError, (ExitCode.USAGE, lambda error: _after_setting(error.name))),
    (errors.IncompatibleSchema, (ExitCode.FINDINGS, "give the type a new version with an upcaster, or undo the change")),
    (errors.InvalidEvent, (ExitCode.USAGE, "mend that field and publish again; 'tallyroll events types' lists the types")),
    (errors.Undecodable, (ExitCode.FINDINGS, "look at the record with 'tallyroll events show POSITION --raw'")),
    (errors.UnknownSchema, (ExitCode.FINDINGS, "upgrade tallyroll on this machine; nobody's data is damaged")),
    (errors.PublishUncertain, (ExitCode.UNCERTAIN, lambda error: _after_uncertain(kept=error.kept))),
    (errors.PublishRejected, (ExitCode.FINDINGS, "mend what the reason names, then publish again")),
    (errors.LogUnavailable, (ExitCode.UNAVAILABLE, lambda error: _after_log(error.what))),
    (errors.Backpressure, (ExitCode.UNAVAILABLE, "wait until the broker takes events again, then repeat the command")),
    (errors.TopicConflict, (ExitCode.FINDINGS, "see the difference with 'tallyroll topics drift'")),
    (errors.StoreDamaged, (ExitCode.FINDINGS, "do as it says, or put a copy back; trying again gives the same")),
    (errors.StoreUnavailable, (ExitCode.UNAVAILABLE, lambda error: _after_store(error.store))),
    (errors.PositionConflict, (ExitCode.UNAVAILABLE, "another process writes the same store; let it, or stop one of the two")),
    (errors.SegmentDamaged, (ExitCode.FINDINGS, "restore the named file from a copy, then check with 'tallyroll replay verify'")),
    (errors.LedgerTampered, (ExitCode.FINDINGS, "keep the store as it is, it is evidence; see 'tallyroll audit verify'")),
    (errors.SubjectErased, (ExitCode.NOT_FOUND, "'tallyroll audit show ID' shows what is left of it")),
    (errors.KeyLost, (ExitCode.FINDINGS, "put the newest copy of the key ring back; 'tallyroll audit verify' counts what is lost")),
    (errors.KeyRingUnavailable, (ExitCode.UNAVAILABLE, "check the key ring's file and permissions; 'tallyroll audit keys status'")),
    (errors.SealingRequired, (ExitCode.UNAVAILABLE, "nothing was recorded; check the key ring with 'tallyroll audit keys status'")),
    (errors.SpanGone, (ExitCode.NOT_FOUND, lambda error: _after_gone(pruned=error.pruned))),
    (errors.NoHistory, (ExitCode.NOT_FOUND, lambda error: after_nobody(error.view))),
    (errors.NoSuchOffset, (ExitCode.USAGE, "give offsets that an answer of this log and kind has under as_of")),
    (errors.BrokenHistory, (ExitCode.FINDINGS, lambda error: _after_broken(error.kind, error.where))),
    (errors.SnapshotMismatch, (ExitCode.FINDINGS, "make snapshots anew with 'tallyroll archive rebuild'")),
    (errors.ReducerFailed, (ExitCode.USAGE, "mend what the message names; nothing was changed")),
    (errors.WorkerFailed, (ExitCode.UNAVAILABLE, "try again, with fewer --workers if memory was short")),
    (errors.ReplayCancelled, (ExitCode.INTERRUPTED, "start it again when you like; nothing was changed")),
)


def after_nobody(view: str) -> str:
    """What to do when no event names an owner."""
    listing = "'tallyroll agents ls' lists agents" if view == "agent" else f"'tallyroll replay run {view} --states' shows all there are"
    return f"check the id and the moment; {listing}"


def _after_gone(*, pruned: bool) -> str:
    if pruned:
        return "'tallyroll replay state', and 'run --mode incremental', start from snapshots; --allow-truncated shows what is left"
    return "repeat with --allow-truncated to see what is left; an archive keeps what topics forget"


def _after_broken(kind: str, where: str) -> str:
    return f"look at it with 'tallyroll events show {where}'; to go on all the same: --policy {kind}=warn"


def explain(error: Exception) -> Trouble:
    """What to show for an error, whatever it is. Holds no payload and no secret: our errors never do, others are only named."""
    name = type(error).__name__
    if isinstance(error, CommandError):
        return Trouble(error.code, name, error.what, error.next_step)
    for kind, (code, advice) in _ADVICE:
        if isinstance(error, kind):
            return Trouble(code, name, str(error), advice if isinstance(advice, str) else advice(error))
    if isinstance(error, UnicodeEncodeError):  # an argument of bytes that are no text
        return Trouble(ExitCode.USAGE, name, "what was given is not UTF-8, and so in no log", "write ids and names in UTF-8")
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return Trouble(ExitCode.USAGE, name, f"{where}{error.strerror or name}", "check the path and its permissions")
    return Trouble(
        ExitCode.DEFECT, name, f"unexpected {name}; this is a defect", "run it again with TALLYROLL_DEBUG=1 and report the trace"
    )


def _after_log(what: str) -> str:
    looked_at = "the folder of the log" if what.endswith(".db") else "the address and the broker"
    return f"check {looked_at} with 'tallyroll doctor', then try again"


def _after_setting(name: str) -> str:
    if name.isupper() or "." in name:
        return "change that setting; 'tallyroll doctor' shows which are in force"
    return "give it another value; see --help"


def _after_store(store: str) -> str:
    if " at " in store:  # a server
        return "check the address and the server with 'tallyroll doctor', then try again"
    return "check disk space and permissions of the data folder with 'tallyroll doctor'"


def _after_uncertain(*, kept: bool) -> str:
    if kept:
        return "do not publish it anew: it lies in the spool and goes out under the same id with the next event published from here"
    return "look for the id with 'tallyroll events show ID' before you publish anew"

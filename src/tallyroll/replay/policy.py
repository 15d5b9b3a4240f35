"""What is checked while events are folded, and what becomes of a finding. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, Self, get_args

from tallyroll.errors import BrokenHistory, ReplayError, SnapshotMismatch
from tallyroll.replay.findings import Finding, FindingKind

Validation = Literal["off", "sequence", "chain"]
"""``off``: only what folding itself notices. ``sequence``: also gaps and forks of each aggregate. ``chain``: every record is
read in its raw bytes and the publishers' chain is recomputed, which costs about twice as much.
"""

Action = Literal["fail", "warn", "accept"]
"""``fail`` raises BrokenHistory with the finding; ``warn`` lists it in the answer; ``accept`` only counts it."""

_DEFAULT: Final[Mapping[FindingKind, Action]] = {
    "repeat": "accept",
    "duplicate": "warn",
    "conflict": "accept",
    "poison": "warn",
    "unknown_schema": "fail",
    "fork": "warn",
    "gap": "warn",
    "skew_exceeded": "warn",
    "session_gap": "warn",
    "altered": "fail",
    "reordered": "fail",
    "snapshot_corrupt": "warn",
}
_STRICT: Final[tuple[FindingKind, ...]] = (
    "poison", "unknown_schema", "fork", "gap", "session_gap", "altered", "reordered", "snapshot_corrupt"
)  # fmt: skip
_NEWER: Final = "written by a newer version: upgrade tallyroll or register the type, or ask with the policy unknown_schema=warn"
KINDS: Final[tuple[str, ...]] = tuple(_DEFAULT)


@dataclass(frozen=True)
class Policy:
    """What becomes of each kind of finding. Copies are dropped and forks resolved in log order whatever it says."""

    actions: Mapping[FindingKind, Action] = field(default_factory=lambda: _DEFAULT)

    @classmethod
    def strict(cls) -> Self:
        """Fails on everything that makes an answer less than certain."""
        return cls({**_DEFAULT, **dict.fromkeys(_STRICT, "fail")})

    def but(self, **actions: str) -> Policy:
        """The same policy with other actions for some kinds. Raises ValueError for an unknown kind or action."""
        for kind, action in actions.items():
            if kind not in _DEFAULT:
                raise ValueError(f"{kind!r} is no kind of finding; there are {', '.join(_DEFAULT)}")
            if action not in get_args(Action):
                raise ValueError(f"{kind}: {action!r} is no action; there are {', '.join(get_args(Action))}")
        return Policy({**self.actions, **actions})  # type: ignore[dict-item]  # checked above

    def check(self, finding: Finding) -> bool:
        """Whether to list the finding. Raises BrokenHistory, or SnapshotMismatch, where the policy is to fail."""
        action = self.actions[finding.kind]
        if action == "fail":
            raise _error(finding)
        return action == "warn"


def _error(finding: Finding) -> ReplayError:
    if finding.kind == "snapshot_corrupt":
        return SnapshotMismatch(str(finding.position), "its bytes are not what was kept")
    missing = f"{finding.missing} missing" if finding.missing else ""
    detail = _NEWER if finding.kind == "unknown_schema" else finding.reason or missing
    return BrokenHistory(finding.kind, str(finding.position), detail)

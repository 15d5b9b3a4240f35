"""What the ``replay`` commands have in common: options, kinds of states, moments, the answer's last line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer

from tallyroll.cli.exits import CommandError, ExitCode
from tallyroll.cli.moments import MOMENT_HELP
from tallyroll.cli.printing import counted, number, paint, plain, say
from tallyroll.cli.session import moment_of
from tallyroll.events.event import iso
from tallyroll.events.position import TopicPartition
from tallyroll.replay.kinds import StateType, view_of
from tallyroll.replay.plan import AsOfEventTime, AsOfOffsets, Target, as_of_event_time, as_of_offsets
from tallyroll.replay.policy import Policy
from tallyroll.replay.replayed import Replayed

KINDS: Final = tuple(kind.removesuffix("_state") for kind in StateType)

Kind = Annotated[str, typer.Argument(metavar="KIND", help=f"One of {', '.join(KINDS)}.")]
Owner = Annotated[str, typer.Argument(metavar="ID", help="Whose: an id; for system, audit and performance TYPE:ID.")]
At = Annotated[str | None, typer.Option("--at", metavar="WHEN", help=f"As it was then, by event time: {MOMENT_HELP}.")]
AsOf = Annotated[
    str | None,
    typer.Option(
        "--as-of", metavar="OFFSETS", help='As of offsets: JSON such as {"task-events/0": 17}, or @FILE; any --json answer will do.'
    ),
]
AllowTruncated = Annotated[bool, typer.Option("--allow-truncated", help="Answer also where a part of the history is gone.")]
Policies = Annotated[
    list[str] | None, typer.Option("--policy", metavar="FINDING=ACTION", help="What a finding does: fail, warn or accept. Repeatable.")
]
Strict = Annotated[bool, typer.Option("--strict", help="Fail on everything that makes an answer less than certain.")]


def view_named(kind: str) -> Any:  # noqa: ANN401  # a View
    """The view of a kind. Raises CommandError."""
    try:
        return view_of(f"{kind.removesuffix('s')}_state")
    except ValueError:
        raise CommandError(ExitCode.USAGE, f"{plain(kind)} is no kind of state", f"write one of {', '.join(KINDS)}") from None


def target_of(at: str | None, as_of: str | None, at_option: str = "--at") -> Target | None:
    """The target that the options name, None for now. Raises CommandError."""
    if at is not None and as_of is not None:
        raise CommandError(ExitCode.USAGE, f"{at_option} and --as-of name two targets", "give one of them")
    if at is not None:
        moment = moment_of(at, at_option)
        return None if moment is None else as_of_event_time(moment)
    return None if as_of is None else as_of_offsets(_offsets(as_of))


def moment_or_offsets(text: str, option: str) -> Target:
    """A target in one text: a moment, or offsets if it begins with { or @. Raises CommandError."""
    target = target_of(None, text) if text[:1] in ("{", "@") else target_of(text, None, option)
    assert target is not None  # noqa: S101  # text was given
    return target


def _offsets(text: str) -> dict[TopicPartition, int]:
    try:
        raw = Path(text[1:]).read_bytes() if text.startswith("@") else text.encode()
        read = msgspec.json.decode(raw, type=dict[str, Any])
        given: Mapping[str, int] = msgspec.convert(read.get("as_of", read), dict[str, int])
        return {TopicPartition(where.rpartition("/")[0], int(where.rpartition("/")[2])): end for where, end in given.items()}
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        raise CommandError(
            ExitCode.USAGE,
            f"--as-of: no offsets ({type(error).__name__})",
            'write {"task-events/0": 17}, or @FILE with an answer of --json',
        ) from None


def policy_of(given: Sequence[str] | None, *, strict: bool) -> Policy:
    """The policy that the options describe. Raises CommandError."""
    policy = Policy.strict() if strict else Policy()
    try:
        return policy.but(**dict(_pair(one) for one in given or ()))
    except ValueError as error:
        raise CommandError(ExitCode.USAGE, f"--policy: {error}", "write --policy gap=fail") from None


def _pair(text: str) -> tuple[str, str]:
    kind, equals, action = text.partition("=")
    if not equals:
        raise ValueError(f"{text!r} is not FINDING=ACTION")
    return kind, action


def as_of_text(target: Target | None) -> str:
    """A target in words."""
    if isinstance(target, AsOfEventTime):
        return f"as of {iso(target.moment)}"
    if isinstance(target, AsOfOffsets):
        return f"as of {counted(len(target.ends), 'offset')}"
    return "as of now"


def footing(found: Replayed, target: Target | None) -> None:
    """The last lines of an answer: how it is known, and what is to be said against it."""
    tally = found.tally
    made_of = [counted(tally.snapshots, "snapshot")] if found.snapshot != "none" else []
    made_of += [
        f"{counted(count, 'record')} of the {place}" for count, place in ((tally.archived, "archive"), (tally.logged, "log")) if count
    ]
    said = " and ".join(made_of) or "nothing"
    final = "final" if found.final else "later events may still belong to it"
    say(paint(f"{as_of_text(target)}, {final}; coverage {found.coverage}; made of {said} in {found.duration_s * 1_000:,.1f} ms", "dim"))
    for partition, spans in found.missing.items():
        gone = ", ".join(f"{number(start)} to {number(end - 1)}" for start, end in spans)
        say(paint(f"missing: {partition} {gone}", "yellow"))
    counts = {kind: count for kind, count in sorted(found.finding_counts.items()) if kind not in ("repeat", "conflict")}
    if counts:
        say(paint("findings: " + ", ".join(f"{number(count)} {kind}" for kind, count in counts.items()), "yellow"))

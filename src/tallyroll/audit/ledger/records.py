"""What the env of each kind of record holds, except that of entries. ``docs/reference/ledger-format.md`` lists the fields.

Each function gives an env ready to be sealed: sorted JSON, byte strings in lower-case hex, numbers as integers. Nothing
personal goes into any of them: handles are random, and mean nothing once the key behind them is gone.
Pure: no clock, no randomness, no I/O.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tallyroll.audit.ledger.layout import write_json


class Head(NamedTuple):
    """The newest record of one chain, as its writer knows it."""

    partition: int
    seq: int
    leaf: bytes


class Hole(NamedTuple):
    """Numbers that did not arrive: from ``start`` up to ``end``, the leaf before them, and what the record behind them links to."""

    start: int
    end: int
    before: bytes
    behind: bytes


class OpenHead(NamedTuple):
    """Where a chain stands at the end of a pruned prefix, if more of it may come: what its next record links to, and what it lacks."""

    writer: bytes
    epoch: int
    seq: int
    leaf: bytes
    mac_epoch: int
    closed: bool
    holes: tuple[Hole, ...]


class Stretch(NamedTuple):
    """Records of one retention class between two indexes of a partition; ``end`` is not one of them."""

    partition: int
    start: int
    end: int
    retention_class: int
    removed: int


class Missing(NamedTuple):
    """Numbers of one chain that are not there; ``end`` is not one of them, None where nobody knows the end."""

    partition: int
    writer: bytes
    epoch: int
    start: int
    end: int | None


def genesis(commitment: bytes, token: str, rule_set: str, previous: tuple[int, Sequence[Head]] | None) -> bytes:
    """Number 0 of a chain. ``previous`` is the writer's epoch before, and its last heads."""
    before = None if previous is None else {"epoch": previous[0], "heads": _heads(previous[1])}
    return write_json({"commitment": commitment.hex(), "token": token, "rule_set": rule_set, "previous": before})


def heads(newest: Sequence[Head]) -> bytes:
    """A heartbeat: the newest record of every chain of the writer."""
    return write_json({"heads": _heads(newest)})


def close(reason: str, newest: Sequence[Head] = ()) -> bytes:
    """The last record of a chain; where it names heads, the chains of the same writer epoch that end there too."""
    return write_json({"close": reason, "heads": _heads(newest)} if newest else {"close": reason})


def erasure_request(request: str, handles: Sequence[bytes] = (), restricted: str = "") -> bytes:
    """An erasure is about to begin. Sealed before anything is destroyed.

    With the handles it can be done again after a restore. ``restricted`` says why nothing may be destroyed yet; then what is
    under the handles is only kept from readers.
    """
    said: dict[str, object] = {"handles": [handle.hex() for handle in handles]} if handles else {}
    if restricted:
        said["restricted"] = restricted
    return write_json({"erasure": "request", "request": request, **said})


def erasure(request: str, handles: Sequence[bytes], parts: Sequence[tuple[int, int, int]] = ()) -> bytes:
    """An erasure is done: of every part under the handles, and of single parts as (partition, index, number of the part)."""
    return write_json(
        {"erasure": "done", "request": request, "handles": [handle.hex() for handle in handles], "parts": [*map(list, parts)]}
    )


def retention(what: str, stretch: Stretch, rule_set: str, operator: str) -> bytes:
    """Bodies (``body``), or parts past the personal maximum of their class (``personal``), were removed."""
    return write_json({"retention": what, **stretch._asdict(), "rule_set": rule_set, "operator": operator})


def pruned(  # noqa: PLR0913  # what is needed to go on without the prefix
    partition: int, size: int, peaks: Sequence[bytes], open_heads: Sequence[OpenHead], keep_until_day: int, operator: str
) -> bytes:
    """The first ``size`` records were removed whole; ``keep_until_day`` is the latest day any of them was to be kept."""
    chains = [
        [head.writer.hex(), head.epoch, head.seq, head.leaf.hex(), head.mac_epoch, head.closed, [*map(_hole, head.holes)]]
        for head in open_heads
    ]
    return write_json({
        "retention": "prune", "partition": partition, "size": size, "peaks": [peak.hex() for peak in peaks], "heads": chains,
        "keep_until_day": keep_until_day, "operator": operator,
    })  # fmt: skip


def open_heads(env: Mapping[str, Any]) -> list[OpenHead]:
    """The heads that the env of a pruning names."""
    return [
        OpenHead(
            bytes.fromhex(writer), epoch, seq, bytes.fromhex(leaf), mac_epoch, closed,
            tuple(Hole(start, end, bytes.fromhex(before), bytes.fromhex(behind)) for start, end, before, behind in holes),
        )
        for writer, epoch, seq, leaf, mac_epoch, closed, holes in env["heads"]
    ]  # fmt: skip


def hold(  # noqa: PLR0913  # what it covers, and who says so
    hold_id: str, who: str, why: str, *, partition: int | None = None, start: int = 0, end: int | None = None, handle: bytes | None = None
) -> bytes:
    """From now on nothing it covers may be removed: a stretch of a partition or of all, of one handle or of any."""
    shown = None if handle is None else handle.hex()
    return write_json({
        "hold": "set", "id": hold_id, "partition": partition, "start": start, "end": end, "handle": shown, "who": who, "why": why,
    })  # fmt: skip


def hold_released(hold_id: str, who: str, why: str) -> bytes:
    """The hold no longer covers anything."""
    return write_json({"hold": "released", "id": hold_id, "who": who, "why": why})


def writer_key(writer: bytes, epoch: int, commitment: bytes, opened_us: int, heartbeat_s: int) -> bytes:
    """A writer epoch is admitted. What is not admitted here is nobody's."""
    return write_json({
        "key": "writer", "writer": writer.hex(), "epoch": epoch, "commitment": commitment.hex(), "opened_us": opened_us,
        "heartbeat_s": heartbeat_s,
    })  # fmt: skip


def checkpoint_key(key: str) -> bytes:
    """A further key will sign checkpoints. Announced under a checkpoint that an earlier key signs."""
    return write_json({"key": "checkpoint", "vkey": key})


def topic_key(topic: str, first: int, partitions: int, ledger_first: int) -> bytes:
    """Partitions ``first`` on of a topic are the ledger's partitions ``ledger_first`` on."""
    return write_json({"key": "topic", "topic": topic, "first": first, "partitions": partitions, "partition": ledger_first})


def rule_set(version: str, max_personal_days: Mapping[int, int | None]) -> bytes:
    """A rule set is in force. Its retention classes, each with the days after which personal parts must be gone.

    A class keeps its number and its days for ever: a later set adds classes and changes none.
    """
    classes = {str(number): days for number, days in max_personal_days.items()}
    return write_json({"key": "rule_set", "version": version, "classes": classes})


def gap(missing: Missing, reason: str) -> bytes:
    """Records of a writer are not there, and this says so."""
    shown = {**missing._asdict(), "writer": missing.writer.hex()}
    return write_json({"gap": shown, "reason": reason})


def _hole(hole: Hole) -> list[object]:
    return [hole.start, hole.end, hole.before.hex(), hole.behind.hex()]


def _heads(newest: Sequence[Head]) -> list[list[object]]:
    return [[head.partition, head.seq, head.leaf.hex()] for head in newest]

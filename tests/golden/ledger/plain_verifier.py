"""A second verifier, as short as can be, written after docs/reference/ledger-format.md: hashes, links and roots; nothing else."""

from __future__ import annotations

from base64 import b64decode
from hashlib import sha256


def problems(files: dict[str, bytes]) -> list[str]:
    """What does not fit, for an export whose bodies and prefixes may have been removed."""
    found = []
    for name, raw in files.items():
        if not name.endswith(".records"):
            continue
        start, peaks = int.from_bytes(raw[10:18]), [raw[19 + 32 * at : 51 + 32 * at] for at in range(raw[18])]
        leaves, links = [], {}
        for number, record in enumerate(frames(raw, 19 + 32 * raw[18])):
            core, bodies = taken_apart(record)
            if any(body is not None and sha256(body).digest() != digest for body, digest in bodies):
                found.append(f"{name} {start + number}: a body is not the one that was sealed")
            chain, seq, prev = core[6:44], int.from_bytes(core[44:52]), core[71:103]
            leaves.append(sha256(b"\0" + core).digest())
            if (chain, seq - 1) in links and links[chain, seq - 1] != prev:
                found.append(f"{name} {start + number}: it does not link to number {seq - 1}")
            links[chain, seq] = leaves[-1]
        signed = next(frames(files[name.replace("records", "notes")], 8)).decode().split("\n")
        if (int(signed[1]), b64decode(signed[2])) != (start + len(leaves), root(start, peaks, leaves)):
            found.append(f"{name}: its root is not that of its note")
    return found


def frames(raw: bytes, at: int):  # an iterator of bytes
    while at < len(raw):
        stop = at + 4 + int.from_bytes(raw[at : at + 4])
        yield raw[at + 4 : stop]
        at = stop


def taken_apart(record: bytes) -> tuple[bytes, list[tuple[bytes | None, bytes]]]:
    """The core; env and parts, each with the hash that the core says."""
    at = 135 + 61 * record[70]
    core, bodies = record[:at], []
    digests = [core[103:135], *(core[place + 29 : place + 61] for place in range(135, at, 61))]
    for digest in digests:
        length = int.from_bytes(record[at : at + 4])
        at += 4
        if length == 0xFFFF_FFFF:
            bodies.append((None, digest))
            continue
        bodies.append((record[at : at + length], digest))
        at += length
    assert len(record) == at + 32
    return core, bodies


def root(start: int, peaks: list[bytes], leaves: list[bytes]) -> bytes:
    """By appending one leaf after the other to a stack of complete trees."""
    sizes = [1 << height for height in range(start.bit_length() - 1, -1, -1) if start >> height & 1]
    stack = list(zip(sizes, peaks, strict=True))
    for leaf in leaves:
        stack.append((1, leaf))
        while len(stack) > 1 and stack[-1][0] == stack[-2][0]:
            (size, right), (_, left) = stack.pop(), stack.pop()
            stack.append((2 * size, sha256(b"\1" + left + right).digest()))
    found = stack.pop()[1]
    while stack:
        found = sha256(b"\1" + stack.pop()[1] + found).digest()
    return found

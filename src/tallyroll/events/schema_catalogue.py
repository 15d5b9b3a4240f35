"""The checked-in catalogue of schemas: one JSON Schema per event type and version, and one for the envelope.

A file is named ``<event type>/<version>.json`` and identifies itself by the URN that events carry as ``dataschema``. Once
released, a file never changes again: its SHA-256 is listed. Pure: registry and file contents in, contents and problems out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from tallyroll.errors import IncompatibleSchema
from tallyroll.events.codec import SCHEMA_URI, Envelope
from tallyroll.events.schema import SchemaRegistry
from tallyroll.events.schema_check import Mode, check, describe

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
ENVELOPE: Final = "envelope"
ENVELOPE_MODE: Final[Mode] = "FULL_TRANSITIVE"  # while a cluster is being upgraded, old and new read each other
RELEASED: Final = "released.json"


class EnvelopeDocument(Envelope, kw_only=True, omit_defaults=True):
    """The whole record as written: what the codec fixes, what the event says, and the publisher's link."""

    specversion: Literal["1.0"]
    datacontenttype: Literal["application/json"]
    expects: str = ""
    sequence: str = ""
    chainsession: str = ""
    chainnumber: str = ""
    chainprev: str = ""
    chainvoids: str = ""


ENVELOPES: Final[tuple[tuple[str, type[Any]], ...]] = (("1.0.0", EnvelopeDocument),)
"""Every version of the envelope there has been, oldest first."""


def documents(registry: SchemaRegistry) -> dict[str, bytes]:
    """Path below ``schemas/`` → content, for the envelope and every version the registry knows."""
    files = {f"{ENVELOPE}/{version}.json": _document(ENVELOPE, version, describe(kind)) for version, kind in ENVELOPES}
    for event_type in registry.event_types():
        for one in registry.versions(event_type):
            files[f"{event_type}/{one.version}.json"] = _document(event_type, one.version, one.schema)
    return files


def digests(files: Mapping[str, bytes]) -> bytes:
    """The content of ``released.json`` for these files."""
    listed = {path: hashlib.sha256(content).hexdigest() for path, content in sorted(files.items()) if path != RELEASED}
    return _pretty(listed)


def released(files: Mapping[str, bytes]) -> dict[str, str]:
    """Path → SHA-256 of every file that may not change again."""
    return msgspec.json.decode(files.get(RELEASED, b"{}"), type=dict[str, str])


def problems(registry: SchemaRegistry, files: Mapping[str, bytes]) -> list[str]:
    """What is wrong with the files as they lie there: stale, altered after release, or incompatible; empty if nothing is.

    Event types need no check among their versions here: the registry refuses an incompatible one.
    """
    wanted, frozen = documents(registry), released(files)
    found = [f"{path}: released, and missing" for path in frozen if path not in files]
    for path, content in sorted(files.items()):
        if path == RELEASED:
            continue
        if path in frozen and frozen[path] != _sha256(content):
            found.append(f"{path}: altered after its release; undo that and add a version")
        elif path not in wanted:
            found.append(f"{path}: no such version is registered")
    for path, content in wanted.items():
        if files.get(path) != content:
            found.append(f"{path}: the code says otherwise; " + ("add a version" if path in frozen else "write it anew"))
    return found + envelope_problems([kind for _, kind in ENVELOPES])


def envelope_problems(versions: Sequence[type[Any]]) -> list[str]:
    """Why one of these envelopes, oldest first, could not be rolled out beside the ones before it."""
    schemas = [describe(kind) for kind in versions]
    found: list[str] = []
    for index, schema in enumerate(schemas):
        try:
            check(ENVELOPE, ENVELOPE_MODE, schemas[:index], schema)
        except IncompatibleSchema as error:
            found += error.problems
    return found


def _document(name: str, version: str, schema: Mapping[str, Any]) -> bytes:
    return _pretty({"$schema": DIALECT, "$id": f"{SCHEMA_URI}{name}:{version}", "title": f"{name} {version}", **schema})


def _pretty(value: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

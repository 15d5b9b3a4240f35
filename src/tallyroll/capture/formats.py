"""The formats that recordings can be read from, and telling which one a file is in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import Final, Protocol

from tallyroll.capture import claude_code, events_file, openai_chat, otlp_json
from tallyroll.capture.recording import DEFAULTS, CaptureOptions, Skipped, Source, documents
from tallyroll.errors import SettingsError
from tallyroll.events.event import AgentEvent

_LOOK_AT: Final = 50  # documents that are looked at: transcripts begin with a few lines that say little


class Reader(Protocol):
    """Turns a recording into events, lazily, in order; what cannot be one comes as Skipped in its place.

    Idempotent: the same content with the same options gives equal events with equal ids. Raises OSError when the file
    cannot be read, and nothing for what is in it.

    Not promised: that ids are equal to those of another format's recording of the same run.
    """

    def __call__(self, source: Source, *, options: CaptureOptions = DEFAULTS) -> Iterator[AgentEvent | Skipped]: ...


@dataclass(frozen=True, slots=True)
class Format:
    """One format: its name on the command line, what it is, its reader, and whether a document looks like it."""

    name: str
    title: str
    read: Reader
    looks_right: Callable[[object], bool]


FORMATS: Final[Mapping[str, Format]] = MappingProxyType(
    {
        form.name: form
        for form in (
            Format(events_file.NAME, "events written by tallyroll: JSON lines, CloudEvents", events_file.read, events_file.looks_right),
            Format(otlp_json.NAME, "OpenTelemetry traces in OTLP/JSON, GenAI conventions", otlp_json.read, otlp_json.looks_right),
            Format(claude_code.NAME, "session transcripts of Claude Code, JSON lines", claude_code.read, claude_code.looks_right),
            Format(openai_chat.NAME, "runs as OpenAI chat messages, JSON or JSON lines", openai_chat.read, openai_chat.looks_right),
        )
    }
)
"""Every format by its name, the most particular first: ``detect`` asks them in this order."""


def detect(source: Source) -> Format:
    """The format that the first documents of a file look like. Raises SettingsError that lists the formats if none does."""
    first = [item for _, item in islice(documents(source), _LOOK_AT) if not isinstance(item, Skipped)]
    for form in FORMATS.values():
        if any(form.looks_right(item) for item in first):
            return form
    raise SettingsError("format", f"cannot tell the format of this recording; name one of {', '.join(sorted(FORMATS))}")

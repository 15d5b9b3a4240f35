import json
from importlib.resources import files
from pathlib import Path

import pytest

from tallyroll.capture import FORMATS, Skipped, detect
from tallyroll.errors import SettingsError
from tallyroll.simulate import Fleet

GOLDEN = Path(__file__).parents[1] / "golden" / "capture"
SAMPLE = files("tallyroll.capture") / "sample" / "support_runs.json"
EVENTS = "\n".join(json.dumps(event.to_kafka_message()) for event in Fleet().run(events=3)).encode()


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (GOLDEN / "session.claude-code.jsonl", "claude-code"),
        (GOLDEN / "trace.otlp.json", "otlp-json"),
        (SAMPLE.read_bytes(), "openai-chat"),
        (EVENTS, "events"),
        (b'{"role": "user", "content": "hi"}', "openai-chat"),
        (b'\xef\xbb\xbf[{"messages": []}]', "openai-chat"),
    ],
)
def test_a_format_is_told_from_its_content(source, name):
    assert detect(source).name == name


@pytest.mark.parametrize("source", [b"", b"hello", b"[]", b'{"a": 1}'])
def test_a_format_that_cannot_be_told_is_an_error_that_lists_the_formats(source):
    with pytest.raises(SettingsError, match="claude-code, events, openai-chat, otlp-json"):
        detect(source)


@pytest.mark.parametrize("name", FORMATS)
def test_no_format_falls_over_an_empty_or_broken_file(name):
    assert list(FORMATS[name].read(b"")) == [Skipped("file", "empty")]
    assert list(FORMATS[name].read(b"{\n  'a': 1\n}")) == [Skipped("file", "not JSON")]


@pytest.mark.parametrize("recording", ["session.claude-code.jsonl", "trace.otlp.json", "support_runs.json"])
def test_released_recordings_give_the_same_events_for_ever(recording):
    source = SAMPLE.read_bytes() if recording == "support_runs.json" else GOLDEN / recording
    told = [
        [item.where, item.reason]
        if isinstance(item, Skipped)
        else [item.event_id, item.event_type, item.key, item.timestamp.isoformat(), item.metadata.causation_id, item.payload]
        for item in detect(source).read(source)
    ]
    expected = (GOLDEN / f"{recording}.expected.jsonl").read_text(encoding="utf-8").splitlines()
    assert told == [json.loads(line) for line in expected]

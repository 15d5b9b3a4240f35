from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tallyroll.events.chain import Chain
from tallyroll.events.codec import encode
from tallyroll.events.event import AgentEvent
from tallyroll.events.schema import SCHEMAS, SchemaRegistry
from tallyroll.events.schema_catalogue import RELEASED, EnvelopeDocument, digests, documents, envelope_problems, problems
from tallyroll.events.types import EventType

ROOT = Path(__file__).parents[2]


def checked_in() -> dict[str, bytes]:
    folder = ROOT / "schemas"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.json")}


class V1(msgspec.Struct):
    a: int | None = None


class V1Changed(msgspec.Struct):
    a: int | None = None
    b: int | None = None


def registry(kind: type = V1) -> SchemaRegistry:
    made = SchemaRegistry()
    made.register("x.done", "1.0.0", kind)
    return made


def released(kind: type = V1) -> dict[str, bytes]:
    files = documents(registry(kind))
    return {**files, RELEASED: digests(files)}


def test_the_checked_in_schemas_are_what_the_code_says():
    assert problems(SCHEMAS, checked_in()) == []


def test_there_is_one_file_per_type_and_version_and_one_for_the_envelope():
    names = {f"{member}/1.0.0.json" for member in EventType} | {"envelope/1.0.0.json"}
    assert set(documents(SCHEMAS)) == names


@pytest.mark.parametrize("member", EventType)
def test_a_schema_identifies_itself_by_what_events_carry_as_dataschema(member):
    carried = msgspec.json.decode(encode(AgentEvent(member, "x", "agent")))["dataschema"]
    assert msgspec.json.decode(documents(SCHEMAS)[f"{member}/1.0.0.json"])["$id"] == carried


def test_the_envelope_describes_what_is_written():
    document = Chain("ab" * 16).link(encode(AgentEvent(EventType.AGENT_STARTED, "a-1", "agent")), 7)
    read = msgspec.json.decode(document, type=EnvelopeDocument)
    assert set(msgspec.json.decode(document)) <= set(EnvelopeDocument.__struct_fields__)
    assert (read.subject, read.chainnumber, read.sequence) == ("agent:a-1", "1", "7")


def test_an_untouched_catalogue_has_no_problems():
    assert problems(registry(), released()) == []


def test_a_stale_file_is_found():
    assert problems(registry(V1Changed), documents(registry())) == ["x.done/1.0.0.json: the code says otherwise; write it anew"]


def test_changed_code_under_a_released_version_is_found():
    assert problems(registry(V1Changed), released()) == ["x.done/1.0.0.json: the code says otherwise; add a version"]


def test_a_released_file_that_was_altered_is_found_even_where_the_code_agrees():
    files = {**released(), **documents(registry(V1Changed))}
    assert problems(registry(V1Changed), files) == ["x.done/1.0.0.json: altered after its release; undo that and add a version"]


def test_missing_and_surplus_files_are_found():
    files = released()
    files["y.done/1.0.0.json"] = files.pop("x.done/1.0.0.json")
    assert [problem.partition(":")[0] for problem in problems(registry(), files)] == [
        "x.done/1.0.0.json",
        "y.done/1.0.0.json",
        "x.done/1.0.0.json",
    ]


def test_an_envelope_has_to_be_readable_in_both_directions():
    assert envelope_problems([V1, V1Changed]) == []
    assert envelope_problems([V1, V1Changed, msgspec.defstruct("V3", [("c", int)])]) != []


@pytest.mark.slow
def test_the_script_fails_on_stale_files_and_never_writes_over_released_ones(tmp_path):
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/schemas", tmp_path / "scripts/schemas")

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "scripts/schemas", *options], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert run("--check").returncode == 1
    assert run("--release").returncode == 0
    assert run("--check").returncode == 0
    victim = tmp_path / "schemas/task.completed/1.0.0.json"
    victim.write_bytes(victim.read_bytes() + b" ")
    for options in (["--check"], [], ["--release"]):
        failed = run(*options)
        assert failed.returncode == 1
        assert "task.completed/1.0.0.json: altered after its release" in failed.stderr

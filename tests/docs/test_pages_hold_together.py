"""Links lead somewhere, names exist, nothing is missing from the reference, and no page tells of one machine."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, Protocol

import pytest
import typer.main
from tests.docs.pages import PAGES, ROOT, blocks_of, broken_links, commands_of, prose_of

import tallyroll
from tallyroll import errors, ports
from tallyroll.analytics.alerts.rules import DEFAULT_RULES
from tallyroll.analytics.spec import BUILT_IN as METRIC_SPECS
from tallyroll.audit.compliance.library import library
from tallyroll.audit.trail import AuditTrail
from tallyroll.audit.verify.report import CODES
from tallyroll.cli.app import app
from tallyroll.events.topics import BUILT_IN
from tallyroll.events.types import EventType
from tallyroll.settings import BOOTSTRAP_VARIABLE, CONFIG_VARIABLE, Settings
from tallyroll.settings.kafka_options import CONSUMER_OPTIONS, PRODUCER_OPTIONS
from tallyroll.telemetry import METRICS

REFERENCE = ROOT / "docs" / "reference"
TEXTS = {str(page.relative_to(ROOT)): page.read_text() for page in PAGES}
VARIABLES = {item.metadata["variable"].env for item in fields(Settings)} | {BOOTSTRAP_VARIABLE, CONFIG_VARIABLE}
COMMAND_LINE_VARIABLES = {"TALLYROLL_DEBUG"}
ERRORS = [value.__name__ for value in vars(errors).values() if isinstance(value, type) and issubclass(value, errors.TallyrollError)]


def command_paths(prefix: str, command: Any) -> Iterator[str]:
    if not hasattr(command, "list_commands"):
        yield prefix
        return
    context = command.context_class(command)
    for name in command.list_commands(context):
        yield from command_paths(f"{prefix} {name}", command.get_command(context, name))


COMMANDS = list(command_paths("tallyroll", typer.main.get_command(app)))

ENTRIES = {
    "settings.md": [f"`{name}`" for name in sorted(VARIABLES)],
    "kafka-options.md": [f"`{name}`" for name in (*PRODUCER_OPTIONS, *CONSUMER_OPTIONS)],
    "topics.md": [f"`{topic.base}`" for topic in BUILT_IN],
    "event-types.md": [f"### {member.value}\n" for member in EventType],
    "metrics.md": [f"`{metric.name}`" for metric in METRICS],
    "measures.md": [f"`{spec.name}`" for spec in METRIC_SPECS],
    "alert-rules.md": [f"`{rule.name}`" for rule in DEFAULT_RULES],
    "compliance-rules.md": [f"| `{rule.rule_id}` |" for rule in library().rules],
    "errors.md": [f"## {name}\n" for name in ERRORS],
    "commands.md": [f"## {path}\n" for path in COMMANDS],
    "ledger-format.md": [f"| `{code}` | {severity} | {text} |" for code, (severity, text) in CODES.items()],
    "python-api.md": [f"`{name}`" for name in tallyroll.__all__],
}


def missing(page: str, entries: Iterable[str]) -> list[str]:
    text = (REFERENCE / page).read_text()
    return [entry for entry in entries if entry not in text]


@pytest.mark.parametrize("page", ENTRIES)
def test_everything_has_its_entry(page: str) -> None:
    assert ENTRIES[page]
    assert missing(page, ENTRIES[page]) == []


def test_a_missing_entry_is_named() -> None:
    assert missing("settings.md", ["`TALLYROLL_URL`", "`TALLYROLL_NO_SUCH_SETTING`"]) == ["`TALLYROLL_NO_SUCH_SETTING`"]


@pytest.mark.slow
def test_the_generated_reference_is_current() -> None:
    done = subprocess.run([sys.executable, ROOT / "scripts/reference", "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_api_page_lists_nothing_that_does_not_exist() -> None:
    section = (REFERENCE / "python-api.md").read_text().partition("## Methods of `Roll`")[0]
    listed = re.findall(r"^\| `(\w+)`", section, re.MULTILINE)
    assert listed == list(tallyroll.__all__)


def test_the_api_page_lists_every_method_of_the_roll() -> None:
    public = [
        name for name, value in vars(tallyroll.Roll).items() if not name.startswith("_") and callable(getattr(value, "__func__", value))
    ]
    section = (REFERENCE / "python-api.md").read_text().partition("## Methods of `Roll`")[2].partition("\n## ")[0]
    assert sorted(re.findall(r"^\| `(\w+)`", section, re.MULTILINE)) == sorted(public)


def test_the_api_page_lists_every_method_of_the_audit_trail() -> None:
    section = (REFERENCE / "python-api.md").read_text().partition("## Methods of `Roll.audit`")[2].partition("\n## ")[0]
    public = [name for name, value in vars(AuditTrail).items() if not name.startswith("_") and callable(value)]
    listed = [name for row in section.splitlines() if row.startswith("| `") for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(listed) == sorted(public)


def test_the_other_modules_of_the_api_page_have_what_it_says() -> None:
    section = (REFERENCE / "python-api.md").read_text().partition("## Other public modules")[2]
    rows = re.findall(r"^\| (`tallyroll[^|]*`) \| (.*?)[:;.|]", section, re.MULTILINE)
    assert len(rows) > 30
    for modules, names in rows:
        found = [importlib.import_module(name) for name in re.findall(r"`([\w.]+)`", modules)]
        named = re.findall(r"`(\w+)`", names.partition("(")[0])
        assert [name for name in named if not any(hasattr(module, name) for module in found)] == [], modules


def test_the_architecture_says_what_belongs_into_each_part() -> None:
    text = (ROOT / "docs/explanation/architecture.md").read_text()
    parts = [path for path in (ROOT / "src/tallyroll").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
    names = [path.name if path.suffix else f"{path.name}/" for path in parts if path.name != "__init__.py"]
    assert [name for name in names if not re.search(rf"^\|[^|]*`{re.escape(name)}`", text, re.MULTILINE)] == []


def test_every_port_and_every_contract_suite_is_told_to_who_writes_an_adapter() -> None:
    text = (ROOT / "docs/how-to/write-an-adapter.md").read_text()
    names = [name for name, value in vars(ports).items() if getattr(value, "_is_protocol", False) and value is not Protocol]
    suites = [path.stem for path in (ROOT / "src/tallyroll/testing").glob("*_contract.py")]
    assert [name for name in (*names, *suites) if not re.search(rf"\b{name}\b", text)] == []


def test_the_glossary_is_in_order() -> None:
    words = re.findall(r"^\| (.*?) \|", (ROOT / "docs/glossary.md").read_text(), re.MULTILINE)[2:]
    assert words == sorted(words, key=str.lower)


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page: str) -> None:
    assert broken_links(ROOT / page, TEXTS[page]) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One\n\n[there](page.md#one) [nowhere](absent.md) [no heading](#two)\n")
    assert broken_links(page, page.read_text()) == ["absent.md", "#two"]


def test_every_page_can_be_reached_from_the_index() -> None:
    reached: set[Path] = set()
    waiting = [ROOT / "docs" / "index.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or page.suffix != ".md" or not page.exists():
            continue
        reached.add(page)
        waiting += [(page.parent / link).resolve() for link in re.findall(r"\]\(([^)#\s:]+)", prose_of(page.read_text()))]
    pages = {page for page in PAGES if ROOT / "docs" in page.parents and "adr" not in page.parts}
    assert sorted(str(page.relative_to(ROOT)) for page in pages - reached) == []


@pytest.mark.parametrize("page", TEXTS)
def test_no_page_tells_of_one_machine(page: str) -> None:
    assert re.findall(r"(?<![\w.~:/])/(?:work|root|home|tmp|Users|mnt)/\S*", TEXTS[page]) == []


@pytest.mark.parametrize("page", TEXTS)
def test_variables_that_are_named_exist(page: str) -> None:
    named = {
        name.rstrip("_") for name in re.findall(r"\b(?:TALLYROLL|KAFKA)_[A-Z_]+", TEXTS[page]) if not name.startswith("KAFKA_AVAILABLE")
    }
    known = VARIABLES | COMMAND_LINE_VARIABLES
    assert {name for name in named if not {name, name.removesuffix("_FILE")} & known} == set()


def inline_commands(text: str) -> list[str]:
    shown = [command for block in blocks_of(text) if block.kind == "console" for command, _ in commands_of(block.body)]
    return [command for command in (*re.findall(r"`(tallyroll [a-z][^`]*)`", prose_of(text)), *shown) if command.startswith("tallyroll ")]


@pytest.mark.parametrize("page", TEXTS)
def test_commands_that_are_named_exist(page: str) -> None:
    groups = {path.rsplit(" ", 1)[0] for path in COMMANDS if path.count(" ") > 1}
    unknown = [
        command
        for command in inline_commands(TEXTS[page])
        if not any(f"{command} ".startswith(f"{path} ") for path in (*COMMANDS, *groups))
    ]
    assert unknown == []


HAND_WRITTEN = [page for page in TEXTS if "/adr/" not in page and not TEXTS[page].startswith("<!-- Generated")]


@pytest.mark.parametrize("page", HAND_WRITTEN)
def test_one_sentence_stands_on_a_line(page: str) -> None:
    lines = re.sub(r"`[^`]*`", "x", prose_of(TEXTS[page])).splitlines()
    assert [line for line in lines if not line.startswith("|") and re.search(r"[^.\d][.?!]\)? +[A-Z]", line)] == []


def test_the_python_of_the_readme_is_what_the_type_checker_sees() -> None:
    shown = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert shown is not None
    assert (ROOT / "tests/api/readme_example.py").read_text().endswith(f'"""\n\n{shown[1]}')

"""What the style guide promises of the tree, held by reading it."""

import ast
import inspect
import pkgutil
import re
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

import tallyroll
from tallyroll import errors, ports, telemetry
from tallyroll.settings import Settings
from tallyroll.telemetry import METRICS

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 60


def oversize() -> dict[str, str]:
    return tomllib.loads((ROOT / "tests/architecture/oversize.toml").read_text())


def too_large() -> dict[str, int]:
    found = {}
    for path in SOURCES:
        text = path.read_text()
        name = str(path.relative_to(ROOT / "src" / "tallyroll"))
        if (lines := text.count("\n")) > MAX_MODULE_LINES:
            found[name] = lines
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and (node.end_lineno or 0) - node.lineno >= MAX_FUNCTION_LINES:
                found[f"{name}:{node.name}"] = (node.end_lineno or 0) - node.lineno
    return found


def test_modules_and_functions_keep_to_their_size_or_say_why() -> None:
    assert set(too_large()) == set(oversize())


def test_compat_is_docstring_imports_and_all() -> None:
    for path in (ROOT / "src/tallyroll/compat").glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            is_all = isinstance(node, ast.Assign) and [target.id for target in node.targets if isinstance(target, ast.Name)] == ["__all__"]
            assert is_docstring or is_all or isinstance(node, ast.ImportFrom), f"{path.name}:{node.lineno}"


def test_package_files_hold_imports_only() -> None:
    for path in SOURCES:
        if path.name == "__init__.py" and path.parent.name not in ("cli", "tallyroll"):  # which are in front of imports that take long
            for node in ast.parse(path.read_text()).body:
                assert isinstance(node, (ast.Expr, ast.ImportFrom, ast.Assign)), f"{path}:{node.lineno}"


def test_every_exported_name_exists() -> None:
    assert sorted(tallyroll.__all__) == list(tallyroll.__all__)
    assert all(hasattr(tallyroll, name) for name in tallyroll.__all__)


PORTS = [
    value
    for value in vars(ports).values()
    if isinstance(value, type) and value.__module__.startswith(ports.__name__) and getattr(value, "_is_protocol", False)
]


def test_ports_are_found() -> None:
    assert len(PORTS) >= 9


@pytest.mark.parametrize("port", PORTS, ids=lambda port: port.__name__)
def test_every_port_says_what_it_does_not_promise(port: type) -> None:
    own_promise = "Not promised" in (port.__doc__ or "")
    is_callback = port.__name__ in ("AssignmentListener", "Pending")
    assert own_promise or is_callback, f"{port.__name__}: say what is not promised"


ERRORS = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, errors.TallyrollError)]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_every_error_stands_in_the_tree_with_its_retriability(error: type[errors.TallyrollError]) -> None:
    drawn = {match.group(1): bool(match.group(2)) for match in re.finditer(r"([A-Z]\w+)( \*)?(?=\s|$)", errors.__doc__ or "", re.MULTILINE)}
    assert drawn.get(error.__name__) == error.retriable


@pytest.mark.parametrize("error", [error for error in ERRORS if not error.__subclasses__()], ids=lambda error: error.__name__)
def test_every_error_says_whose_fault_and_what_next(error: type[errors.TallyrollError]) -> None:
    text = error.__doc__ or ""
    assert re.search(r"(Caller|Operator|Developer):", text), "say whose turn it is, and what to do"
    assert "Not " in text or "not " in text, "say what it is not to be confused with"


def test_every_error_is_raised_by_somebody() -> None:
    text = "\n".join(path.read_text() for path in SOURCES if path.name != "errors.py")
    leaves = [error.__name__ for error in ERRORS if not error.__subclasses__()]
    assert [name for name in leaves if not re.search(rf"\b{name}\(|raise {name}\b", text)] == []


def test_every_setting_is_read_by_somebody() -> None:
    text = "\n".join(path.read_text() for path in SOURCES if path.parent.name != "settings")
    properties = "\n".join(inspect.getsource(value.fget) for value in vars(Settings).values() if isinstance(value, property))
    of_itself = properties + inspect.getsource(Settings.group)
    names = [item.name for item in fields(Settings)]
    assert [name for name in names if not re.search(rf"\.{name}\b", text) and f"self.{name}" not in of_itself] == []


def test_metric_names_are_unique() -> None:
    names = [metric.name for metric in METRICS]
    assert len(names) == len(set(names)) > 10


def test_every_metric_is_sent_by_somebody() -> None:
    names = {name for name, value in vars(telemetry).items() if isinstance(value, telemetry.Metric)}
    text = "\n".join(path.read_text() for path in SOURCES if path.name != "telemetry.py")
    assert sorted(name for name in names if not re.search(rf"(count|observe|observe_many)\(\s*{name}\b", text)) == []


def test_the_contract_of_independence_names_every_adapter() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (independent,) = [contract["modules"] for contract in contracts if contract["type"] == "independence"]
    folders = [path.parent.name for path in (ROOT / "src/tallyroll/adapters").glob("*/__init__.py")]
    assert sorted(independent) == sorted(f"tallyroll.adapters.{name}" for name in folders)


def test_pinned_files_name_no_address() -> None:
    for path in (ROOT / "requirements").glob("*.txt"):
        text = path.read_text()
        assert "--hash=sha256:" in text
        assert not re.search(r"https?://|--index|--find-links|--extra-index", text), path.name


def test_every_ignored_rule_says_why() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    section = text[text.index("[tool.ruff.lint]") : text.index("[tool.ruff.lint.flake8-tidy-imports")]
    for line in section.splitlines():
        if re.match(r'\s+"[A-Z]+\d*",', line):
            assert "#" in line, line


def test_every_suppression_says_why() -> None:
    bare = []
    for path in [*SOURCES, *sorted((ROOT / "services").glob("*.py"))]:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if re.search(r"#\s*type:\s*ignore(?!\[)", line):
                bare.append(f"{path.name}:{number}")
    assert not bare


TOP = {path.stem for path in (ROOT / "src/tallyroll").iterdir()}


def names_of_nothing(text: str) -> list[str]:
    """Dotted names in double backticks that begin with a part of the package and lead nowhere; a text in quotes is no such name."""
    named = re.findall(r"``((?:tallyroll\.)?(\w+)(?:\.\w+)+)``", text)
    return [
        name for name, first in named if first in TOP and f'"{name}' not in TEXT and not leads_somewhere(name.removeprefix("tallyroll."))
    ]


def leads_somewhere(name: str) -> bool:
    try:
        pkgutil.resolve_name(f"tallyroll.{name}")
    except (ImportError, AttributeError):
        return False
    return True


TEXT = "\n".join(path.read_text() for path in SOURCES)


def test_names_in_docstrings_lead_somewhere() -> None:
    assert names_of_nothing(TEXT) == []


def test_a_name_that_leads_nowhere_is_found() -> None:
    assert names_of_nothing("``ports.Clock``, ``audit.ledger.layout.gone``, ``audit.read``") == ["audit.ledger.layout.gone"]


def test_no_todo_is_left_in_the_source() -> None:
    assert [path.name for path in SOURCES if re.search(r"\b(TODO|FIXME|XXX|NotImplementedError)\b", path.read_text())] == []


def test_the_verifier_imports_the_standard_library_and_itself_only() -> None:
    for path in (ROOT / "src/tallyroll/audit/verify").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 1 or (node.module or "").split(".")[0] in sys.stdlib_module_names, f"{path.name}: {node.module}"
            elif isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= sys.stdlib_module_names, path.name


CLOCKS = {
    "datetime.now": {"events/ids.py", "analytics/records.py", "audit/verify/__main__.py"},
    "time.time": set(),
    "time.time_ns": {"events/ids.py", "adapters/system/clock.py"},
}
RANDOM = {"events/ids.py", "backoff.py", "adapters/sqlite/membership.py"}


def test_time_and_randomness_come_from_few_places() -> None:
    for path in SOURCES:
        name = str(path.relative_to(ROOT / "src" / "tallyroll"))
        if name.startswith(("simulate/", "testing/", "cli/")):
            continue  # a simulation is seeded, and people's terminals have a clock
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and (called := ast.unparse(node.func)) in CLOCKS:
                assert name in CLOCKS[called], f"{name} calls {called}"
            if isinstance(node, ast.Import) and any(alias.name in ("random", "secrets", "uuid") for alias in node.names):
                assert name in RANDOM, f"{name} draws random numbers"


LARGEST_BYTES = 400_000  # twice the longest list of requirements


def test_git_holds_no_data_of_a_run_and_nothing_built() -> None:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == 0:  # an unpacked source archive has no git
        names = [name for name in done.stdout.split("\0") if (ROOT / name).is_file()]
        made = (".db", ".db-wal", ".pyc", ".whl", ".so", ".jar")
        assert not [name for name in names if name.endswith(made) or name.startswith(".services/")]
        assert not [name for name in names if (ROOT / name).stat().st_size > LARGEST_BYTES]

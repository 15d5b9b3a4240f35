"""What is promised of tests, held by reading them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = sorted(Path(__file__).parents[1].rglob("*.py"))
WAITS = {"caught_up": 1, "communicate": 1, "drain": 0, "flush": 0, "join": 0, "result": 0, "settimeout": 0, "timeout": 0, "wait_for": 1}
"""What waits in real time, and which of its arguments says how long at most; by name it is ``timeout``."""
A_MOMENT_S = 1  # what is as short may end before anything comes, and decides nothing
BY_A_CLOCK_OF_OURS = "passing"
MODULES_OF_OTHERS = {"tempfile"}
PRIVATE_TO_OTHERS = {"_log_destroy_pending"}  # asyncio has no other way to leave a task behind on purpose


def name_of(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def bounds_in_seconds(node: ast.AST) -> Iterator[int]:
    """Lines where a wait in real time ends after so many seconds, whatever the machine."""
    if isinstance(node, ast.Call):
        name = name_of(node.func)
        if name == BY_A_CLOCK_OF_OURS:
            return
        given = [word.value for word in node.keywords if word.arg == "timeout"]
        if name in WAITS:
            given += node.args[WAITS[name] : WAITS[name] + 1]
        if any(isinstance(one, ast.Constant) and isinstance(one.value, int | float) and one.value > A_MOMENT_S for one in given):
            yield node.lineno
    for child in ast.iter_child_nodes(node):
        yield from bounds_in_seconds(child)


def patches(tree: ast.AST) -> Iterator[int]:
    """Lines that replace what is private to another object, or what a module of ours holds."""
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AugAssign | ast.AnnAssign) else []
        for target in [one for each in targets for one in (each.elts if isinstance(each, ast.Tuple) else [each])]:
            private = isinstance(target, ast.Attribute) and target.attr.startswith("_") and target.attr not in PRIVATE_TO_OTHERS
            if private and name_of(target.value) not in ("self", "cls"):
                yield node.lineno
        if isinstance(node, ast.Call) and name_of(node.func) == "setattr" and name_of(node.args[0]) not in MODULES_OF_OTHERS:
            yield node.lineno
        if isinstance(node, ast.Import | ast.ImportFrom) and "mock" in ast.unparse(node):
            yield node.lineno


@pytest.mark.parametrize("find", [bounds_in_seconds, patches])
def test_no_test_breaks_the_promise(find) -> None:
    assert [f"{path.name}:{line}" for path in TESTS for line in find(ast.parse(path.read_text()))] == []


@pytest.mark.parametrize(
    "text",
    [
        "loop.caught_up(where, 30)",
        "producer.flush(20)",
        "subprocess.run(words, timeout=60)",
        "asyncio.timeout(5)",
        "with a(join(b, c.join(30))): ...",
    ],
)
def test_a_bound_in_seconds_is_found(text: str) -> None:
    assert list(bounds_in_seconds(ast.parse(text))) == [1]
    patient = text.replace("30", "PATIENCE_S").replace("20", "PATIENCE_S").replace("60", "2 * PATIENCE_S").replace("5", "PATIENCE_S")
    assert list(bounds_in_seconds(ast.parse(patient))) == []


@pytest.mark.parametrize(
    "text", ["desk.passing(loop.caught_up(where, 3_600))", "until.wait(0.005)", "publisher.flush(0.5)", "', '.join(names)"]
)
def test_what_is_no_bound_in_seconds_is_not_found(text: str) -> None:
    assert list(bounds_in_seconds(ast.parse(text))) == []


@pytest.mark.parametrize(
    "text",
    [
        "roll._versions = other", "a, ring._fault = 1, full", "fold._parts[0]._young += 1", "monkeypatch.setattr(extras, 'find_spec', f)",
        "setattr(roll, name, other)", "from unittest import mock", "import unittest.mock",
    ],
)  # fmt: skip
def test_a_patch_is_found(text: str) -> None:
    assert list(patches(ast.parse(text))) == [1]


@pytest.mark.parametrize(
    "text", ["self._seen = 1", "desk.clock = clock", "monkeypatch.setattr(tempfile, 'tempdir', None)", "monkeypatch.setenv('A', 'b')"]
)
def test_what_is_no_patch_is_not_found(text: str) -> None:
    assert list(patches(ast.parse(text))) == []

"""``import tallyroll`` by itself: it costs next to nothing, and everything public is there when it is asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest
from tests.patience import PATIENCE_S

import tallyroll


def said(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=PATIENCE_S).stdout.strip()


@pytest.mark.slow
def test_the_package_alone_imports_nothing_of_itself() -> None:
    assert said("import sys, tallyroll; print([name for name in sys.modules if name.startswith('tallyroll.')])") == "[]"


@pytest.mark.slow
def test_a_module_of_it_does_not_bring_the_public_names_along() -> None:
    program = "import sys; from tallyroll import errors; print(errors.__name__, 'tallyroll.roll' in sys.modules)"
    assert said(program) == "tallyroll.errors False"


@pytest.mark.slow
def test_every_public_name_is_there_at_its_first_use_and_stays_the_same() -> None:
    program = (
        "import tallyroll\nbefore = dir(tallyroll)\nfrom tallyroll import *\n"
        "print(all(name in before for name in tallyroll.__all__), Roll is tallyroll.Roll, AgentEvent.__module__, 'Roll' in vars(tallyroll))"
    )
    assert said(program) == "True True tallyroll.events.event True"


@pytest.mark.parametrize("name", ["Rol", "publish_event", "__wrapped__"])
def test_a_name_that_is_not_there_is_an_attribute_error(name: str) -> None:
    with pytest.raises(AttributeError, match=name):
        getattr(tallyroll, name)


def test_modules_are_there_without_being_imported_first() -> None:
    assert tallyroll.errors.TallyrollError is tallyroll.TallyrollError

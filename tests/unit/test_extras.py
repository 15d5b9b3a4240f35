"""Optional dependencies: looked for, never imported."""

from __future__ import annotations

import subprocess
import sys

import pytest
from tests.patience import PATIENCE_S

from tallyroll.adapters.extras import EXTRAS, KAFKA_AVAILABLE, NATS_AVAILABLE, REDIS_AVAILABLE, available, require

_WITHOUT = """
import sys
sys.modules["confluent_kafka"] = None  # as if it were not installed
from tallyroll.adapters.extras import KAFKA_AVAILABLE, require
from tallyroll.errors import MissingExtra
try:
    require("kafka")
except MissingExtra as error:
    print(KAFKA_AVAILABLE, error)
"""


def test_what_is_installed_here_is_available() -> None:
    assert (KAFKA_AVAILABLE, REDIS_AVAILABLE, NATS_AVAILABLE) == (True, True, True)
    for extra in EXTRAS:
        assert available(extra)
        require(extra)


def test_a_missing_extra_is_named_with_the_line_that_installs_it() -> None:
    done = subprocess.run([sys.executable, "-c", _WITHOUT], capture_output=True, text=True, check=True, timeout=PATIENCE_S)
    assert done.stdout.strip() == "False extra 'kafka': not installed; run: pip install 'tallyroll[kafka]'"


def test_asking_imports_no_client() -> None:
    code = "import sys, tallyroll.adapters.extras; print(sorted({'confluent_kafka', 'redis', 'nats', 'typer', 'rich'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=PATIENCE_S)
    assert done.stdout.strip() == "[]"


def test_an_unknown_extra_is_a_slip_of_the_caller() -> None:
    with pytest.raises(KeyError):
        require("kafak")

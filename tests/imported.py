"""What the server of ``apart`` imports and makes once, for every program that is forked from it. Opens nothing, starts no thread."""

from importlib import import_module
from typing import Final

from tallyroll.cli.app import VERBS
from tallyroll.replay.views import FOLD

_MODULES: Final = (
    *("pyarrow.compute", "pyarrow.parquet", "tallyroll.testing.contract", "tests.contracts.test_archive", "tests.unit.analytics_histories"),
    *(f"tallyroll.cli.{verb.module}" for verb in VERBS.values()),
)
for name in _MODULES:
    import_module(name)
for topic in FOLD.views[0].topics:
    FOLD.programs(topic)  # those of all topics are compiled, and kept, when the first are asked for

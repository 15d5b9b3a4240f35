"""What the server of ``apart`` imports and makes once, for every program that is forked from it. Opens nothing, starts no thread."""

from importlib import import_module

import pyarrow.compute
import pyarrow.parquet
import tests.contracts.test_archive
import tests.unit.analytics_histories

import tallyroll.testing.contract
from tallyroll.cli.app import VERBS
from tallyroll.replay.views import FOLD

for verb in VERBS.values():
    import_module(f"tallyroll.cli.{verb.module}")
for topic in FOLD.views[0].topics:
    FOLD.programs(topic)  # all are compiled, and kept, when the first is asked for

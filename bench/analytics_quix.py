"""Five windows per agent in quixstreams: run by a Python of its own environment, prints one line of JSON.

The topic holds the same records, keyed by agent already, and state is not backed up to Kafka: both save quixstreams work that
a real job would have to do.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from datetime import timedelta

from quixstreams import Application
from quixstreams.dataframe.windows import Count, Max, Mean, Min, Sum

WINDOWS = (timedelta(minutes=1), timedelta(minutes=5), timedelta(minutes=15), timedelta(hours=1), timedelta(days=1))
_QUIET_S = 15.0  # without a message, and all have been read
ENDS = ("task.completed", "task.failed")


def main(bootstrap: str, topic_name: str, group: str) -> None:
    """Reads all records of a topic and aggregates the durations of ended tasks."""
    with tempfile.TemporaryDirectory() as folder:
        app = Application(
            bootstrap, consumer_group=group, auto_offset_reset="earliest", state_dir=folder, use_changelog_topics=False,
            loglevel="ERROR", consumer_extra_config={"fetch.min.bytes": 50_000},
        )  # fmt: skip
        topic = app.topic(topic_name, value_deserializer="json", key_deserializer="str")
        frame = app.dataframe(topic)
        seen: list[float] = []
        frame = frame.update(lambda _: seen.append(time.perf_counter()))
        ended = frame[frame["type"].isin(ENDS)].apply(lambda value: {"ms": float(value["data"].get("duration_ms") or 0.0)})
        for number, width in enumerate(WINDOWS):
            ended.tumbling_window(width, grace_ms=timedelta(minutes=2), name=f"w{number}").agg(
                n=Count(), total=Sum("ms"), mean=Mean("ms"), low=Min("ms"), high=Max("ms")
            ).current()
        cpu = time.process_time()
        app.run(timeout=_QUIET_S)
        cpu, wall = time.process_time() - cpu, seen[-1] - seen[0]  # joining the group and waiting for more is not counted
        print(json.dumps({"events": len(seen), "events_per_s": len(seen) / wall, "cpu_us_per_event": cpu / len(seen) * 1e6}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3])

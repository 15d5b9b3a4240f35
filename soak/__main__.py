"""``scripts/soak``: publishers and followers on real Kafka, Redis and NATS, faults by a seeded plan, and a judgement of what is left."""

from __future__ import annotations

import argparse
import asyncio
import heapq
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any, Final

from services import ServiceError

from soak.checks import Finding
from soak.judging import judge, settle
from soak.plan import KINDS, Step, plan
from soak.site import Site

SOUND: Final = 0
FOUND: Final = 1
USAGE: Final = 2
NO_SERVERS: Final = 3
_SHOWN: Final = 10  # findings of one check
_LOOK_S: Final = 0.5
_EPILOG: Final = """exit codes: 0 everything holds · 1 something does not · 2 wrong use · 3 the servers cannot be started

Servers, data and logs are the run's own, in a temporary folder that is left there when something was found. The same seed draws the
same faults at the same times; what they meet is as it comes. Ctrl-C ends everything at once, without a judgement."""


def main() -> int:
    """One run."""
    parser = argparse.ArgumentParser(
        prog="scripts/soak", description=__doc__, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="how long faults happen; the judgement comes after (default %(default)s)"
    )
    parser.add_argument("--seed", type=int, help="draws the plan; printed, so that a run can be repeated (default: by the clock)")
    parser.add_argument("--only", metavar="FAULT,…", help=f"only these of: {', '.join(KINDS)}")
    parser.add_argument("--plan", action="store_true", help="only show the plan")
    parser.add_argument("--keep", metavar="FOLDER", type=Path, help="work in this new folder, and leave it there")
    parser.add_argument("--json", action="store_true", help="the report as one JSON document on standard output")
    given = parser.parse_args()
    seed = time.time_ns() % 100_000 if given.seed is None else given.seed
    only = set(KINDS) if given.only is None else {name.strip() for name in given.only.split(",")}
    if given.minutes <= 0 or (unknown := only - set(KINDS)):
        parser.error("--minutes: expected more than 0" if given.minutes <= 0 else f"--only: unknown are {', '.join(sorted(unknown))}")
    steps = plan(seed, given.minutes * 60, only)
    if given.plan:
        print("\n".join(f"{step.at_s:7.1f} s  {step.fault}, {step.lasts_s:g} s" for step in steps))
        return SOUND
    folder = Path(tempfile.mkdtemp(prefix="soak-")) if given.keep is None else given.keep
    if given.keep is not None and folder.exists():
        parser.error(f"--keep: {folder} is there already")
    folder.mkdir(exist_ok=True)
    report = Report(seed, steps, folder)
    try:
        with Site(folder / "site", seed) as site:
            work(site, steps, given.minutes * 60, report.say)
            report.found += asyncio.run(settle(site, report.say))
            found, report.figures = asyncio.run(judge(site, seed, report.say))
            report.found += found
    except ServiceError as error:
        print(f"the servers cannot be started: {error}", file=sys.stderr)
        return NO_SERVERS
    report.show(as_json=given.json)
    if not report.found and given.keep is None:
        shutil.rmtree(folder)
    return FOUND if report.found else SOUND


def work(site: Site, steps: list[Step], seconds: float, say: Callable[[str], None]) -> None:
    """Programs run and faults happen until the time is over; then everything is mended."""
    number = count()
    due: list[tuple[float, int, str, Callable[[], Any]]] = []
    for step in steps:
        heapq.heappush(due, (step.at_s, next(number), step.fault, lambda step=step: (site.begin(step), step.lasts_s)))  # type: ignore[misc]  # bound now
    site.start()
    began = time.monotonic()
    while (now := time.monotonic() - began) < seconds or due:
        if due and due[0][0] <= now:
            _, _, name, act = heapq.heappop(due)
            say(name)
            came = act()
            if isinstance(came, tuple) and came[0] is not None:
                heapq.heappush(due, (time.monotonic() - began + came[1], next(number), f"{name}: mended", came[0]))
            continue
        site.look()
        time.sleep(_LOOK_S)


class Report:
    """What a run says: progress on standard error, the result on standard output."""

    def __init__(self, seed: int, steps: list[Step], folder: Path) -> None:
        self.seed = seed
        self.folder = folder
        self.found: list[Finding] = []
        self.figures: dict[str, Any] = {}
        self._steps = steps
        self._began = time.monotonic()
        self.say(f"seed {seed}, {len(steps)} faults, in {folder}")

    def say(self, line: str) -> None:
        """Progress."""
        print(f"{time.monotonic() - self._began:7.1f} s  {line}", file=sys.stderr, flush=True)

    def show(self, *, as_json: bool) -> None:
        """The result."""
        faults = Counter(step.fault for step in self._steps)
        if as_json:
            result = {
                "seed": self.seed, "sound": not self.found, "faults": faults, "figures": self.figures, "folder": str(self.folder),
                "findings": [one._asdict() for one in self.found],
            }  # fmt: skip
            print(json.dumps(result, indent=2))
            return
        print(f"seed {self.seed}: {'something does not hold' if self.found else 'everything holds'}")
        print(", ".join(f"{name} {figure:,}" for name, figure in self.figures.items()))
        print(", ".join(f"{name} {number}" for name, number in sorted(faults.items())))
        for check, number in Counter(one.check for one in self.found).items():
            print(f"{check}: {number}")
            shown = [one.what for one in self.found if one.check == check][:_SHOWN]
            print("\n".join(f"  {line}" for line in shown))
        if self.found:
            print(f"left in {self.folder}")


if __name__ == "__main__":
    sys.exit(main())

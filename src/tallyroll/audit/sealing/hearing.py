"""Whether the log is heard at all: while it is away, or is not read, nobody's silence means anything."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping

from tallyroll.events.position import TopicPartition

Spans = Mapping[TopicPartition, tuple[int, int]]
"""Which offsets the log has of each partition that is sealed, from and to (exclusive)."""

AskLog = Callable[[], Awaitable[Spans | None]]
"""Gives them; None while the log cannot be asked."""


def unsealed(spans: Spans, stored: Mapping[TopicPartition, int]) -> int:
    """How many records the log has that are not in the ledger, which goes as far as ``stored``."""
    return sum(max(0, end - max(start, stored.get(partition, 0))) for partition, (start, end) in spans.items())


class Hearing:
    """Asks the log at each beat, and remembers the answers of the last ``beats``. A beat never waits for an answer."""

    def __init__(self, ask: AskLog, beats: int) -> None:
        self._ask = ask
        self._heard: deque[Spans] = deque(maxlen=beats)
        self._asked: asyncio.Task[Spans | None] | None = None

    def beat(self) -> None:
        """Takes the answer to the last question and asks again. Without an answer until now everything before is forgotten."""
        asked, self._asked = self._asked, asyncio.get_running_loop().create_task(self._answer(), name="audit hearing")
        if asked is None:
            return
        answer = asked.result() if asked.done() else None
        if answer is None:
            asked.cancel()
            self._heard.clear()
        else:
            self._heard.append(answer)

    def owed(self, stored: Mapping[TopicPartition, int]) -> bool:
        """Whether more may have been said than is known, ``stored`` being how far the ledger goes.

        So it is until the log has answered at so many beats in a row, and as long as something is not sealed that was in it
        at the first of them.
        """
        if len(self._heard) != self._heard.maxlen:
            return True
        return unsealed(self._heard[0], stored) > 0

    async def close(self) -> None:
        """Ends the question that is under way."""
        if self._asked is not None:
            self._asked.cancel()
            await asyncio.gather(self._asked, return_exceptions=True)

    async def _answer(self) -> Spans | None:
        return await self._ask()

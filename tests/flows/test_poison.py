"""Records that no event can be read from: put aside with their bytes and the reason, and the partition goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
from tests.flows.following import Accountant, Ledger, Office, office, running

from tallyroll.events.position import Position
from tallyroll.follow.deadletter import DeadLetters, letter_id
from tallyroll.ports import Encoded, Span
from tallyroll.testing.poison import POISON, Poison

_FITS = 800_000  # bytes; what is huge in the corpus is cut to what the embedded log takes


def poisoned(desk: Office, corpus: Sequence[Poison]) -> list[Encoded]:
    """Every bad value between two good events of the same partition."""
    good = desk.records(len(corpus) + 1, keys=1)
    records = [good[0]]
    for index, bad in enumerate(corpus, 1):
        value = (bad.value or b"")[:_FITS]
        headers = [("n", str(index).encode()), ("empty", b"")]
        records += [msgspec.structs.replace(good[0], event_id=f"bad-{index}", value=value, headers=headers), good[index]]
    return records


async def test_each_poison_ends_in_the_dead_letters_with_its_bytes_position_and_reason():
    async with office() as desk:
        ledger, corpus = Ledger(), POISON
        positions = await desk.append(poisoned(desk, corpus))
        async with running(desk, desk.loop(Accountant(ledger))):
            await desk.until(lambda: ledger.positions.get(positions[0].topic_partition) == len(positions))
        assert len(ledger.all()) == len(corpus) + 1, "good neighbours are applied"
        letters = {letter.position: letter for letter in await desk.dead()}
        for index, bad in enumerate(corpus, 1):
            letter = letters.pop(positions[index * 2 - 1])
            assert letter.value == (bad.value or b"")[:_FITS], bad.name
            assert letter.key == b"task:task-0"
            assert letter.info.reason == (bad.reason if bad.value is not None else "empty"), bad.name
            assert letter.batch().headers(0) == [("n", str(index).encode()), ("empty", b"")]
        assert letters == {}


async def test_a_crash_between_letter_and_position_writes_the_same_letter_again():
    async with office() as desk:
        ledger = Ledger()
        ledger.away = True  # letters are written, the position is not
        positions = await desk.append(poisoned(desk, POISON[3:5]))
        loop = desk.loop(Accountant(ledger))
        loop.start()
        while len(await desk.dead()) < 2:
            await desk.until(lambda: loop.assignment)
        loop._task.cancel()
        await asyncio.wait([loop._task])
        ledger.away = False
        async with running(desk, desk.loop(Accountant(ledger))):
            await desk.until(lambda: ledger.positions.get(positions[0].topic_partition) == len(positions))
        ids = await letter_ids(desk)
        wanted = {letter_id(position, "accountant") for position in (positions[1], positions[3])}
        assert set(ids) == wanted
        assert len(ids) == 4, "each was written twice, under one id"
        assert [letter.info.id for letter in await desk.dead()] == list(dict.fromkeys(ids))


async def letter_ids(desk: Office) -> list[str]:
    """The ids as they lie in the log, repeats included."""
    topic = desk.catalogue["dead-letters"].name
    ends = await desk.log.ends([topic])
    headers = [
        dict(batch.headers(index))["tallyroll-letter"]
        async for batch in desk.log.read([Span(*partition, 0, end) for partition, end in ends.items() if end])
        for index in range(len(batch))
    ]
    return [msgspec.json.decode(header)["id"] for header in headers]


async def test_a_record_too_large_for_a_letter_leaves_its_bytes_in_the_source():
    async with office() as desk:
        ledger = Ledger()
        large = msgspec.structs.replace(desk.records(1)[0], value=b"x" * 5_000)
        (position,) = await desk.append([large])
        small = DeadLetters(desk.log, desk.catalogue, clock=desk.clock, telemetry=desk.telemetry, max_record_bytes=4_000)
        async with running(desk, desk._replace(letters=small).loop(Accountant(ledger))):
            await desk.until(lambda: ledger.positions.get(position.topic_partition) == 1)
        (letter,) = await desk.dead()
        assert (letter.position, letter.value, letter.info.reason) == (position, b"", "not_json,bytes_left_in_source")


async def test_letters_can_be_read_by_follower():
    async with office() as desk:
        first, second = Ledger(), Ledger()
        (position,) = await desk.append([msgspec.structs.replace(desk.records(1)[0], value=b"poison")])
        async with running(desk, desk.loop(Accountant(first, name="first"), Accountant(second, name="second"))):
            await desk.until(lambda: all(ledger.positions.get(position.topic_partition) == 1 for ledger in (first, second)))
        assert [letter.info.follower for letter in await desk.dead("first")] == ["first"]
        assert {letter.info.id for letter in await desk.dead()} == {letter_id(position, "first"), letter_id(position, "second")}


async def test_a_record_that_only_another_program_wrote_to_the_topic_is_no_letter():
    async with office() as desk:
        topic = desk.catalogue["dead-letters"]
        stray = msgspec.structs.replace(desk.records(1)[0], topic=topic.name, partition=0)
        broken = msgspec.structs.replace(stray, headers=[("tallyroll-letter", b"{")])
        await desk.append([stray, broken])
        assert await desk.dead() == []


def test_the_id_of_a_letter_depends_on_position_and_follower_alone():
    here, there = Position("t", 0, 1), Position("t", 0, 2)
    ids = {letter_id(here, "f"), letter_id(there, "f"), letter_id(here, "g")}
    assert len(ids) == 3
    assert letter_id(Position("t", 0, 1), "f") in ids

"""All fields of a view joined at once are what each is by itself, also of kinds that say something of their own."""

from __future__ import annotations

from random import Random
from typing import Any, ClassVar

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.replay_histories import CATALOGUE, batch_of, random_log

from tallyroll.replay.fields import Last, Place
from tallyroll.replay.fold import Part
from tallyroll.replay.joining import joining_of
from tallyroll.replay.partition import PartitionFold
from tallyroll.replay.views import FOLD, VIEWS


@settings(max_examples=30)
@given(rng=st.randoms(use_true_random=False), count=st.integers(1, 80))
def test_fields_joined_at_once_are_what_each_is_alone(rng: Random, count: int) -> None:
    owners: dict[tuple[int, str], list[tuple[Place, Part]]] = {}
    for where, values in random_log(rng, count).items():
        fold = PartitionFold(FOLD, where.topic, CATALOGUE[where.topic].base, where.partition)
        if values:
            fold.apply(batch_of(where, values))
        for number in range(len(VIEWS)):
            for owner, part in fold.parts(number).items():
                kept = FOLD.blank(number, owner)
                FOLD.load(kept, part.dump())
                owners.setdefault((number, owner), []).append((Place(*where), kept if rng.random() < 0.5 else part))
    for (number, _), parts in owners.items():
        view, places, slots = VIEWS[number], [place for place, _ in parts], [part.slots for _, part in parts]
        fields = view.fields.items()
        columns = zip(*slots, strict=True)
        assert view.joining.alone(slots[0], places[0]) == {
            name: field.alone(slot, places[0]) for (name, field), slot in zip(fields, slots[0], strict=True)
        }
        assert view.joining.together(slots, places) == {
            name: field.settle(column, places) for (name, field), column in zip(fields, columns, strict=True)
        }


def test_a_kind_that_says_it_in_another_way_is_asked() -> None:
    class Loud(Last):
        kind: ClassVar[str] = "loud"

        def alone(self, slot: Any, place: Place) -> Any:
            return f"{super().alone(slot, place)}!"

        def settle(self, slots: Any, places: Any) -> Any:
            return f"{super().settle(slots, places)}!"

    joining, here, there = joining_of({"a": Loud({}), "b": Last({})}), Place("t", 0), Place("t", 1)
    assert joining.alone([None, None], here) == {"a": "None!", "b": None}
    assert joining.together([[None, None], [(1, 0, "x"), (1, 0, "x")]], [here, there]) == {"a": "x!", "b": "x"}
    assert joining_of({}).together([[], []], [here, there]) == {}

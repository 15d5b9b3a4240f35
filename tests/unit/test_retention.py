"""Bodies and personal parts go on their days and not before; holds stop both; whole beginnings go, and what is left verifies."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.stored_ledger import House, Killed

from tallyroll.audit.removal.retention import RetentionRun
from tallyroll.errors import KeyGone


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def run(house: House, **options: object) -> RetentionRun:
    return asyncio.run(house.retention.run(operator="op-1", **options))


def test_a_body_goes_the_day_after_its_last(house: House) -> None:
    short, long = house.write(keep_days=10), house.write(keep_days=20)
    house.wait_days(10)
    assert run(house).bodies == 0
    house.wait_days(1)
    assert run(house).bodies == 1
    assert house.records()[short].env is None
    assert house.records()[long].env is not None
    assert house.findings() == {}
    assert run(house).bodies == 0


def test_personal_parts_go_before_their_entry_with_the_keys_that_were_theirs_alone(house: House) -> None:
    known, unknown = house.write("cust-77", retention_class=2), house.write(retention_class=2)
    other = house.write("cust-77", retention_class=1)
    house.wait_days(30)
    assert run(house).personal_parts == 0
    house.wait_days(1)
    from tallyroll.audit.ledger.layout import unpack_core

    handle = unpack_core(house.records()[unknown].core).parts[0].handle
    assert run(house).personal_parts == 2
    assert house.records()[known].parts == (None,)
    assert house.records()[known].env is not None
    assert house.records()[other].parts != (None,)
    with pytest.raises(KeyGone):
        house.ring.key(handle)
    assert house.ring.handle_of("cust-77") is not None
    assert house.findings() == {}


def test_a_hold_stops_both_and_its_release_lets_go(house: House) -> None:
    index, personal = house.write("cust-77", keep_days=5), house.write("cust-77", retention_class=2, keep_days=90)
    holds = asyncio.run(house.retention.set_hold(who="counsel", why="case 7", subject="cust-77"))
    house.wait_days(40)
    found = run(house, prune=True)
    assert (found.bodies, found.personal_parts, found.held, found.pruned) == (0, 0, 2, {})
    assert house.records()[index].env is not None
    assert house.findings() == {}
    asyncio.run(house.retention.release_hold(holds[0], who="counsel", why="closed"))
    found = run(house)
    assert (found.bodies, found.personal_parts) == (1, 1)
    assert house.records()[personal].parts == (None,)
    assert house.findings() == {}


def test_a_beginning_goes_whole_and_the_rest_verifies_again_and_again(house: House) -> None:
    for round_ in range(3):
        for _ in range(7):
            house.write("cust-77", keep_days=5)
        house.ledger.checkpoint()
        house.wait_days(7)
        keeps = house.write(keep_days=50) if round_ == 1 else None
        found = run(house, prune=True)
        assert found.bodies == 7
        assert house.findings() == {}
        if keeps is not None:
            assert house.ledger.partitions[0].start <= keeps
    house.wait_days(400)
    assert run(house, prune=True).pruned[0] > 15
    assert house.findings() == {}


def test_what_is_not_past_its_day_stops_the_pruning(house: House) -> None:
    house.write(keep_days=50)
    house.write(keep_days=1)
    house.wait_days(3)
    assert run(house, prune=True).pruned == {}


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("write"), st.sampled_from(["anna", "bert", ""]), st.integers(1, 40)),
            st.tuples(st.just("wait"), st.integers(1, 25)),
            st.tuples(st.just("run"), st.booleans(), st.integers(0, 6)),
            st.tuples(st.just("erase"), st.sampled_from(["anna", "bert"]), st.integers(0, 6)),
            st.tuples(st.just("hold"), st.sampled_from(["anna", "bert"])),
            st.tuples(st.just("release")),
        ),
        max_size=14,
    )
)
def test_whatever_happens_the_ledger_verifies(tmp_path_factory: pytest.TempPathFactory, story: list[tuple]) -> None:
    house = House(tmp_path_factory.mktemp("house"))
    holds: list[str] = []
    for act, *args in story:
        if act == "write":
            who, days = args
            house.write(*([who] if who else []), keep_days=days, retention_class=2 if days % 2 else 1)
        elif act == "wait":
            house.wait_days(args[0])
        elif act == "hold" and house.ring.handle_of(args[0]):
            holds += asyncio.run(house.retention.set_hold(who="counsel", why="case", subject=args[0]))[:1]
        elif act == "release" and holds:
            asyncio.run(house.retention.release_hold(holds.pop(), who="counsel", why="closed"))
        elif act in ("run", "erase"):
            what, cut = args
            house.store.cut = cut  # as often as not the process ends in the middle
            with contextlib.suppress(Killed):
                asyncio.run(house.retention.run(operator="op", prune=what) if act == "run" else house.eraser.erase(what))
            house.store.cut = None
        findings = house.findings()
        assert findings == {}, act
    asyncio.run(house.eraser.resume())
    assert house.findings() == {}

from __future__ import annotations

import os
import random
import re

import pytest

from tallyroll.events.ids import id_at, new_id, utc_now

UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def test_ids_are_uuids_of_version_7_and_differ():
    ids = {new_id() for _ in range(10_000)}
    assert len(ids) == 10_000
    assert all(UUID7.fullmatch(one) for one in ids)


def test_a_host_program_that_seeds_the_random_module_gets_no_id_twice():
    tails = set()
    for _ in range(100):
        random.seed(42)
        tails.add(new_id()[14:])
    assert len(tails) == 100


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # forking beside threads of other tests
def test_a_forked_child_makes_other_ids():
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        os.write(writer, new_id()[14:].encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(reader, 100).decode()
    os.close(reader)
    os.close(writer)
    assert len(theirs) == 22
    assert new_id()[14:] != theirs


def test_the_id_of_a_moment_and_a_hash_is_always_the_same():
    assert id_at(1_769_860_800_000_000, b"0123456789") == id_at(1_769_860_800_000_000, b"0123456789")
    assert id_at(1_769_860_800_000_000, b"0123456789") != id_at(1_769_860_800_000_000, b"0123456780")
    assert UUID7.fullmatch(id_at(0, bytes(10)))


def test_the_first_48_bits_are_the_milliseconds():
    assert int(id_at(1_769_860_800_123_000, bytes(10)).replace("-", "")[:12], 16) == 1_769_860_800_123


def test_now_is_aware_and_in_utc():
    assert utc_now().utcoffset().total_seconds() == 0

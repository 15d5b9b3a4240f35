"""What is said when SQLite cannot use a file: the same of the log, of stores and of indexes."""

from __future__ import annotations

import sqlite3

import pytest

from tallyroll.adapters.sqlite.archive_schema import unavailable as index_unavailable
from tallyroll.adapters.sqlite.schema import advised, is_damage
from tallyroll.adapters.sqlite.schema import unavailable as log_unavailable


def failed(name: str | None) -> sqlite3.Error:
    error = sqlite3.OperationalError("near 'cust-123'")
    if name is not None:
        error.sqlite_errorname = name
    return error


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("SQLITE_FULL", "the disk is full"),
        ("SQLITE_READONLY_DIRECTORY", "mend the permissions"),
        ("SQLITE_IOERR_SHMSIZE", "the disk is full"),
        ("SQLITE_IOERR_WRITE", "check the machine's disk"),
        ("SQLITE_CORRUPT_INDEX", "it is broken"),
        ("SQLITE_NOTADB", "it is broken"),
        ("SQLITE_RANGE", "it cannot be used now"),
        (None, "OperationalError"),
    ],
)
def test_an_error_says_what_to_do_names_its_code_and_quotes_no_value(name: str | None, said: str) -> None:
    text = advised(failed(name), "it is broken")
    assert said in text
    assert (name or "") in text
    assert "cust-123" not in text


@pytest.mark.parametrize("said", ["Could not decode to UTF-8 column 'x' with text 'cust-123'", "user-defined function raised exception"])
def test_a_value_that_cannot_be_read_is_damage(said: str) -> None:
    error = sqlite3.OperationalError(said)
    assert is_damage(error)
    assert advised(error, "it is broken") == "it is broken (OperationalError)"
    assert not is_damage(failed(None))
    assert not is_damage(failed("SQLITE_FULL"))


@pytest.mark.parametrize("unavailable", [log_unavailable, index_unavailable])
def test_log_and_index_say_it_alike(unavailable: object) -> None:
    assert callable(unavailable)
    assert "free some space" in str(unavailable("x.db", failed("SQLITE_FULL")))
    assert "damaged" in str(unavailable("x.db", failed("SQLITE_NOTADB")))

"""What ``tallyroll run`` can run: a row per follower, and words for several of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from tallyroll.adapters.extras import available
from tallyroll.cli.exits import CommandError, ExitCode
from tallyroll.cli.printing import plain
from tallyroll.roll import ANALYTICS_FOLLOWER, ARCHIVE_FOLLOWER, AUDIT_FOLLOWER, NATS_FOLLOWER, REDIS_FOLLOWER, STATE_FOLLOWER
from tallyroll.settings import Settings

ALL: Final = "all"
BRIDGES: Final = "bridges"


def has_audit_root(settings: Settings) -> bool:
    """Whether the ledger's keys can come from somewhere: on Kafka they are set, the embedded log makes its own."""
    return not settings.is_kafka or settings.audit_secret_key is not None or settings.audit_keyring.startswith("pkcs11:")


class Service(NamedTuple):
    """One follower as a service: the extra it needs, whether the settings ask for it, and how they would.

    ``load``: what an event costs it, beside the others.
    """

    name: str
    extra: str | None = None
    wanted: Callable[[Settings], bool] = lambda _: True
    how: str = ""
    bridge: bool = False
    load: int = 2

    def lacks(self, settings: Settings) -> str:
        """What keeps it from running; "" for nothing."""
        if not self.wanted(settings):
            return self.how
        return f"pip install 'tallyroll[{self.extra}]'" if self.extra is not None and not available(self.extra) else ""


SERVICES: Final[Mapping[str, Service]] = {
    row.name: row
    for row in (
        Service(STATE_FOLLOWER),
        Service(ARCHIVE_FOLLOWER, "archive", lambda settings: not settings.in_memory, "a log that is not in memory", load=3),
        Service(ANALYTICS_FOLLOWER, "analytics"),
        Service(REDIS_FOLLOWER, "redis", lambda settings: bool(settings.redis_host), "REDIS_HOST", bridge=True),
        Service(NATS_FOLLOWER, "nats", lambda settings: bool(settings.nats_servers), "NATS_SERVERS", bridge=True, load=1),
        Service(AUDIT_FOLLOWER, "audit", has_audit_root, "AUDIT_SECRET_KEY", load=5),
    )
}
"""By the names that ``Roll.follow`` takes."""

GROUPS: Final[Mapping[str, Sequence[str]]] = {ALL: tuple(SERVICES), BRIDGES: tuple(row.name for row in SERVICES.values() if row.bridge)}
"""Words for several: those of them that are configured and installed."""

WORDS: Final = (*SERVICES, *GROUPS)


class Chosen(NamedTuple):
    """Which followers to run; and of those that a word for several left out, what each lacks."""

    names: Sequence[str]
    left_out: Mapping[str, str]


def chosen(words: Sequence[str], settings: Settings) -> Chosen:
    """The followers that these words mean. One that is named by itself is never left out: what it lacks is an error later.

    Raises CommandError for another word, and where nothing is left.
    """
    if unknown := set(words) - set(WORDS):
        raise CommandError(ExitCode.USAGE, f"there is no follower {plain(min(unknown))}", f"name one or more of {', '.join(WORDS)}")
    names: dict[str, None] = {}
    left_out: dict[str, str] = {}
    for word in words:
        for name in GROUPS.get(word, (word,)):
            if word in GROUPS and (lack := SERVICES[name].lacks(settings)):
                left_out[name] = lack
            else:
                names[name] = None
    left_out = {name: lack for name, lack in left_out.items() if name not in names}
    if not names:
        needed = "; ".join(f"{name} needs {lack}" for name, lack in left_out.items())
        raise CommandError(ExitCode.USAGE, f"nothing to run: {needed}", "set what is named, or name another follower")
    return Chosen(tuple(names), left_out)

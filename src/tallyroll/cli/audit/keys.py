"""``tallyroll audit keys``: the public key for auditors, sealing the ring under a new key, and lending it to other hosts."""

from __future__ import annotations

import asyncio
import signal
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tallyroll.adapters.http.key_ring import PATH
from tallyroll.adapters.http.server import Answer, served
from tallyroll.adapters.system.core_dumps import forbid_core_dumps
from tallyroll.audit.trail import KeyFacts
from tallyroll.cli.printing import note, say, say_json, spread
from tallyroll.cli.session import Json, Session, Url, address_of, confirm, examples, group_of, run, session_of, verbs
from tallyroll.opening import open_ring_keeper

if TYPE_CHECKING:
    from tallyroll.adapters.crypto import RingKeeper

app = verbs()
group_of(app, "The ledger's keys: what may be known of them, and a new one for the ring.", "tallyroll audit keys status")

_STATUS: Final = examples("tallyroll audit keys status", "tallyroll audit keys status --json")
_SERVE: Final = examples("tallyroll audit keys serve", "tallyroll audit keys serve --listen 10.0.0.5:8092")
_ROTATE: Final = examples("tallyroll audit keys rotate --yes")


@app.command(epilog=_STATUS)
def status(context: typer.Context, *, url: Url = None, json: Json = False) -> None:
    """The ledger's name and its public key, which auditors check with. Nothing secret is shown.

    Give the key to auditors by another way than the evidence itself.
    """
    session = session_of(context, url, json)
    settings = session.settings()
    facts = run(_facts(session))
    where = settings.audit_keyring or f"file:{settings.data_dir / 'audit' / 'keys'}"
    root = "AUDIT_SECRET_KEY" if settings.audit_secret_key is not None else "a file in the data folder"
    if settings.audit_keyring.startswith("pkcs11:"):
        where, root = "a token, over PKCS#11", "the token"
    shown = {
        "ledger": facts.ledger, "public_key": facts.public_key, "key_ring": where.partition("?")[0], "root_key": root,
        "encryption": settings.audit_enable_encryption, "rule_set": facts.rule_set,
    }  # fmt: skip
    if session.json:
        say_json(shown)
    else:
        spread(shown.items())


@app.command(epilog=_SERVE)
def serve(
    context: typer.Context,
    *,
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", help="Where it is asked; port 0: any free one.")
    ] = "127.0.0.1:8092",
    url: Url = None,
    json: Json = False,
) -> None:
    """Let other hosts use this one's key ring, until stopped. There they set AUDIT_KEYRING=https://… and the same secret.

    Who has the secret and reaches this may read, make and destroy keys: let only your own hosts reach it. What goes over the
    wire is sealed under the secret. No TLS: put a proxy in front of it.
    """
    session = session_of(context, url, json)
    host, port = address_of(listen, "127.0.0.1:8092")
    forbid_core_dumps()
    keeper, close = open_ring_keeper(session.settings())
    try:
        run(_serve(keeper, host, port, json=session.json))
    finally:
        close()


async def _serve(keeper: RingKeeper, host: str, port: int, *, json: bool) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)

    def answer(question: bytes) -> Answer:
        try:
            return Answer(HTTPStatus.OK, "application/octet-stream", keeper.answer(question))
        except ValueError:
            return Answer(HTTPStatus.FORBIDDEN, "text/plain; charset=utf-8", b"not a question under this secret\n")

    with served(host, port, {}, setting="--listen", posts={PATH: answer}) as at:
        note(f"serving {at}{PATH}")
        if json:
            say_json({"url": at})
        else:
            say(at)
        await stop.wait()


async def _facts(session: Session) -> KeyFacts:
    async with session.roll() as roll:
        return await roll.audit.keys()


@app.command(epilog=_ROTATE)
def rotate(
    context: typer.Context,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    url: Url = None,
    json: Json = False,
) -> None:
    """Seal the key ring under a new key and destroy the old one. Recorded in the trail.

    Entries stay readable. Copies of the ring from before cannot be read any more: make a new backup.
    """
    session = session_of(context, url, json)
    confirm("Destroy the key that backups of the ring are sealed under?", yes=yes)
    made = run(_rotate(session))
    if session.json:
        say_json({"number": made})
    else:
        say(f"the ring is sealed under key {made}")
        note("make a new backup of it; older ones cannot be read any more")


async def _rotate(session: Session) -> int:
    async with session.roll() as roll:
        return await roll.audit.rotate_keys()

"""``tallyroll audit keys``: the public key for auditors, and sealing the ring under a new key."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from tallyroll.audit.trail import KeyFacts
from tallyroll.cli.printing import note, say, say_json, spread
from tallyroll.cli.session import Json, Session, Url, confirm, examples, group_of, run, session_of, verbs

app = verbs()
group_of(app, "The ledger's keys: what may be known of them, and a new one for the ring.", "tallyroll audit keys status")

_STATUS: Final = examples("tallyroll audit keys status", "tallyroll audit keys status --json")
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

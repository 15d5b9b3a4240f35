"""``tallyroll audit witness``: remembers the checkpoints of ledgers, and cosigns what continues them."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Annotated, Final

import typer

from tallyroll.adapters.extras import require
from tallyroll.adapters.http.server import Answer, served
from tallyroll.adapters.system.core_dumps import forbid_core_dumps
from tallyroll.audit.sealing.witnessing import PATH, KeptWitness, answer_to
from tallyroll.cli.printing import note, say, say_json
from tallyroll.cli.session import Json, Url, address_of, examples, run, session_of
from tallyroll.opening import file_witness

_TEXT: Final = "text/plain; charset=utf-8"
_CONFLICT: Final = 409
_WITNESS: Final = examples(
    "tallyroll audit witness ./witness --key tallyroll/0f…+1a2b3c4d+AQ…",
    "tallyroll audit witness ./witness --key … --listen 127.0.0.1:8091",
)


def add_to(app: typer.Typer) -> None:
    """Adds the command of this module to a collection."""
    app.command(epilog=_WITNESS)(witness)


def witness(  # noqa: PLR0913  # one parameter per option
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where its own key and what it remembers are; made if not there.")],
    *,
    key: Annotated[list[str], typer.Option("--key", metavar="NAME+ID+BASE64", help="Public key of a ledger; may be repeated.")],
    name: Annotated[str, typer.Option("--name", help="What its own key is called in cosignatures.")] = "tallyroll/witness",
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", help="Where it is asked; port 0: any free one.")
    ] = "127.0.0.1:8091",
    url: Url = None,
    json: Json = False,
) -> None:
    """Serve a witness over HTTP (c2sp.org/tlog-witness), until stopped. Run it where the ledger's keeper has no say.

    It cosigns a checkpoint only if that continues the newest one it remembers. Auditors need its public key, which it prints.
    No TLS: put a proxy in front of it where it is asked from another machine.
    """
    session = session_of(context, url, json)
    require("audit")
    host, port = address_of(listen, "127.0.0.1:8091")
    forbid_core_dumps()
    kept = file_witness(folder, key, name=name)
    run(_serve(kept, host, port, json=session.json))


async def _serve(kept: KeptWitness, host: str, port: int, *, json: bool) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)

    def add_checkpoint(posted: bytes) -> Answer:
        status, text = answer_to(kept, posted)
        return Answer(status, "text/x.tlog.size" if status == _CONFLICT else _TEXT, text)

    with served(host, port, {}, setting="--listen", posts={PATH: add_checkpoint}) as url:
        note(f"serving {url}{PATH}")
        if json:
            say_json({"url": url, "public_key": str(kept.key)})
        else:
            say(str(kept.key))
        await stop.wait()

"""``tallyroll completion``: what makes a shell complete commands and options."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from tallyroll.cli.printing import say, say_json
from tallyroll.cli.session import COMPLETE_VARIABLE, Json, examples, verbs

app = verbs()


class Shell(StrEnum):
    """The shells that can be served."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


@app.command(
    epilog=examples(
        """eval "$(tallyroll completion bash)"                             # in ~/.bashrc""",
        """eval "$(tallyroll completion zsh)"                              # in ~/.zshrc, after compinit""",
        "tallyroll completion fish > ~/.config/fish/completions/tallyroll.fish",
    )
)
def completion(shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="bash, zsh or fish.")], *, json: Json = False) -> None:
    """Print the lines that make a shell complete commands and options with the tab key."""
    from typer._completion_shared import get_completion_script  # noqa: PLC0415  # nobody else needs it

    script = get_completion_script(prog_name="tallyroll", complete_var=COMPLETE_VARIABLE, shell=shell.value)
    if json:
        say_json({"shell": shell, "script": script})
    else:
        say(script)

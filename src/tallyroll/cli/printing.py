"""What leaves a command: data on standard output, words about it on standard error, colours only where a person looks."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from rich.console import Console

_ANSI: Final = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "blue": "34", "magenta": "35", "cyan": "36"}
_WIDEST: Final = 120  # lines beyond this are hard to follow on any screen
_NAME: Final = 24  # columns: what a name may take of a narrow screen
_encode: Final = msgspec.json.Encoder().encode


def has_colours(stream: IO[str]) -> bool:
    """Whether a person looks at the stream and has not asked for plain text (NO_COLOR, see no-color.org)."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (stream.isatty() and os.environ.get("TERM") != "dumb")


def paint(text: str, style: str, *, to: IO[str] | None = None) -> str:
    """The text in a style such as ``bold`` or ``dim red``, if its stream (standard output) shows colours."""
    if not style or not has_colours(to or sys.stdout):
        return text
    codes = ";".join(_ANSI[word] for word in style.split())
    return f"\x1b[{codes}m{text}\x1b[0m"


def plain(text: object) -> str:
    """The text without anything that could steer a terminal: what is in the log was written by others."""
    text = str(text)
    return text if text.isprintable() else "".join(char if char.isprintable() else "·" for char in text)


def width() -> int | None:
    """How many columns a line may have; None where nobody looks."""
    return min(shutil.get_terminal_size().columns, _WIDEST) if sys.stdout.isatty() else None


def clip(text: str, columns: int | None) -> str:
    """The text, ended by … where it is wider."""
    return text if columns is None or len(text) <= columns else text[: max(columns - 1, 0)] + "…"


def say(line: str = "") -> None:
    """One line of output."""
    sys.stdout.write(f"{line}\n")


def note(line: str) -> None:
    """One line about the output, for people only."""
    sys.stderr.write(f"{paint(line, 'dim', to=sys.stderr)}\n")


def say_json(document: object) -> None:
    """One JSON document on one line."""
    sys.stdout.write(_encode(document).decode() + "\n")


def leave_pipe() -> None:
    """Python flushes standard output once more at exit; that must not find the broken pipe again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def console(*, stderr: bool = False) -> Console:
    """A rich console on the present stream."""
    from rich.console import Console  # noqa: PLC0415  # 50 ms that most commands need not spend

    stream = sys.stderr if stderr else sys.stdout
    columns = None if stream.isatty() else _WIDEST
    return Console(
        file=stream, highlight=False, soft_wrap=False, width=columns,
        color_system="auto" if has_colours(stream) else None,  # None: no bold and no dim either
    )  # fmt: skip


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: Sequence[str] = (),
    whole: Sequence[str] = (),
    styles: Mapping[str, str] | None = None,
) -> None:
    """Prints rows under headings, as wide as needed; columns named in ``right`` hold numbers. Cells may hold rich markup.

    Columns named in ``whole`` are never shortened: what other commands are given, such as ids. The first column says what the
    row is about: where the screen is too narrow, it is the others that lose.
    """
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415  # as above
    from rich.table import Table  # noqa: PLC0415  # as above

    rows = [*rows]
    names = name_width(row[0] for row in rows)
    made = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="dim", show_edge=False)
    for at, name in enumerate(columns):
        made.add_column(
            name,
            min_width=names if at == 0 else None,
            justify="right" if name in right else "left",
            style=(styles or {}).get(name),
            overflow="fold" if name in whole else "ellipsis",
            no_wrap=name in right or name in whole or (at == 0 and names is not None),
        )
    for row in rows:
        made.add_row(*row)
    out = console()
    if out.measure(made, options=out.options.update(max_width=1_000)).maximum > out.width:
        made.padding = (0, 1, 0, 0)  # columns closer together rather than shorter
    out.print(made)


def name_width(cells: Iterable[str]) -> int | None:
    """How wide a column of names has to be on any screen; None if they are too long to insist."""
    from rich.text import Text  # noqa: PLC0415  # as above

    longest = max((Text.from_markup(cell).cell_len for cell in cells), default=0)
    return longest if longest <= _NAME else None


def markup(text: object, style: str = "") -> str:
    """Text from the log for a cell: nothing in it is taken for markup; in a style if one is given."""
    from rich.markup import escape  # noqa: PLC0415  # as above

    safe = escape(plain(text))
    return f"[{style}]{safe}[/]" if style else safe


def number(value: int) -> str:
    """A count with separators."""
    return f"{value:,}"


def counted(value: int, what: str) -> str:
    """A count and its noun, in the plural where it is not one."""
    if value == 1:
        return f"{number(value)} {what}"
    return f"{number(value)} {what.removesuffix('y')}ies" if what.endswith("ry") else f"{number(value)} {what}s"


def money(micro: int) -> str:
    """Millionths of the currency unit as an amount; four places, as single calls cost fractions of a cent."""
    return f"{micro / 1_000_000:,.4f}"


def spread(pairs: Iterable[tuple[str, Any]]) -> None:
    """Prints names and values below each other, names aligned."""
    listed = [(name, plain(value)) for name, value in pairs]
    wide = max((len(name) for name, _ in listed), default=0)
    for name, value in listed:
        say(f"{paint(name.ljust(wide), 'dim')}  {value}")

"""What is kept of a text, of the arguments of a tool call and of its result: always the size, the words only on request.

A plain hash of a personal text is no protection, since short texts can be guessed; so the digest form holds none.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from tallyroll.capture.recording import parse

MAX_NAMES: Final = 50  # argument names kept per call; real tools have fewer than 20
MAX_NAME_CHARS: Final = 100
_WORD: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,39}")


def word(value: object, fallback: str = "other") -> str:
    """The value if it is a short technical word (a role, a kind of part, a reason to stop), else the fallback."""
    return value if isinstance(value, str) and _WORD.fullmatch(value) else fallback


def text_of(content: object) -> str:
    """The text in a content: the string itself, or the text parts of a list joined by line ends."""
    if isinstance(content, str):
        return content
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        return ""
    return "\n".join(text for part in content if (text := _part_text(part)))


def _part_text(part: object) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, dict):
        for name in ("text", "refusal", "thinking"):
            if isinstance(part.get(name), str):
                return str(part[name])
    return ""


def message_content(content: object, *, full: bool) -> dict[str, Any]:
    """``chars`` of text (code points) and, for a list, how many parts of each kind; with ``full`` the text."""
    text = text_of(content)
    kept: dict[str, Any] = {"chars": len(text)}
    if isinstance(content, list):
        kinds: dict[str, int] = {}
        for part in content:
            kind = word(part.get("type")) if isinstance(part, dict) else "text"
            kinds[kind] = kinds.get(kind, 0) + 1
        kept["parts"] = kinds
    if full:
        kept["text"] = text
    return kept


def argument_content(arguments: object, *, full: bool) -> dict[str, Any]:
    """Size and names of a call's arguments, given as JSON text or as an object; with ``full`` the arguments too.

    ``arguments_bytes`` counts UTF-8 bytes. ``arguments_valid`` is false for text that is no JSON object: models do
    write such calls. Then ``full`` keeps it as ``arguments_text``.
    """
    if isinstance(arguments, str):
        size = len(arguments.encode(errors="replace"))
        try:
            value = parse(arguments.encode(errors="replace")) if arguments.strip() else {}
        except ValueError:
            value = None
    else:
        value = {} if arguments is None else arguments
        size = len(_json(value).encode(errors="replace"))
    kept: dict[str, Any] = {
        "arguments_bytes": size,
        "argument_names": sorted(str(name)[:MAX_NAME_CHARS] for name in value)[:MAX_NAMES] if isinstance(value, dict) else [],
        "arguments_valid": isinstance(value, dict),
    }
    if full and isinstance(value, dict):
        kept["arguments"] = value
    elif full:
        kept["arguments_text"] = arguments if isinstance(arguments, str) else _json(arguments)
    return kept


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))  # integers of any size, unlike the codec


def result_content(content: object, *, full: bool) -> dict[str, Any]:
    """``result_chars`` of a tool's answer; with ``full`` its text as ``result``."""
    text = text_of(content)
    return {"result_chars": len(text), "result": text} if full else {"result_chars": len(text)}


def count(value: object) -> int:
    """A count of tokens as recorded: a non-negative integer, also when written as text; 0 for anything else."""
    if isinstance(value, str) and value.isdecimal() and len(value) < 19:  # noqa: PLR2004  # 19 digits may pass 64 bits
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62 else 0

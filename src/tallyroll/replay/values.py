"""What the built-in views take out of payloads, and how numbers become integers.

Member names and units: ``events.payloads``. Floats are turned into whole units once, per event, and never enter a sum: the
sum of floats depends on its order.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any, Final

import msgspec

from tallyroll.events.event import agent_of
from tallyroll.replay.fields import INT_MAX, Of, Value

Facts = Any
"""The payload members that some view reads, as a struct made for the event type. Missing ones are None, or a raw null."""

MICRO: Final = 1_000_000
# What every JSON reader holds exactly; also 285 years in µs, and 9 thousand millions in millionths. Larger is a mistake, and
# it takes a thousand of them to leave the 64 bits of a sum.
AMOUNT_MAX: Final = 2**53 - 1
MAX_NAME_CHARS: Final = 255  # of a setting or a metric, as of any other name
MAX_ERROR_CHARS: Final = 500  # enough to recognise an error; the event itself has the whole text
MAX_SETTING_CHARS: Final = 2_000  # of JSON text; a part keeps up to a thousand settings, so this bounds it to 2 MB
NULL: Final = msgspec.Raw(b"null")
_NUMBER: Final = int | float | str | None
_DECIMAL: Final = re.compile(r"[+-]?\d{1,40}(\.\d{1,40})?([eE][+-]?\d{1,3})?", re.ASCII)
_encode_sorted: Final = msgspec.json.Encoder(order="sorted").encode
_decode: Final = msgspec.json.Decoder().decode


def micro(number: float | str, scale: int = MICRO, *, most: int = AMOUNT_MAX) -> int:
    """``number`` × ``scale`` as the nearest integer, ties to even; decimal text is taken exactly, not through a float.

    Raises ValueError for text that is no decimal number, for NaN and infinities, and for what is beyond ``most``, 53 bits.
    """
    if isinstance(number, str):
        if not _DECIMAL.fullmatch(number):
            raise ValueError("not a decimal number")
        units = round(Fraction(number) * scale)
    else:
        try:
            units = round(number * scale)
        except OverflowError:
            raise ValueError("not a finite number") from None
    if -most <= units <= most:
        return units
    raise ValueError(f"beyond {most.bit_length()} bits")


def named(name: str, text: str) -> str:
    """A name and what belongs to it as one text, which ``split_named`` takes apart whatever the two hold."""
    return f"{len(name)}:{name}{text}"


def split_named(both: str) -> tuple[str, str]:
    """The name and the text that ``named`` put together."""
    length, _, rest = both.partition(":")
    return rest[: int(length)], rest[int(length) :]


def _whole(number: float) -> int:
    amount = int(number)
    if amount != number:
        raise ValueError("not a whole number")
    if -AMOUNT_MAX <= amount <= AMOUNT_MAX:
        return amount
    raise ValueError("beyond 53 bits")


def _quick_whole(member: str) -> tuple[tuple[str, str], ...]:
    """``_whole`` of integers."""
    return ((f"facts.{member}.__class__ is int and {-AMOUNT_MAX} <= facts.{member} <= {AMOUNT_MAX}", f"facts.{member}"),)


def _quick_micro(member: str, scale: int = MICRO) -> tuple[tuple[str, str], ...]:
    """``micro`` of numbers that are not near its bound."""
    near = f"{-AMOUNT_MAX // scale // 2} < facts.{member} < {AMOUNT_MAX // scale // 2}"
    return (
        (f"facts.{member}.__class__ is float and {near}", f"round(facts.{member} * {scale})"),
        (f"facts.{member}.__class__ is int and {near}", f"facts.{member} * {scale}"),
    )


def text(member: str) -> Value:
    """A payload member that is text; empty text counts as missing."""
    quick = (("True", f"facts.{member} or None"),)
    return Value(member, ((member, str | None),), lambda facts, _head, _time_us: getattr(facts, member) or None, column=member, quick=quick)


def opaque(member: str) -> Value:
    """A member of any shape as JSON text with sorted keys, so that equal values are equal text; only compared and shown."""

    def get(facts: Facts, _head: Of, _time_us: int) -> str | None:
        value = _decode(getattr(facts, member))
        return None if value is None else _encode_sorted(value).decode()

    return Value(f"json({member})", ((member, msgspec.Raw),), get, column=f"{member}_json")


def micros(member: str) -> Value:
    """A number in millionths."""

    def get(facts: Facts, _head: Of, _time_us: int) -> int | None:
        number = getattr(facts, member)
        return None if number is None else micro(number)

    return Value(f"micro({member})", ((member, _NUMBER),), get, column=f"{member}_micro", whole=True, quick=_quick_micro(member))


def whole(member: str) -> Value:
    """A number of things; a float is accepted when it is whole."""

    def get(facts: Facts, _head: Of, _time_us: int) -> int | None:
        number = getattr(facts, member)
        return None if number is None else _whole(number)

    return Value(f"whole({member})", ((member, int | float | None),), get, column=member, whole=True, quick=_quick_whole(member))


def _event_time(_facts: Facts, _head: Of, time_us: int) -> int:
    return time_us


def _agent(facts: Facts, head: Of, _time_us: int) -> str | None:
    return agent_of(head.aggregatetype, head.aggregateid, facts.agent_id)


def _task(facts: Facts, head: Of, _time_us: int) -> str | None:
    return head.aggregateid if head.aggregatetype == "task" else facts.task_id or None


def _tokens(facts: Facts, _head: Of, _time_us: int) -> int | None:
    if facts.tokens is not None:
        return _whole(facts.tokens)
    if facts.input_tokens is None and facts.output_tokens is None:
        return None
    return _whole(facts.input_tokens or 0) + _whole(facts.output_tokens or 0)


def _cost(facts: Facts, _head: Of, _time_us: int) -> int | None:
    return None if facts.cost is None else micro(facts.cost)


def _duration(facts: Facts, _head: Of, _time_us: int) -> int | None:
    if facts.duration_ms is not None:
        return micro(facts.duration_ms, 1_000)
    return None if facts.execution_time is None else micro(facts.execution_time)


def _error(facts: Facts, _head: Of, _time_us: int) -> str | None:
    error = _decode(facts.error)
    if error is None or error == "":
        return (facts.error_type or facts.reason or "")[:MAX_ERROR_CHARS] or None
    return (error if isinstance(error, str) else _encode_sorted(error).decode())[:MAX_ERROR_CHARS]


def _setting(facts: Facts, _head: Of, _time_us: int) -> str | None:
    if not facts.setting:
        return None
    value = _encode_sorted(_decode(facts.new_value)).decode()
    if len(value) > MAX_SETTING_CHARS:
        value = _encode_sorted(value[:MAX_SETTING_CHARS]).decode()  # the beginning of the text as a string: JSON again
    return named(facts.setting[:MAX_NAME_CHARS], value)


def _sample(facts: Facts, _head: Of, _time_us: int) -> str | None:
    if not facts.metric_name or facts.value is None:
        return None
    # 64 bits, not 53: bytes of memory pass 9 thousand millions every day, and are no mistake.
    return named(facts.metric_name[:MAX_NAME_CHARS], str(micro(facts.value, most=INT_MAX)))


_COUNT: Final = int | float | None

EVENT_TIME: Final = Value("event time", (), _event_time)
AGENT_ID: Final = Value("agent", (("agent_id", Any),), _agent)
TASK_ID: Final = Value(
    "task",
    (("task_id", str | None),),
    _task,
    always=True,
    column="task_id",
    quick=(("head.aggregatetype == 'task'", "head.aggregateid"), ("True", "facts.task_id or None")),
)
TOKENS: Final = Value(
    "tokens",
    (("tokens", _COUNT), ("input_tokens", _COUNT), ("output_tokens", _COUNT)),
    _tokens,
    column="tokens",
    whole=True,
    quick=_quick_whole("tokens"),
)
COST: Final = Value("micro(cost)", (("cost", _NUMBER),), _cost, column="cost_micro", whole=True, quick=_quick_micro("cost"))
DURATION: Final = Value(
    "duration µs",
    (("duration_ms", _NUMBER), ("execution_time", _NUMBER)),
    _duration,
    column="duration_us",
    whole=True,
    quick=_quick_micro("duration_ms", 1_000),
)
ERROR: Final = Value("error", (("error", msgspec.Raw), ("error_type", str | None), ("reason", str | None)), _error, column="error")
SETTING: Final = Value("setting", (("setting", str | None), ("new_value", msgspec.Raw)), _setting, column="setting")
SAMPLE: Final = Value("sample", (("metric_name", str | None), ("value", _NUMBER)), _sample, column="sample")

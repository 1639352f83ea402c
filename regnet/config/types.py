"""Types of options: how a value is read from text, and how messages and documents describe what is valid."""

import difflib
import math
import re
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Literal, get_args, get_origin

from commandline.paths import expand_path

INT_LIMIT, FLOAT_LIMIT, STRENGTH_LIMIT = 2**31 - 1, 1e6, 1e30  # larger values overflow in libraries, or are typos
_ABOVE_0, _BELOW_1 = math.nextafter(0, 1), math.nextafter(1, 0)


@dataclass(frozen=True)
class Range:
    """The valid values of a number.

    Attributes:
        description: what is valid, as a noun phrase.
        low, high: bounds that the description states.
        limit: upper bound that the description does not state.
    """

    description: str
    low: float
    high: float = math.inf
    limit: float = math.inf


PositiveInt = Annotated[int, Range("positive integer", 1, limit=INT_LIMIT)]
NonNegativeInt = Annotated[int, Range("non-negative integer", 0, limit=INT_LIMIT)]
PositiveFloat = Annotated[float, Range("positive number", _ABOVE_0, limit=FLOAT_LIMIT)]
NonNegativeFloat = Annotated[float, Range("non-negative number", 0, limit=FLOAT_LIMIT)]
Strength = Annotated[float, Range("non-negative number", 0, limit=STRENGTH_LIMIT)]
Fraction = Annotated[float, Range("number in [0, 1)", 0, _BELOW_1)]
Probability = Annotated[float, Range("number in [0, 1]", 0, 1)]
Temperature = Annotated[float, Range("number from 0.01 to 100", 0.01, 100)]  # beyond, float32 logits overflow or vanish
PositiveFraction = Annotated[float, Range("number in (0, 1]", _ABOVE_0, 1)]
RandAugmentOps = Annotated[int, Range("integer from 0 to 14", 0, 14)]
RandAugmentMagnitude = Annotated[int, Range("integer from 0 to 30", 0, 30)]
SideLength = Annotated[int, Range("integer from 1 to 4096", 1, 4096)]
Pixels = Annotated[int, Range("integer from 0 to 1024", 0, 1024)]
SmallCount = Annotated[int, Range("integer from 1 to 1000", 1, 1000)]
Seed = Annotated[int, Range("integer from 0 to 2**63 - 1", 0, 2**63 - 1)]
PathText = Annotated[str, "path"]  # in which ~ and environment variables are expanded

_BOOLS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}  # as in YAML
_PLAIN = {int: "integer", float: "number", str: "string", PathText: "path"}
_INTEGER = re.compile(r"[+-]?(0|[1-9][0-9]*(_[0-9]+)*)")  # of Python; YAML 1.1 would read 010 as 8
# Other programs' words for a choice, by the choice.
_SYNONYMS = {
    "baseline": ("reference",),
    "val_top1": ("val_accuracy", "val_acc", "accuracy"),
    "fp32": ("float32", "float", "full"),
    "bf16": ("bfloat16",),
    "fp16": ("float16", "half", "amp"),
    "cuda": ("gpu",),
}


def choices(kind: Any) -> list[str]:
    """The valid values of an option with choices; empty for other options."""
    if kind is bool:
        return ["true", "false"]
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    return [str(member.value) for member in kind] if isinstance(kind, type) and issubclass(kind, Enum) else []


def describe_type(kind: Any) -> str:
    """What is valid, as a noun phrase without an article."""
    if choices(kind):
        return f"one of {', '.join(choices(kind))}"
    bounds = range_of(kind)
    return bounds.description if bounds else _PLAIN[kind]


def range_of(kind: Any) -> Range | None:
    """The bounds of a number; None for other options."""
    return next((found for found in get_args(kind)[1:] if isinstance(found, Range)), None)


def parse_value(name: str, kind: Any, text: str) -> Any:
    """The value that a text stands for.

    Raises:
        ValueError: it is not valid; the message names the option, what is valid, and the text.
    """
    if kind is str:
        return text
    if kind == PathText:
        return _parse_path(name, text)
    if kind is bool:
        if text.lower() not in _BOOLS:
            raise ValueError(f"{name} must be true or false, got {quoted(text)}")
        return _BOOLS[text.lower()]
    if choices(kind):
        if text not in choices(kind):
            raise ValueError(f"{name} must be {describe_type(kind)}, got {quoted(text)}{_hint(text, choices(kind))}")
        return kind(text) if isinstance(kind, type) else text
    return _parse_number(name, kind, text)


def quoted(text: str) -> str:
    """A value as messages show it: numbers as they are, other text in quotes, long text shortened."""
    shown = text if _is_number(text) else repr(text)
    return shown if len(shown) <= 60 else f"{shown[:60]}..."


def with_article(phrase: str) -> str:
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _parse_path(name: str, text: str) -> str:
    try:
        return expand_path(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _parse_number(name: str, kind: Any, text: str) -> int | float:
    base = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    must = f"{name} must be {with_article(describe_type(kind))}, got {quoted(text)}"
    if base is int and re.fullmatch(r"[+-]?0[0-9]+", text):
        raise ValueError(f"{must}: write it without leading zeros")
    if not _is_number(text) or (base is int and not _INTEGER.fullmatch(text)):
        raise ValueError(must)
    try:
        value = base(text)
    except ValueError as error:  # more digits than Python reads
        raise ValueError(must) from error
    valid = range_of(kind)
    if valid is None:
        return value
    if not valid.low <= value <= valid.high:  # also NaN
        raise ValueError(must)
    if value > valid.limit:
        raise ValueError(f"{name} must be at most {valid.limit:.10g}, got {quoted(text)}")
    return value


def _is_number(text: str) -> bool:
    """Whether the text is a number in ASCII digits, without spaces around it; Python itself reads others, too."""
    try:
        float(text)
    except ValueError:
        return False
    return text.isascii() and text == text.strip()


def _hint(text: str, valid: list[str]) -> str:
    known = {synonym: choice for choice in valid for synonym in (choice, *_SYNONYMS.get(choice, ()))}
    nearest = difflib.get_close_matches(text.lower(), known, n=1)
    return f" (did you mean {known[nearest[0]]}?)" if nearest else ""

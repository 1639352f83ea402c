"""Writes the reference of all options from the dataclasses that hold them.

python -m tools.configuration > docs/configuration.md
"""

import operator
from collections.abc import Iterator, Sequence
from dataclasses import Field, asdict, fields, is_dataclass
from enum import Enum
from typing import Any, Literal, get_args, get_origin

import docstring_parser

from regnet.config.schema import Config, plain
from regnet.runs.directory import fixed_options

COMMAND = "python -m tools.configuration > docs/configuration.md"
INTRODUCTION = f"""# Options

Made by `{COMMAND}` from `regnet/config/schema.py`, the one
place that knows them. `python train_ddp.py --help` tells the same.

**Where they come from.** YAML files and flags, later ones winning:

    python train_ddp.py --config configs/baseline.yaml --config mine.yaml --train.epochs 60 --optim.lr=0.002

In a file a section is a mapping (`train: {{epochs: 60}}`); on the command line its name and a dot come before its
options (`--train.epochs 60`). `--config` may be given several times. Files and flags are read from left to right, so
that a flag before a file loses to it. What nobody says has its default. `--print_config` shows what results, and trains
nothing; a run keeps it as `config.yaml`, which `--config` takes again. An unknown option, a wrong type, a value out of
its bounds and options that are impossible together end the program with one line and status 2.

**What a resume compares.** A directory is continued only by the configuration that it was begun with: all options but
those marked as free must be as they were, else the attempt is refused, and those that differ are named. `train.epochs`
is free under `schedule.name: baseline` alone, for the other schedules depend on it.
"""
_SIGNS = {operator.gt: ">", operator.ge: ">=", operator.lt: "<", operator.le: "<="}
_COMPARED = fixed_options(plain(asdict(Config())))
_PLAIN = (bool, int, float, str)
_HEADINGS = ("option", "type", "default", "free", "meaning")


def document() -> str:
    """The whole reference, in Markdown: a table for each section, in the order of the dataclasses."""
    parts = [INTRODUCTION, *_section("Top level", Config, "")]
    for section in fields(Config):
        if is_dataclass(section.type):
            parts += _section(section.name, section.type, f"{section.name}.")
    return "\n".join(parts)


def _section(title: str, kind: Any, prefix: str) -> Iterator[str]:
    told = docstring_parser.parse(kind.__doc__)
    meanings = {argument.arg_name: " ".join((argument.description or "").split()) for argument in told.params}
    options = [option for option in fields(kind) if not is_dataclass(option.type)]
    yield f"## {title}\n\n{told.short_description}\n"
    yield from _table([_row(prefix + option.name, option, meanings[option.name]) for option in options])
    yield ""


def _row(name: str, option: Field[Any], meaning: str) -> tuple[str, ...]:
    free = "" if name in _COMPARED else "yes"
    return f"`{name}`", _type(option.type), _value(option.default), free, meaning


def _type(kind: Any) -> str:
    """The type of an option with its choices or bounds, as a reader would write them down."""
    if get_origin(kind) is Literal:
        return _choices(get_args(kind))
    if issubclass(kind, Enum):
        return _choices([member.value for member in kind])
    if kind in _PLAIN:
        return kind.__name__
    bounded = next(plain_kind for plain_kind in _PLAIN if issubclass(kind, plain_kind))
    # jsonargparse has no public way to ask for the bounds.
    return (
        f"{bounded.__name__} {' and '.join(f'{_SIGNS[sign]} {_number(bound)}' for sign, bound in kind._restrictions)}"
    )


def _choices(values: Sequence[str]) -> str:
    *most, last = (f"`{value}`" for value in values)
    return f"{', '.join(most)} or {last}"


def _value(value: Any) -> str:
    """A default as it would be written in a file."""
    value = plain(value)
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return "empty" if value == "" else f"`{value if isinstance(value, str) else _number(value)}`"


def _number(value: float) -> str:
    """Whole numbers to the last digit, others as short as they can be."""
    return str(value) if isinstance(value, int) else f"{value:.10g}"


def _table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    for cells in (_HEADINGS, ["---"] * len(_HEADINGS), *rows):
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


if __name__ == "__main__":
    print(document(), end="")

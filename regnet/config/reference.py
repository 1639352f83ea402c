"""Every option with its description, for --help and docs/configuration.md."""

from collections.abc import Iterator
from dataclasses import Field, dataclass, fields, is_dataclass
from typing import Any

import docstring_parser

from regnet.config.schema import Config, to_plain_types


@dataclass(frozen=True)
class Option:
    """An option as documents show it.

    Attributes:
        name: dotted.
        kind: its type, see regnet.config.types.
        default: as written in a file, or "empty".
        description: a noun phrase, without a full stop.
    """

    name: str
    kind: Any
    default: str
    description: str


@dataclass(frozen=True)
class Section:
    """A section of options; the top level has no name."""

    name: str
    description: str
    options: tuple[Option, ...]


def sections() -> list[Section]:
    """All sections, the top level first, in the order of the dataclasses."""
    nested = (option for option in fields(Config) if is_dataclass(option.type))
    return [_section("", Config), *(_section(option.name, option.type) for option in nested)]


def _section(name: str, kind: Any) -> Section:
    docstring = docstring_parser.parse(kind.__doc__)
    descriptions = {argument.arg_name: argument.description or "" for argument in docstring.params}
    prefix = f"{name}." if name else ""
    return Section(name, docstring.short_description or "", tuple(_options(kind, prefix, descriptions)))


def _options(kind: Any, prefix: str, descriptions: dict[str, str]) -> Iterator[Option]:
    for field in fields(kind):
        if not is_dataclass(field.type):
            description = " ".join(descriptions[field.name].split()).removesuffix(".")
            yield Option(prefix + field.name, field.type, _default(field), description)


def _default(field: Field[Any]) -> str:
    value = to_plain_types(field.default)
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.10g}" if isinstance(value, float) else str(value) or "empty"

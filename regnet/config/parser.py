"""Reads a configuration from YAML files and flags, later ones winning: --config F --section.option value ...

A file is turned into the flags that say the same, so that both are judged by one rule.
"""

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from regnet.config.schema import Config, plain
from regnet.config.validation import check_config
from regnet.errors import UsageError
from regnet.models.design_space import Variant


class _Parser(ArgumentParser):
    def error(self, message: str, ex: Exception | None = None) -> None:  # type: ignore[override]
        raise UsageError(shorten(in_plain_words(message)))


def in_plain_words(message: str) -> str:
    """What the library says of a wrong option, as users know it."""
    message = message.replace('Parser key "', 'option "')
    of_them = r"Expected a (?:typing\.Literal\[|member of .*?\{)(.*?)[\]}]\. Got value: (.*)"
    choice = re.search(of_them, message, re.DOTALL)
    if choice is None:
        return message
    names, value = re.findall(r"[^', ]+", choice[1]), choice[2]
    nearest = difflib.get_close_matches(value, names, n=1)
    hint = f" (did you mean {nearest[0]}?)" if nearest else ""
    return f"{message[: choice.start()]}{value!r} is none of {', '.join(names)}{hint}"


def parse_config(argv: Sequence[str]) -> Config:
    """The configuration for these command line arguments.

    Raises:
        UsageError: an unknown key, a wrong type, an impossible value, or options that exclude one another; one line
            that names the option.
    """
    parser = _Parser(prog="train_ddp.py", description="Trains a RegNetX network.", allow_abbrev=False)
    # Files are expanded before they get here; the action is there for --help and --print_config.
    parser.add_argument("--config", action="config", help="a YAML file; may be given more than once")
    parser.add_class_arguments(Config)
    try:
        values = parser.parse_args(_expand(argv))
    except (ValueError, TypeError, OverflowError) as error:
        raise UsageError(shorten(str(error))) from error
    config = _build(Config, values)
    check_config(config)
    return config


def option_types(kind: Any = Config, prefix: str = "") -> dict[str, Any]:
    """Every option by its dotted name, with its type; a section's type is its class."""
    types = {}
    for option in fields(kind):
        name = prefix + option.name
        types[name] = option.type
        if is_dataclass(option.type):
            types |= option_types(option.type, name + ".")
    return types


def option_names() -> list[str]:
    """All options and sections, dotted."""
    return list(option_types())


def shorten(message: str, limit: int = 500) -> str:
    return message if len(message) <= limit else message[:limit] + "..."


def _expand(argv: Sequence[str]) -> list[str]:
    """The arguments with every configuration file replaced by its options."""
    expanded, waiting = [], list(argv)
    while waiting:
        argument = waiting.pop(0)
        flag, equals, value = argument.partition("=")
        if flag == "--config":
            if not equals and not waiting:
                raise UsageError("--config needs a file")
            expanded += list(_read_flags(Path(value if equals else waiting.pop(0))))
            continue
        name = flag.removeprefix("--")
        if flag.startswith("--") and name not in ("help", "print_config"):
            check_known(name, flag)
        expanded.append(argument)
    return expanded


def check_known(name: str, said: str) -> None:
    """Raises UsageError, with the nearest option, for a name that is none."""
    types = option_types()
    kind = types.get(name)
    if kind is None:
        leaves = {known.rpartition(".")[2]: known for known in types}
        nearest = difflib.get_close_matches(name, types, n=1, cutoff=0.6)
        for leaf in difflib.get_close_matches(name.rpartition(".")[2], leaves, n=1, cutoff=0.7):
            nearest.append(leaves[leaf])
        hint = f" (did you mean {nearest[0]}?)" if nearest else ""
        raise UsageError(shorten(f"unknown option {said}{hint}"))
    if is_dataclass(kind):
        raise UsageError(f"{said} is a section: its options are {said}.{', .'.join(f.name for f in fields(kind))}")


def _read_flags(path: Path) -> Iterator[str]:
    try:
        content = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise UsageError(shorten(f"{path}: not readable as YAML ({error})")) from error
    if not isinstance(content, dict):
        raise UsageError(f"{path}: not a configuration: a mapping of options is needed")
    try:
        yield from as_flags(content)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def as_flags(options: dict[Any, Any], prefix: str = "") -> Iterator[str]:
    """What says the same on the command line as a mapping of options and sections, of a file or a checkpoint."""
    for key, value in options.items():
        name = f"{prefix}{key}"
        kind = option_types().get(name)
        if is_dataclass(kind):
            if not isinstance(value, dict):
                raise UsageError(shorten(f"{name} is a section of options, not {value!r}"))
            yield from as_flags(value, name + ".")
            continue
        check_known(name, name)
        if isinstance(value, dict | list) or value is None:
            raise UsageError(shorten(f"{name} takes one value, not {value!r}"))
        if kind is str and not isinstance(value, str):
            raise UsageError(shorten(f"{name} takes text, not {value!r}; put it in quotes"))
        yield f"--{name}={str(value).lower() if isinstance(value, bool) else value}"


def _build(kind: Any, values: Any, prefix: str = "") -> Any:
    """A configuration class from what jsonargparse made of it, with plain values."""
    options = {}
    for option in fields(kind):
        value = getattr(values, option.name)
        if is_dataclass(option.type):
            value = _build(option.type, value, f"{prefix}{option.name}.")
        elif value is None:
            raise UsageError(f"{prefix}{option.name} has no value")
        elif not isinstance(value, Variant):
            value = plain(value)
        options[option.name] = value
    return kind(**options)

"""Reads a configuration from YAML files and flags, later ones winning: --config FILE --section.option VALUE ...

A file is converted into the equivalent flags, so that the same rules apply to both.
"""

import difflib
import functools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from commandline.exit_codes import DONE
from commandline.paths import expand_path, not_empty
from regnet.config.adaptation import resolve_conflicts
from regnet.config.aliases import ALIASES
from regnet.config.help import help_text
from regnet.config.schema import Config
from regnet.config.types import PathText, choices, describe_type, parse_value, quoted, with_article
from regnet.config.validation import validate_config
from regnet.config.yaml_file import as_written, read_yaml, shorten
from regnet.errors import UsageError

_HELP, _PRINT = ("-h", "--help"), "--print_config"


def parse_config(argv: Sequence[str]) -> Config:
    """The configuration for these command-line arguments, adapted where options contradict one another harmlessly.

    Raises:
        UsageError: an unknown option, an invalid value, or options that exclude one another; one line that names the
            option.
        SystemExit: after --help and --print_config, whose text is printed.
    """
    return parse_config_with_notes(argv)[0]


def parse_config_with_notes(argv: Sequence[str]) -> tuple[Config, list[str]]:
    """`parse_config`, and a line about each option that was adapted; see regnet.config.adaptation."""
    if help_requested(argv):
        print(help_text(), end="")
        raise SystemExit(DONE)
    flags = list(_split(argv))
    values = _read_flags([(flag, text) for flag, text in flags if (flag, text) != (_PRINT, None)])
    config, notes = resolve_conflicts(_build(Config, values))
    validate_config(config)
    if (_PRINT, None) in flags:
        print("".join(f"# {note}\n" for note in notes) + config.to_yaml(), end="")
        raise SystemExit(DONE)
    return config, notes


def help_requested(argv: Sequence[str]) -> bool:
    """Whether one of the arguments asks for help, rather than being the value of an option."""
    return any(flag in _HELP and text is None for flag, text in _split(argv))


@functools.cache
def option_types() -> dict[str, Any]:
    """The type of every option by its dotted name; a section's type is its class."""
    return dict(_option_types(Config, ""))


def _option_types(kind: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for option in fields(kind):
        name = prefix + option.name
        yield name, option.type
        if is_dataclass(option.type):
            yield from _option_types(option.type, name + ".")


def option_names() -> list[str]:
    """The dotted names of all options and sections."""
    return list(option_types())


def check_known(name: str, written: str) -> None:
    """Raises UsageError, with a suggestion, for an unknown option.

    Args:
        written: the option as the user wrote it, and where.
    """
    kind = option_types().get(name)
    if kind is None:
        suggestion = _suggestion(name)
        raise UsageError(shorten(f"unknown option {written}{f' (did you mean {suggestion}?)' if suggestion else ''}"))
    if is_dataclass(kind):
        options = ", ".join(option.name for option in fields(kind))
        raise UsageError(f"{written} is a section of options: {options}; give one as {written}.{fields(kind)[0].name}")


def as_flags(options: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
    """The command-line arguments that are equivalent to a mapping of options and sections.

    Args:
        options: as read from a configuration file or a checkpoint.
    """
    types = option_types()
    for key, value in options.items():
        name = f"{prefix}{key}"
        misspelt_section = not prefix and name not in types and isinstance(value, dict) and value
        if isinstance(value, dict) and (misspelt_section or is_dataclass(types.get(name))):
            yield from as_flags(value, name + ".")
        else:
            check_known(name, name)
            yield f"--{name}={_as_text(name, value)}"


def _as_text(name: str, value: Any) -> str:
    """The text that stands for a value of a file on the command line."""
    kind = option_types()[name]
    if value is None:
        raise UsageError(f"{name} has no value: it must be {_requirement(kind)}")
    if isinstance(value, dict | list):
        raise UsageError(shorten(f"{name} must be {_requirement(kind)}, got {as_written(value)}"))
    if kind in (str, PathText) and not isinstance(value, str):  # in a checkpoint, or with an explicit tag
        raise UsageError(f"{name} must be {_requirement(kind)}, got {value!r}")
    return str(value).lower() if isinstance(value, bool) else str(value)


def _requirement(kind: Any) -> str:
    return describe_type(kind) if choices(kind) else with_article(describe_type(kind))


def _split(arguments: Iterable[str]) -> Iterator[tuple[str, str | None]]:
    """Each flag with its value, which follows it or an equals sign; None without one."""
    remaining = list(arguments)
    while remaining:
        flag, equals, text = remaining.pop(0).partition("=")
        if equals:
            yield flag, text
        elif remaining and _takes(flag, remaining[0]):
            yield flag, remaining.pop(0)
        else:
            yield flag, None


def _takes(flag: str, following: str) -> bool:
    """Whether the argument that follows a flag is its value."""
    if flag in (*_HELP, _PRINT) or not flag.startswith("--") or following.startswith("--"):
        return False
    value_is_optional = option_types().get(flag.removeprefix("--")) is bool
    return not (value_is_optional and following in _HELP)


def _read_flags(flags: Iterable[tuple[str, str | None]]) -> dict[str, Any]:
    """The value of every option that is given, by its dotted name."""
    values = dict[str, Any]()
    for flag, text in flags:
        name = flag.removeprefix("--")
        if not name or name == flag:
            raise UsageError(f"unexpected argument {quoted(flag)}: options are given as --section.option VALUE")
        try:
            if flag == "--config":
                values |= _read_file(_config_path(_required(flag, text)))
            else:
                check_known(name, flag)
                kind = option_types()[name]
                values[name] = parse_value(
                    name, kind, "true" if kind is bool and text is None else _required(flag, text)
                )
        except ValueError as error:
            raise UsageError(str(error)) from error
    return values


def _required(flag: str, text: str | None) -> str:
    if text is None:
        raise UsageError(f"{flag} needs a value: {flag} VALUE")
    return text


def _config_path(text: str) -> Path:
    try:
        return Path(expand_path(not_empty(text)))
    except ValueError as error:
        raise UsageError(f"--config: {error}") from error


def _read_file(path: Path) -> dict[str, Any]:
    content = read_yaml(path)
    try:
        if not isinstance(content, dict):
            raise UsageError("not a configuration: a mapping of options is required")
        flags = list(_split(as_flags(content)))
        repeated = [flag for flag, count in Counter(flag for flag, _ in flags).items() if count > 1]
        if repeated:  # by itself and in its section
            raise UsageError(f"{repeated[0].removeprefix('--')} is given twice")
        return _read_flags(flags)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def _build(kind: Any, values: Mapping[str, Any], prefix: str = "") -> Any:
    """A configuration class from the values that are given; the others have their defaults."""
    options = {}
    for option in fields(kind):
        name = prefix + option.name
        if is_dataclass(option.type):
            options[option.name] = _build(option.type, values, name + ".")
        elif name in values:
            options[option.name] = values[name]
    return kind(**options)


def _suggestion(name: str) -> str | None:
    """The option that was probably meant, or None."""
    normalised = name.lower().replace("-", "_")
    last = normalised.rpartition(".")[2]
    types = option_types()
    same_last = [option for option in types if option.rpartition(".")[2] == last]
    if same_last:
        return difflib.get_close_matches(normalised, same_last, n=1, cutoff=0)[0]
    if last in ALIASES:
        return ALIASES[last]
    for candidate in difflib.get_close_matches(normalised, types, n=1, cutoff=0.6):
        return candidate
    by_last = ALIASES | {option.rpartition(".")[2]: option for option in types}
    for candidate in difflib.get_close_matches(last, by_last, n=1, cutoff=0.7):
        return by_last[candidate]
    return None

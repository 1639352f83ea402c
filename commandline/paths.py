"""Paths given as options: what is expanded in them, and whether a file can be written there."""

import argparse
import os
import re
from pathlib import Path

from commandline.errors import InputError

_VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([^}]*)\})", re.ASCII)


def expand_path(text: str) -> str:
    """The path with a leading ~ or ~user, $NAME and ${NAME} replaced.

    A shell does this for a separate word, but not in --option=~/x and not in a configuration file.

    Raises:
        ValueError: there is no such user or environment variable.
    """
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        raise ValueError(f"{text}: no home directory of {text.partition('/')[0]} (a relative path would be ./{text})")

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name not in os.environ:
            raise ValueError(f"{text}: the environment variable {name} is not set")
        return os.environ[name]

    return _VARIABLE.sub(value, expanded)


def not_empty(text: str) -> str:
    """Rejects an empty path, which would name the current directory: usually a shell variable was not set.

    Raises:
        ValueError: the path is empty.
    """
    if not text:
        raise ValueError("the path is empty (the current directory is .)")
    return text


def path_argument(text: str) -> Path:
    """The type of an argparse argument that is a path without an option, which a shell has expanded already."""
    try:
        return Path(not_empty(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def path_option(text: str) -> Path:
    """The type of an argparse option that is a path."""
    try:
        return Path(expand_path(not_empty(text)))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def check_current_directory() -> None:
    """Raises InputError if the current directory was deleted, as when a clone is replaced by a new one."""
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise InputError("the current directory was deleted: change to another one (cd)") from error


def check_output_file(option: str, path: Path) -> None:
    """Raises InputError if no file can be written there, before a command starts its work.

    Args:
        option: names the path in the message.
    """
    if not path.parent.is_dir():
        raise InputError(f"{option} {path}: {path.parent} is not a directory")
    if path.is_dir():
        raise InputError(f"{option} {path} is a directory: name a file")
    if path.exists() and not os.access(path, os.W_OK):
        raise InputError(f"{option} {path}: permission denied")
    if (path.is_file() or not path.exists()) and not os.access(path.resolve().parent, os.W_OK):  # it is replaced
        raise InputError(f"{option} {path}: no files can be created in {path.resolve().parent} (permission denied)")

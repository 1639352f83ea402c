"""Reads YAML with every value as it is written, so that files and flags follow the same rules.

YAML 1.1 reads 010 as 8, 1:30 as 90 and 1e-3 as a string. Here the type of an option interprets its text instead.
"""

import reprlib
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from regnet.errors import UsageError

_NULL, _MERGE = "tag:yaml.org,2002:null", "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """Reads scalars as strings, except null, and rejects keys that are given twice."""

    yaml_implicit_resolvers = {  # noqa: RUF012  # as in the base class
        first: [(tag, pattern) for tag, pattern in resolvers if tag in (_NULL, _MERGE)]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        lines = dict[str, int]()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                line = key.start_mark.line + 1
                if key.value in lines:
                    raise UsageError(f"{key.value} is given twice, in lines {lines[key.value]} and {line}")
                lines[key.value] = line
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """The content of a YAML file: mappings, lists, strings and None.

    Raises:
        UsageError: it cannot be read, or gives a key twice; one line that names the file.
    """
    try:
        return yaml.load(path.read_bytes(), _Loader)  # a SafeLoader
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(shorten(f"{path}: not readable as YAML ({_cause(error)})")) from error


def _cause(error: Exception) -> str:
    """What is wrong and in which line. PyYAML adds what it was reading, and draws a pointer below the line."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return str(error)


class _AsWritten(reprlib.Repr):
    """Shows lists and mappings without quotes around their strings, and shortened."""

    def repr_str(self, x: str, level: int) -> str:
        return x


as_written = _AsWritten().repr


def shorten(message: str, limit: int = 500) -> str:
    """The message, cut off where it quotes too much of a file."""
    return message if len(message) <= limit else message[:limit] + "..."

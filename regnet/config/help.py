"""The text of train_ddp.py --help."""

import shutil
import textwrap

from regnet.config.reference import Option, Section, sections
from regnet.config.types import choices, describe_type, range_of

_INTRODUCTION = """\
Trains a RegNet image classifier on a dataset written by python -m data.convert: on one CPU or GPU, or on several under
torchrun or srun. Results are written to runs_dir/name; the same command resumes an interrupted run."""
_ACTIONS = (
    ("--config FILE", "YAML file of options, as in configs/; may be repeated. Of files and flags, later ones win"),
    ("--print_config", "print the resulting configuration and exit"),
    ("-h, --help", "print this text and exit"),
)
_FIRST = ("name", "train.epochs", "train.batch_size", "optim.lr", "data.shards", "overwrite")
_EXAMPLES = """\
Examples:
  python train_ddp.py --config configs/fast.yaml --name first --train.epochs 4
  torchrun --nproc_per_node=2 train_ddp.py --config configs/demo.yaml --optim.lr 0.002 --overwrite"""
_METAVARS = {"integer": "INTEGER", "number": "NUMBER", "string": "TEXT", "path": "PATH"}
_WIDEST = 100


def help_text() -> str:
    """The options to start with, examples, and all options by section."""
    every_section = sections()
    by_name = {option.name: option for section in every_section for option in section.options}
    first = [*(_entry(*action) for action in _ACTIONS), *(_option(by_name[name]) for name in _FIRST)]
    parts = [
        "usage: train_ddp.py --config FILE [--section.option VALUE ...]",
        textwrap.fill(_INTRODUCTION, _width()),
        "\n".join(["Start here:", *first]),
        _EXAMPLES,
        "All options:",
        *map(_section, every_section),
    ]
    return "\n\n".join(parts) + "\n"


def _section(section: Section) -> str:
    heading = f"{section.name}: {section.description}" if section.name else section.description
    return "\n".join([textwrap.fill(heading.removesuffix("."), _width()), *map(_option, section.options)])


def _option(option: Option) -> str:
    bounds = f"{describe_type(option.kind)}; " if range_of(option.kind) else ""
    return _entry(f"--{option.name} {_metavar(option)}", f"{option.description} ({bounds}default: {option.default})")


def _metavar(option: Option) -> str:
    if option.kind is bool:
        return "[true|false]"  # without a value it is true
    if choices(option.kind):
        return f"{{{','.join(choices(option.kind))}}}"
    return next(metavar for word, metavar in _METAVARS.items() if word in describe_type(option.kind))


def _entry(flag: str, text: str) -> str:
    indent = 8 * " "
    return f"  {flag}\n{textwrap.fill(text, _width(), initial_indent=indent, subsequent_indent=indent)}"


def _width() -> int:
    return max(60, min(shutil.get_terminal_size().columns, _WIDEST))

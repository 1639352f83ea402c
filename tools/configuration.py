"""Writes the reference of all options from the dataclasses that define them.

python -m tools.configuration > docs/configuration.md
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from regnet.config.reference import Option, sections
from regnet.config.schema import Config, to_plain_types
from regnet.config.types import FLOAT_LIMIT, INT_LIMIT, STRENGTH_LIMIT, choices, describe_type
from regnet.runs.compatibility import fixed_options

COMMAND = "python -m tools.configuration > docs/configuration.md"
INTRODUCTION = f"""# Configuration

This page is generated from `regnet/config/schema.py` by `{COMMAND}`.
`python train_ddp.py --help` prints the same reference.

## Files and flags

Options come from YAML files and from flags. Both are read from left to right, and later values win:

    python train_ddp.py --config configs/baseline.yaml --config mine.yaml --train.epochs 60 --optim.lr=0.002

In a file, a section is a mapping (`train: {{epochs: 60}}`). On the command line, the section's name precedes the
option's (`--train.epochs 60`). `--config` may be repeated; a flag before a file is overridden by that file. A flag
without a value (`--overwrite`) sets a `true or false` option to true. Values are read as they are written: `010`,
`0x10` and `1:30` are not numbers, although YAML 1.1 would read them as 8, 16 and 90. A file must not give an option
twice. In paths, `~`, `$NAME` and `${{NAME}}` are expanded. Options that are not given have the default below.
`--print_config` prints the resulting configuration without training; each run stores it as `config.yaml`, which
`--config` accepts again.

Unknown options, invalid values and options that exclude one another end the program with a one-line message and exit
code 2. Integers without a stated upper bound are limited to {INT_LIMIT}, numbers to {FLOAT_LIMIT:.0f} (weight decay and
gradient clipping to {STRENGTH_LIMIT:g}).

## Adapted options

Some options are adapted instead of rejected. The program prints each change, and `config.yaml` contains the result, but
for `data.workers`, which depends on the node:

* `schedule.warmup_epochs` is reduced to half of `train.epochs` (rounded down) if it leaves no epoch for the decay; not
  with `schedule.name: baseline`.
* `augment.crop_padding` becomes 0 with `augment.rrc_min_scale`, which crops the images itself.
* `augment.rrc_min_scale` becomes 0.25 for a dataset with images of different sizes if it is 0.
* `train.batch_size` is reduced to the number of training images.
* `data.workers` is reduced to the number of threads that the process may use.

## Resuming

A run resumes only with the configuration that it was started with. Options marked as free may change; if another
option differs, the program names it with both values and exits. `train.epochs` is free only with
`schedule.name: baseline`, because the other schedules depend on it.
"""
_HEADINGS = ("option", "type", "default", "free", "description")
_FIXED = fixed_options(to_plain_types(asdict(Config())))


def document() -> str:
    """The page in Markdown: a table for each section."""
    parts = [INTRODUCTION]
    for section in sections():
        parts.append(f"## {section.name or 'Top level'}\n\n{section.description}\n")
        parts += [*_table([_row(option) for option in section.options]), ""]
    return "\n".join(parts)


def _row(option: Option) -> tuple[str, ...]:
    free = "" if option.name in _FIXED else "yes"
    default = option.default if option.default == "empty" else f"`{option.default}`"
    return f"`{option.name}`", _type(option.kind), default, free, f"{option.description}."


def _type(kind: Any) -> str:
    """The type of an option with its choices or bounds."""
    if kind is bool:
        return "true or false"
    if choices(kind):
        *others, last = (f"`{choice}`" for choice in choices(kind))
        return f"{', '.join(others)} or {last}"
    return describe_type(kind)


def _table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    for cells in (_HEADINGS, ["---"] * len(_HEADINGS), *rows):
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


if __name__ == "__main__":
    print(document(), end="")

"""List a network's operators, parameters, multiply-adds, activations and memory, and the statistics of its weights.

examples:
  python -m regnet.summary --config configs/baseline.yaml
  python -m regnet.summary --checkpoint runs/baseline/checkpoints/best.pt --weights
  python -m regnet.summary --config configs/baseline.yaml --values body.0.layers.0.conv1_1x1.weight
"""

from commandline.startup import before_imports

if __name__ == "__main__":
    before_imports()

import argparse
import csv
import difflib
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from commandline.arguments import ArgumentParser, positive_integer
from commandline.command import run_command
from commandline.exit_codes import DONE
from commandline.paths import path_option
from regnet.checkpoint.load_model import TrainedModel, load_trained_model, untrained_model
from regnet.errors import UsageError
from regnet.models.complexity import Operator, estimate_memory, profile_operators
from regnet.runs.json_format import format_json

_BARS = " ▁▂▃▄▅▆▇█"
_COLUMNS = ("index", "operator", "output_shape", "parameters", "multiply_adds", "activations")


def row(operator: Operator) -> tuple[Any, ...]:
    """The operator's values of _COLUMNS."""
    costs = (operator.parameters, operator.multiply_adds, operator.activations)
    return operator.index, operator.kind, operator.output_shape, *costs


def print_summary(trained: TrainedModel, operators: list[Operator], console: Console) -> None:
    """Prints the table of operators, the totals and the memory estimate."""
    table = Table(box=None)
    for column in _COLUMNS:
        table.add_column(column.replace("_", " "), justify="left" if column == "operator" else "right")
    for operator in operators:
        cells = [f"{cell:,}" if isinstance(cell, int) else cell for cell in row(operator)]
        table.add_row(*cells)
    console.print(table)
    resolution = trained.config.data.resolution
    memory = estimate_memory(operators, resolution)
    for line in (
        f"for one image of 3x{resolution}x{resolution}:",
        f"parameters        {sum(operator.parameters for operator in operators):>13,}  {memory.parameters:9.2f} MiB",
        f"multiply-adds     {sum(operator.multiply_adds for operator in operators):>13,}",
        f"activations       {sum(operator.activations for operator in operators):>13,}  of convolutions and classifier",
        f"input                            {memory.input:9.2f} MiB",
        f"forward and backward             {memory.forward_backward:9.2f} MiB",
        f"total                            {memory.total:9.2f} MiB",
    ):
        console.print(line, highlight=False)


def histogram(values: Tensor, bins: int = 24) -> str:
    """The distribution of the values between their minimum and maximum, one character per bin."""
    low, high = values.min().item(), values.max().item()
    if low == high:
        return _BARS[-1]
    counts = torch.histc(values.float().flatten(), bins, low, high)
    heights = (counts / counts.max() * (len(_BARS) - 1)).ceil().int()
    return "".join(_BARS[height] for height in heights.tolist())


def statistics(weights: Tensor) -> dict[str, float]:
    """Mean, standard deviation, minimum and maximum."""
    values = weights.double().flatten()
    std = values.std(correction=0)
    return {"mean": values.mean().item(), "std": std.item(), "min": values.min().item(), "max": values.max().item()}


def print_weights(trained: TrainedModel, console: Console) -> None:
    """Prints the name, shape, statistics and histogram of every floating-point tensor."""
    for name, weights in trained.model.state_dict().items():
        if not weights.is_floating_point():
            continue
        numbers = "  ".join(f"{name} {value: .4f}" for name, value in statistics(weights).items())
        shape = "x".join(map(str, weights.shape))
        console.print(f"{name}  {shape}", highlight=False, markup=False)
        console.print(f"    {numbers}  {histogram(weights)}", highlight=False, markup=False)


def values_of(trained: TrainedModel, name: str) -> Tensor:
    """The tensor of this name. Raises UsageError if there is none."""
    weights = trained.model.state_dict()
    if name not in weights:
        nearest = difflib.get_close_matches(name, weights, n=1)
        hint = f" (did you mean {nearest[0]}?)" if nearest else ""
        raise UsageError(f"--values: no tensor is called {name}{hint}; --weights lists all names")
    return weights[name]


def as_json(trained: TrainedModel, operators: list[Operator], weights: bool) -> str:
    summary: dict[str, Any] = {
        "operators": [{**asdict(operator), "output_shape": operator.output_shape} for operator in operators],
        "parameters": sum(operator.parameters for operator in operators),
        "multiply_adds": sum(operator.multiply_adds for operator in operators),
        "activations": sum(operator.activations for operator in operators),
        "megabytes": asdict(estimate_memory(operators, trained.config.data.resolution)),
        "epochs": trained.epochs,
    }
    if weights:
        summary["weights"] = {
            name: {"shape": list(tensor.shape), **statistics(tensor)}
            for name, tensor in trained.model.state_dict().items()
            if tensor.is_floating_point()
        }
    return format_json(summary)


def open_model(checkpoint: Path | None, arguments: Sequence[str], classes: int) -> TrainedModel:
    """The network of the checkpoint, or an untrained one for these trainer options. Raises UsageError."""
    if checkpoint is None:
        return untrained_model(arguments, classes)
    if arguments:
        raise UsageError(f"{arguments[0]} cannot be combined with --checkpoint, which contains its configuration")
    return load_trained_model(checkpoint)


def parser() -> argparse.ArgumentParser:
    """The command line of python -m regnet.summary; options of the trainer are parsed by parse_config."""
    options = ArgumentParser(
        prog="python -m regnet.summary",
        usage="%(prog)s [--config FILE ...] [--section.option VALUE ...] [options]\n"
        "       %(prog)s --checkpoint FILE [options]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument_group(
        "configuration of an untrained network",
        "--config FILE            YAML configuration; may be repeated, later files take precedence\n"
        "--section.option VALUE   any option of the trainer, such as --model.depth 13",
    )
    options.add_argument(
        "--checkpoint",
        type=path_option,
        metavar="FILE",
        help="summarise a trained network (default: an untrained one)",
    )
    options.add_argument(
        "--classes",
        type=positive_integer,
        default=100,
        metavar="N",
        help="number of classes of an untrained network (default: %(default)s)",
    )
    options.add_argument(
        "--format", choices=("table", "csv", "json"), default="table", help="output format (default: %(default)s)"
    )
    options.add_argument(
        "--weights",
        action="store_true",
        help="add the mean, standard deviation, range and histogram of every tensor (default: off)",
    )
    options.add_argument("--values", metavar="NAME", help="print all values of one tensor instead of the summary")
    return options


def run(arguments: list[str]) -> int:
    args, trainer_arguments = parser().parse_known_args(arguments)
    console = Console(soft_wrap=True)
    trained = open_model(args.checkpoint, trainer_arguments, args.classes)
    if args.values:
        torch.set_printoptions(threshold=sys.maxsize, linewidth=120)
        print(values_of(trained, args.values))
        return DONE
    operators = profile_operators(trained.model, trained.config.data.resolution)
    if args.format == "json":
        print(as_json(trained, operators, args.weights))
    elif args.format == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows(map(row, operators))
    else:
        print_summary(trained, operators, console)
    if args.weights and args.format != "json":
        print_weights(trained, console)
    return DONE


def main(argv: list[str] | None = None) -> int:
    return run_command(run, argv, output_is_result=True)


if __name__ == "__main__":
    sys.exit(main())

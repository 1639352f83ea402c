"""The network's operators, what they cost, and the weights in them.

python -m regnet.summary --config configs/baseline.yaml                       fresh weights
python -m regnet.summary --checkpoint runs/baseline/checkpoints/best.pt       those of a run
    --format table|csv|json    --weights    --values body.0.layers.0.conv1_1x1.weight
"""

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from regnet.checkpoint.load_model import TrainedModel, load_trained_model, untrained_model
from regnet.errors import UsageError
from regnet.exit_codes import DONE, USAGE
from regnet.models.complexity import Operator, operators, sizes

_BARS = " ▁▂▃▄▅▆▇█"
_COLUMNS = ("index", "operator", "output_shape", "parameters", "multiply_adds", "activations")


def row(operator: Operator) -> tuple[Any, ...]:
    costs = (operator.parameters, operator.multiply_adds, operator.activations)
    return operator.index, operator.kind, operator.output_shape, *costs


def show(trained: TrainedModel, found: list[Operator], console: Console) -> None:
    """The table that people read, with totals and sizes."""
    table = Table(box=None)
    for column in _COLUMNS:
        table.add_column(column.replace("_", " "), justify="left" if column == "operator" else "right")
    for operator in found:
        cells = [f"{cell:,}" if isinstance(cell, int) else cell for cell in row(operator)]
        table.add_row(*cells)
    console.print(table)
    memory = sizes(found, trained.config.data.resolution)
    side = trained.config.data.resolution
    for line in (
        f"for one image of 3x{side}x{side}:",
        f"parameters        {sum(operator.parameters for operator in found):>13,}  {memory.parameters:9.2f} MB",
        f"multiply-adds     {sum(operator.multiply_adds for operator in found):>13,}",
        f"activations       {sum(operator.activations for operator in found):>13,}  of convolutions and classifier",
        f"input                            {memory.input:9.2f} MB",
        f"forward, backward                {memory.forward_backward:9.2f} MB",
        f"total                            {memory.total:9.2f} MB",
    ):
        console.print(line, highlight=False)


def histogram(values: Tensor, bins: int = 24) -> str:
    """How the values are spread between the smallest and the largest, one character a bin."""
    low, high = values.min().item(), values.max().item()
    if low == high:
        return _BARS[-1]
    counts = torch.histc(values.float().flatten(), bins, low, high)
    heights = (counts / counts.max() * (len(_BARS) - 1)).ceil().int()
    return "".join(_BARS[height] for height in heights.tolist())


def statistics(weights: Tensor) -> dict[str, float]:
    values = weights.double().flatten()
    spread = values.std(correction=0)
    return {"mean": values.mean().item(), "std": spread.item(), "min": values.min().item(), "max": values.max().item()}


def show_weights(trained: TrainedModel, console: Console) -> None:
    """Every tensor of weights, with its numbers in one line."""
    for name, weights in trained.model.state_dict().items():
        if not weights.is_floating_point():
            continue
        numbers = "  ".join(f"{what} {value: .4f}" for what, value in statistics(weights).items())
        shape = "x".join(map(str, weights.shape))
        console.print(f"{name}  {shape}", highlight=False, markup=False)
        console.print(f"    {numbers}  {histogram(weights)}", highlight=False, markup=False)


def values_of(trained: TrainedModel, name: str) -> Tensor:
    weights = trained.model.state_dict()
    if name not in weights:
        raise UsageError(f"--values {name}: no such weights; --weights lists them")
    return weights[name]


def as_json(trained: TrainedModel, found: list[Operator], weights: bool) -> str:
    told: dict[str, Any] = {
        "operators": [{**asdict(operator), "output_shape": operator.output_shape} for operator in found],
        "parameters": sum(operator.parameters for operator in found),
        "multiply_adds": sum(operator.multiply_adds for operator in found),
        "activations": sum(operator.activations for operator in found),
        "megabytes": asdict(sizes(found, trained.config.data.resolution)),
        "epochs": trained.epochs,
    }
    if weights:
        told["weights"] = {
            name: {"shape": list(tensor.shape), **statistics(tensor)}
            for name, tensor in trained.model.state_dict().items()
            if tensor.is_floating_point()
        }
    return json.dumps(told, indent=1)


def open_trained(checkpoint: Path | None, arguments: Sequence[str], classes: int) -> TrainedModel:
    if checkpoint is None:
        return untrained_model(arguments, classes)
    if arguments:
        raise UsageError(f"--checkpoint brings its own configuration; {arguments[0]} has no place beside it")
    return load_trained_model(checkpoint)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m regnet.summary", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, help="a run's; without it, the trainer's options say which network")
    parser.add_argument("--classes", type=int, default=100, help="of a fresh network (%(default)s)")
    parser.add_argument("--format", choices=("table", "csv", "json"), default="table")
    parser.add_argument("--weights", action="store_true", help="mean, deviation, bounds and histogram of all weights")
    parser.add_argument("--values", metavar="NAME", help="every number of these weights")
    args, rest = parser.parse_known_args(argv)
    console = Console(soft_wrap=True)
    try:
        trained = open_trained(args.checkpoint, rest, args.classes)
        if args.values:
            torch.set_printoptions(threshold=sys.maxsize, linewidth=120)
            print(values_of(trained, args.values))
            return DONE
        found = operators(trained.model, trained.config.data.resolution)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE
    if args.format == "json":
        print(as_json(trained, found, args.weights))
    elif args.format == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows(map(row, found))
    else:
        show(trained, found, console)
    if args.weights and args.format != "json":
        show_weights(trained, console)
    return DONE


if __name__ == "__main__":
    sys.exit(main())

"""Compares a run with the log of the baseline, the original one-GPU program.

python -m benchmarks.baseline_curves --run runs/baseline-0 --log FILE

The log is a CSV file with the columns epoch, lr, avg_loss_per_sample (mean batch loss divided by the batch size) and
test_accuracy_percent. Prints the epochs that both have in common and draws both sets of curves.
"""

import argparse
import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from rich.console import Console
from rich.table import Table

from benchmarks.command import Report, check_figure_path, check_output_paths, positive, run_benchmark
from benchmarks.epochs import EpochRows
from regnet.errors import UsageError
from regnet.report.figure import Figure, Palette
from regnet.runs.atomic_write import replace_file

COLUMNS = ("epoch", "lr", "avg_loss_per_sample", "test_accuracy_percent")


@dataclass(frozen=True)
class Epoch:
    """One epoch of the run or the log: learning rate, mean training loss per sample, validation accuracy (0 to 1)."""

    epoch: int
    lr: float
    loss: float
    accuracy: float


def read_log(path: Path, batch_size: int) -> list[Epoch]:
    """Raises UsageError for a file that is not such a table."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return [
                Epoch(int(epoch), float(lr), float(loss) * batch_size, float(percent) / 100)
                for epoch, lr, loss, percent in ([row[name] for name in COLUMNS] for row in csv.DictReader(file))
            ]
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise UsageError(f"{path}: not a CSV table of numbers with the columns {', '.join(COLUMNS)}") from error


def read_run(run: Path) -> list[Epoch]:
    names = ("epoch", "lr", "train_loss", "val_top1")
    rows = [[row[name] for name in names] for row in EpochRows(run).new()]
    return [Epoch(*row) for row in rows if None not in row]  # null: the loss was not finite


def draw(path: Path, name: str, ours: Sequence[Epoch], theirs: Sequence[Epoch]) -> Path:
    """Draws the loss on the left axis and the accuracy on the right axis; the log is dashed."""

    def draw_on(axes: Axes, palette: Palette) -> None:
        right = axes.twinx()
        for epochs, style in ((ours, "-"), (theirs, "--")):
            x = [epoch.epoch for epoch in epochs]
            axes.plot(x, [epoch.loss for epoch in epochs], style, color=palette.groups[0])
            right.plot(x, [100 * epoch.accuracy for epoch in epochs], style, color=palette.groups[1])
        axes.set_xlabel("epoch")
        axes.set_ylabel("training loss", color=palette.groups[0])
        right.set_ylabel("validation accuracy, %", color=palette.groups[1])
        right.grid(False)

    replace_file(path, Figure(path.stem, f"{name}; dashed: the baseline", 3.2, draw_on).png())
    return path


def compare(args: argparse.Namespace) -> Report:
    ours, theirs = read_run(args.run), read_log(args.log, args.log_batch_size)
    logged = {epoch.epoch: epoch for epoch in theirs}
    pairs = [(epoch, logged[epoch.epoch]) for epoch in ours if epoch.epoch in logged]
    if not pairs:
        raise UsageError(f"{args.run} and {args.log} have no epoch in common")
    # The log rounds learning rates to six decimals.
    same_rates = all(abs(one.lr - other.lr) <= 5.1e-7 for one, other in pairs)
    figure = draw(args.figure, args.run.name, [one for one, _ in pairs], theirs) if args.figure else None
    return {
        "run": str(args.run),
        "epochs": [{"ours": vars(one), "theirs": vars(other)} for one, other in pairs],
        "same_learning_rates": same_rates,
        "accuracy_difference": pairs[-1][0].accuracy - pairs[-1][1].accuracy,
        "figure": str(figure) if figure else None,
    }


def show(report: Report) -> None:
    table = Table()
    for heading in ("epoch", "lr", "log", "loss", "log", "accuracy", "log"):
        table.add_column(heading, justify="right")
    for pair in report["epochs"]:
        one, other = pair["ours"], pair["theirs"]
        cells = [str(one["epoch"])]
        for name, form in (("lr", ".6f"), ("loss", ".3f"), ("accuracy", ".2%")):
            cells += [format(side[name], form) for side in (one, other)]
        table.add_row(*cells)
    Console().print(table)
    rates = "equal" if report["same_learning_rates"] else "DIFFERENT"
    last, above = report["epochs"][-1]["ours"]["epoch"], 100 * report["accuracy_difference"]
    print(f"learning rates: {rates}; accuracy after epoch {last}: {above:+.2f} points relative to the log")
    if report["figure"]:
        print(f"figure: {report['figure']}")


def main(argv: list[str]) -> int:
    """Exit code: 0 success, 2 invalid usage or input."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.baseline_curves",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="directory of the run")
    parser.add_argument("--log", type=Path, required=True, metavar="FILE", help="log of the baseline")
    parser.add_argument(
        "--log-batch-size", type=positive, default=500, metavar="N", help="batch size of the log (default: %(default)s)"
    )
    parser.add_argument("--figure", type=Path, metavar="FILE.png", help="draw both sets of curves")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all values to this file")
    args = parser.parse_args(argv)

    def checked_compare() -> Report:
        check_output_paths(args, "json")
        check_figure_path(args)
        return compare(args)

    return run_benchmark(args, checked_compare, show)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

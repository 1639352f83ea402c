"""How close does a run come to another program's? python -m benchmarks.reference --run runs/seed-0 --log FILE

The log is a table (CSV) with the columns epoch, lr, avg_loss_per_sample (a batch's mean loss over its size) and
test_accuracy_percent. Prints the epochs that both have side by side, and draws the run's curves over the log's.
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

from benchmarks.command import Report, check_picture, check_places, positive, tell
from benchmarks.epochs import EpochRows
from regnet.errors import UsageError
from regnet.report.figure import Palette, Picture

COLUMNS = ("epoch", "lr", "avg_loss_per_sample", "test_accuracy_percent")


@dataclass(frozen=True)
class Epoch:
    """One line of either side: mean training loss of a sample, test accuracy from 0 to 1."""

    epoch: int
    lr: float
    loss: float
    accuracy: float


def read_log(path: Path, batch_size: int) -> list[Epoch]:
    """Raises UsageError for a file that is no such table."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return [
                Epoch(int(epoch), float(lr), float(loss) * batch_size, float(right) / 100)
                for epoch, lr, loss, right in ([row[name] for name in COLUMNS] for row in csv.DictReader(file))
            ]
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise UsageError(f"{path}: not a table of numbers with the columns {', '.join(COLUMNS)}") from error


def read_run(run: Path) -> list[Epoch]:
    names = ("epoch", "lr", "train_loss", "val_top1")
    rows = [[row[name] for name in names] for row in EpochRows(run).new()]
    return [Epoch(*row) for row in rows if None not in row]  # a loss that is no number is null


def draw(path: Path, name: str, ours: Sequence[Epoch], theirs: Sequence[Epoch]) -> Path:
    """One picture: loss on the left axis, accuracy on the right one, the log dashed."""

    def onto(axes: Axes, palette: Palette) -> None:
        right = axes.twinx()
        for epochs, style in ((ours, "-"), (theirs, "--")):
            x = [epoch.epoch for epoch in epochs]
            axes.plot(x, [epoch.loss for epoch in epochs], style, color=palette.groups[0])
            right.plot(x, [100 * epoch.accuracy for epoch in epochs], style, color=palette.groups[1])
        axes.set_xlabel("epoch")
        axes.set_ylabel("training loss", color=palette.groups[0])
        right.set_ylabel("test accuracy, %", color=palette.groups[1])
        right.grid(False)

    path.write_bytes(Picture(path.stem, f"{name}; dashed: the reference", 3.2, onto).png())
    return path


def compare(args: argparse.Namespace) -> Report:
    ours, theirs = read_run(args.run), read_log(args.log, args.log_batch_size)
    logged = {epoch.epoch: epoch for epoch in theirs}
    pairs = [(epoch, logged[epoch.epoch]) for epoch in ours if epoch.epoch in logged]
    if not pairs:
        raise UsageError(f"{args.run}: no epoch that {args.log} has too")
    # The log has six decimals of a rate.
    same_rates = all(abs(one.lr - other.lr) <= 5.1e-7 for one, other in pairs)
    picture = draw(args.picture, args.run.name, [one for one, _ in pairs], theirs) if args.picture else None
    return {
        "run": str(args.run),
        "epochs": [{"ours": vars(one), "theirs": vars(other)} for one, other in pairs],
        "same_learning_rates": same_rates,
        "accuracy_above_by": pairs[-1][0].accuracy - pairs[-1][1].accuracy,
        "picture": str(picture) if picture else None,
    }


def show(report: Report) -> None:
    table = Table()
    for heading in ("epoch", "rate", "the log's", "loss", "the log's", "accuracy", "the log's"):
        table.add_column(heading, justify="right")
    for pair in report["epochs"]:
        one, other = pair["ours"], pair["theirs"]
        cells = [str(one["epoch"])]
        for name, form in (("lr", ".6f"), ("loss", ".3f"), ("accuracy", ".2%")):
            cells += [format(side[name], form) for side in (one, other)]
        table.add_row(*cells)
    Console().print(table)
    rates = "the same" if report["same_learning_rates"] else "NOT the same"
    last, above = report["epochs"][-1]["ours"]["epoch"], 100 * report["accuracy_above_by"]
    print(f"learning rates: {rates}; accuracy after epoch {last}: {above:+.2f} points from the log's")
    if report["picture"]:
        print(f"drawn: {report['picture']}")


def main(argv: list[str]) -> int:
    """Exit status 0 done, 2 wrong usage or input."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reference",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="a run's directory")
    parser.add_argument("--log", type=Path, required=True, metavar="FILE", help="the other program's table")
    parser.add_argument("--log-batch-size", type=positive, default=500, metavar="N", help="(%(default)s)")
    parser.add_argument("--picture", type=Path, metavar="FILE.png")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to this file too")
    args = parser.parse_args(argv)

    def checked() -> Report:
        check_places(args, "json")
        check_picture(args)
        return compare(args)

    return tell(args, checked, show)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

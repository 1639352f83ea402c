"""Write a self-contained HTML report of one run, or of several runs for comparison.

examples:
  python -m regnet.report runs/baseline
  python -m regnet.report runs/a-0 runs/a-1 runs/b --out comparison
  python -m regnet.report runs/* --png

Writes index.html. Runs that differ only in their seed are combined into mean and standard deviation. The runs may still
be training. Files and directories that are not runs are skipped, and so are runs that cannot be read.
"""

from commandline.startup import before_imports

if __name__ == "__main__":
    before_imports()

import argparse
import sys

from commandline.arguments import ArgumentParser
from commandline.command import run_command
from commandline.exit_codes import DONE
from commandline.paths import path_argument, path_option
from regnet.report import REPORT
from regnet.report.html_report import write_report
from regnet.report.run_data import read_runs


def parser() -> argparse.ArgumentParser:
    """The command line of python -m regnet.report."""
    options = ArgumentParser(
        prog="python -m regnet.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("runs", type=path_argument, nargs="+", metavar="RUN", help="directory of a run")
    options.add_argument(
        "--out",
        type=path_option,
        metavar="DIR",
        help=f"output directory (default: RUN/{REPORT} for one run, {REPORT}/ in the parent directory for several)",
    )
    options.add_argument("--png", action="store_true", help="also write the figures as PNG files (default: HTML only)")
    return options


def run(args: argparse.Namespace) -> int:
    runs, skipped = read_runs(args.runs)
    for line in skipped:
        print(line, file=sys.stderr)
    parent = runs[0].directory if len(runs) == 1 else runs[0].directory.absolute().parent
    print(write_report(runs, args.out or parent / REPORT, args.png))
    return DONE


def main(argv: list[str] | None = None) -> int:
    return run_command(lambda arguments: run(parser().parse_args(arguments)), argv)


if __name__ == "__main__":
    sys.exit(main())

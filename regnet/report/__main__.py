"""How one run went, or several beside one another, as one page that needs nothing else.

python -m regnet.report runs/NAME [runs/OTHER ...] [--out DIR]

Writes index.html and its pictures as PNG files into the run's own report/, or that beside several runs; also while
they train.
"""

import argparse
import sys
from pathlib import Path

from regnet.errors import UsageError
from regnet.exit_codes import DONE, USAGE
from regnet.report import REPORT
from regnet.report.page import write


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m regnet.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="directory of a run")
    parser.add_argument("--out", type=Path, help="directory for the page (report/ of the run, or beside several)")
    args = parser.parse_args(argv)
    place = args.runs[0] if len(args.runs) == 1 else args.runs[0].absolute().parent
    try:
        print(write(args.runs, args.out or place / REPORT))
    except (UsageError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE
    return DONE


if __name__ == "__main__":
    sys.exit(main())

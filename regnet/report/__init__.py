"""HTML reports of runs: python -m regnet.report."""

from pathlib import Path

from regnet.report.matplotlib_cache import matplotlib_cache
from regnet.runs.files import RESULT

REPORT, INDEX = "report", "index.html"  # subdirectory of a run, and its page


def lacks_report(run: Path) -> bool:
    """Whether there is no report of a finished run's result, as its process was killed before it had written one."""
    index, result = run / REPORT / INDEX, run / RESULT
    return not index.exists() or index.stat().st_mtime < result.stat().st_mtime


def write_run_report(run: str | Path) -> None:
    """Writes the report of a finished run into its directory, and prints its path or why there is none."""
    try:
        with matplotlib_cache():
            from regnet.report.html_report import write_report  # takes a second; runs start without it
            from regnet.report.run_data import read_run_data

            print(f"report: {write_report([read_run_data(Path(run))], Path(run) / REPORT)}", flush=True)
    except Exception as error:  # noqa: BLE001  # from any plotting library, importing it included; the run itself has succeeded
        print(
            f"the report could not be written ({type(error).__name__}: {error}); "
            f"to try again: python -m regnet.report {run}",
            flush=True,
        )

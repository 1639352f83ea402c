"""HTML reports of runs: python -m regnet.report."""

from pathlib import Path

from regnet.report.matplotlib_cache import matplotlib_cache

REPORT = "report"  # subdirectory of a run


def write_run_report(run: str | Path) -> None:
    """Writes the report of a finished run into its directory, and prints its path or why there is none."""
    try:
        with matplotlib_cache():
            from regnet.report.html_report import write_report  # takes a second; runs start without it

            print(f"report: {write_report([Path(run)], Path(run) / REPORT)}", flush=True)
    except Exception as error:  # noqa: BLE001  # from any plotting library, importing it included; the run itself has succeeded
        print(
            f"the report could not be written ({type(error).__name__}: {error}); "
            f"to try again: python -m regnet.report {run}",
            flush=True,
        )

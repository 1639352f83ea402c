"""How runs went, as one page: python -m regnet.report."""

from pathlib import Path


def report_on(run: Path) -> None:
    """Makes the page of a run that is done, and says where it is, or why there is none."""
    from regnet.report.page import write  # what draws takes a second to import, and a run begins without it

    try:
        print(f"the run as a page: {write([run], run / REPORT)}", flush=True)
    except Exception as error:  # noqa: BLE001  # of any library that draws; the run is done, with a page or without
        print(f"no page was made ({type(error).__name__}: {error}); python -m regnet.report {run}", flush=True)


REPORT = "report"

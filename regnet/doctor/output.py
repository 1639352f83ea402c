"""Prints findings, as a table or as JSON."""

import socket
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from regnet.doctor.findings import Finding, Severity, any_failed, join_hosts
from regnet.runs.json_format import format_json

LOG_WIDTH = 80  # columns, if the output is not a terminal
_STYLES = {Severity.ok: "green", Severity.warn: "yellow", Severity.fail: "bold red"}


def print_findings(findings: Sequence[Finding], seconds: float, as_json: bool) -> None:
    """Prints to standard output.

    Args:
        seconds: duration of the checks.
    """
    if as_json:
        print(format_json(to_dict(findings, seconds)), flush=True)
    else:
        print_table(findings, seconds)


def to_dict(findings: Sequence[Finding], seconds: float) -> dict[str, Any]:
    """The output of --json."""
    return {
        "host": socket.gethostname(),
        "failed": any_failed(findings),
        "seconds": round(seconds, 3),
        "findings": [asdict(finding) for finding in findings],
    }


def print_table(findings: Sequence[Finding], seconds: float) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=LOG_WIDTH)
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")  # paths may be longer than the column
    for finding in findings:
        style = _STYLES[finding.severity]
        text = Text(f"{join_hosts(finding.hosts)}: " if finding.hosts else "", style="bold")
        text.append(finding.message, style="not bold")
        if finding.fix:
            text.append(f"\nfix: {finding.fix}", style=f"not bold {style}")
        table.add_row(Text(finding.severity, style=style), finding.check, text)
    counts = Counter(finding.severity for finding in findings)
    verdict = "A run would fail" if any_failed(findings) else "A run can start"
    summary = ", ".join(f"{counts[severity]} {severity}" for severity in Severity)
    with console.capture() as printed:
        console.print(table)
        console.print(f"{verdict}: {summary} ({seconds:.1f} s)", style="bold", markup=False)
    print("\n".join(line.rstrip(" ") for line in printed.get().splitlines()), flush=True)  # rich pads the lines

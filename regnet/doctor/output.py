"""How findings are told: a table for people, an object for machines."""

import json
import socket
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from regnet.doctor.findings import Finding, Status, any_stops, name_hosts

LOG_WIDTH = 80  # columns, where no terminal says otherwise
_STYLES = {Status.ok: "green", Status.note: "yellow", Status.stops: "bold red"}


def tell(findings: Sequence[Finding], seconds: float, as_json: bool) -> None:
    """Prints the findings on standard output."""
    if as_json:
        print(json.dumps(as_object(findings, seconds), indent=1), flush=True)
    else:
        print_table(findings, seconds)


def as_object(findings: Sequence[Finding], seconds: float) -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "stops": any_stops(findings),
        "seconds": round(seconds, 3),
        "findings": [asdict(found) for found in findings],
    }


def print_table(findings: Sequence[Finding], seconds: float) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=LOG_WIDTH)
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")  # a path may be longer than the column
    for found in findings:
        style = _STYLES[found.status]
        saw = Text(f"{name_hosts(found.hosts)}: " if found.hosts else "", style="bold")
        saw.append(found.saw, style="not bold")
        if found.next:
            saw.append(f"\nnext: {found.next}", style=f"not bold {style}")
        table.add_row(Text(found.status, style=style), found.check, saw)
    counts = Counter(found.status for found in findings)
    verdict = "something would stop a run" if any_stops(findings) else "nothing would stop a run"
    told = ", ".join(f"{counts[status]} {status}" for status in Status)
    with console.capture() as printed:
        console.print(table)
        console.print(f"{verdict}: {told}; {seconds:.1f} s", style="bold", markup=False)
    print("\n".join(line.rstrip(" ") for line in printed.get().splitlines()), flush=True)  # rich fills lines up

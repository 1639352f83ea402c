"""Findings: the results of the checks, and how those of several nodes are merged.

Imports the standard library only, so that an incomplete installation can be reported.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

MAX_HOSTS = 3  # named per finding


class Severity(StrEnum):
    ok = "ok"
    warn = "WARN"  # a run can start
    fail = "FAIL"  # a run would not start, or would fail soon


@dataclass(frozen=True)
class Finding:
    """The result of a check.

    Attributes:
        check: name of the check.
        message: what was found.
        fix: what to do about it; empty if the severity is ok.
        measured: what was found as numbers: bytes, seconds, bytes_per_second, ...
        hosts: nodes that it is about; empty for all nodes.
    """

    check: str
    severity: Severity
    message: str
    fix: str = ""
    measured: dict[str, float] = field(default_factory=dict)
    hosts: tuple[str, ...] = ()


def ok(check: str, message: str, **measured: float) -> Finding:
    return Finding(check, Severity.ok, message, measured=measured)


def warn(check: str, message: str, fix: str, **measured: float) -> Finding:
    return Finding(check, Severity.warn, message, fix, measured)


def fail(check: str, message: str, fix: str, **measured: float) -> Finding:
    return Finding(check, Severity.fail, " ".join(message.split()), fix, measured)


def guarded(name: str, check: Callable[[], list[Finding]], fix: str, *expected: type[Exception]) -> list[Finding]:
    """The findings of a check; an expected exception becomes a FAIL. Other exceptions are bugs and propagate."""
    try:
        return check()
    except expected as error:
        return [fail(name, str(error) or type(error).__name__, fix)]


def merge(findings_by_host: Sequence[tuple[str, Sequence[Finding]]]) -> list[Finding]:
    """The findings of all nodes, without duplicates. Findings that not all nodes share name their nodes."""
    all_hosts = {host for host, _ in findings_by_host}
    merged: dict[str, dict[tuple[str, str, str], tuple[Finding, list[str]]]] = {}
    for host, findings in findings_by_host:
        for finding in findings:
            same_check = merged.setdefault(finding.check, {})
            key = (finding.severity, finding.message, finding.fix)
            _, hosts = same_check.setdefault(key, (finding, []))
            if host not in hosts:
                hosts.append(host)
    return [
        finding if set(hosts) == all_hosts else Finding(**{**vars(finding), "hosts": tuple(hosts)})
        for same_check in merged.values()
        for finding, hosts in same_check.values()
    ]


def join_hosts(hosts: Sequence[str], limit: int = MAX_HOSTS) -> str:
    more = len(hosts) - limit
    return ", ".join(hosts[:limit]) + (f" and {more} more" if more > 0 else "")


def any_failed(findings: Iterable[Finding]) -> bool:
    return any(finding.severity is Severity.fail for finding in findings)


def format_bytes(count: float) -> str:
    """12 kB, 3.4 GB: at least two significant digits."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if count >= 10 or unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def format_seconds(seconds: float) -> str:
    for scale, unit in ((1e6, "us"), (1e3, "ms")):
        if seconds * scale < 1000:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds:.1f} s"


def plural(count: int, singular: str, plural_form: str = "") -> str:
    return f"{count:,} {singular if count == 1 else plural_form or singular + 's'}"

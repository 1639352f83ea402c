"""What a check found, and how findings of several machines become one list. Needs nothing but Python."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

HOSTS_NAMED = 3  # of those that share a finding


class Status(StrEnum):
    ok = "ok"
    note = "note"  # worth knowing; a run starts all the same
    stops = "stops"  # a run would not start, or not get far


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: its name.
        saw: what was seen, for people.
        next: what to do about it, where it is not fine.
        measured: what was seen in numbers: bytes, seconds, bytes_per_second, ...
        hosts: that it is about; empty if it is about all of them.
    """

    check: str
    status: Status
    saw: str
    next: str = ""
    measured: dict[str, float] = field(default_factory=dict)
    hosts: tuple[str, ...] = ()


def ok(check: str, saw: str, **measured: float) -> Finding:
    return Finding(check, Status.ok, saw, measured=measured)


def note(check: str, saw: str, next_step: str, **measured: float) -> Finding:
    return Finding(check, Status.note, saw, next_step, measured)


def stops(check: str, saw: str, next_step: str, **measured: float) -> Finding:
    return Finding(check, Status.stops, " ".join(saw.split()), next_step, measured)


def guarded(name: str, check: Callable[[], list[Finding]], next_step: str, *expected: type[Exception]) -> list[Finding]:
    """The check's findings; an error of an expected kind is one of them. Any other is a defect of the doctor."""
    try:
        return check()
    except expected as error:
        return [stops(name, str(error) or type(error).__name__, next_step)]


def merge(of_hosts: Sequence[tuple[str, Sequence[Finding]]]) -> list[Finding]:
    """The findings of several machines, each once; where machines differ, with the hosts that it is about."""
    everywhere = {host for host, _ in of_hosts}
    seen: dict[str, dict[tuple[str, str, str], tuple[Finding, list[str]]]] = {}
    for host, findings in of_hosts:
        for found in findings:
            alike = seen.setdefault(found.check, {})
            _, hosts = alike.setdefault((found.status, found.saw, found.next), (found, []))
            if host not in hosts:
                hosts.append(host)
    return [
        found if set(hosts) == everywhere else Finding(**{**vars(found), "hosts": tuple(hosts)})
        for alike in seen.values()
        for found, hosts in alike.values()
    ]


def name_hosts(hosts: Sequence[str]) -> str:
    more = len(hosts) - HOSTS_NAMED
    return ", ".join(hosts[:HOSTS_NAMED]) + (f" and {more} more" if more > 0 else "")


def any_stops(findings: Iterable[Finding]) -> bool:
    return any(found.status is Status.stops for found in findings)


def in_bytes(count: float) -> str:
    """12 kB, 3.4 GB: two digits at least, which is all that matters to a person."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if count >= 10 or unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def in_seconds(seconds: float) -> str:
    for scale, unit in ((1e6, "us"), (1e3, "ms")):
        if seconds * scale < 1000:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds:.1f} s"


def plural(count: int, one: str, more: str = "") -> str:
    return f"{count:,} {one if count == 1 else more or one + 's'}"

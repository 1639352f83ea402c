"""Analyses the measurements: scaling, model fit, comparison of both, predictions. Pure functions."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from statistics import median
from typing import Any

from benchmarks.command import Report
from benchmarks.scaling.fit import fit_compute, fit_link
from benchmarks.scaling.model import MIB, Cluster, Compute, Exchange, Link, efficiency, ring, step
from benchmarks.scaling.options import powers
from benchmarks.scaling.protocol import Key
from benchmarks.timing import Spread
from regnet.distributed.gradients import needs_rank_order, uses_one_bucket

Rounds = dict[int, list[Mapping[Key, float]]]  # number of processes -> for each round, seconds of each measurement
SHOWN = 4  # columns in the table of variants


def analyse(rounds: Rounds, setting: Report, cluster: Mapping[str, Any]) -> Report:
    """The results that are added to the `setting`; all times are in seconds.

    Args:
        cluster: options of the predicted cluster, see `links_of`; `up_to`, its largest number of processes.
    """
    batch, each = setting["batch_size"], setting["batch_size"] // setting["processes"][-1]
    compute = fit_compute([(size, seconds) for (_, size), seconds in medians(rounds[1], "step").items()])
    measured = measured_link(rounds)
    links = links_of(measured, cluster)
    counts = powers(cluster["up_to"]) if links is not None else []
    return {
        "strong": [scaled(rounds, setting, count, batch // count, batch) for count in rounds],
        "weak": [scaled(rounds, setting, count, each, each) for count in rounds],
        "compute": asdict(compute),
        "measured_link": None if measured is None else asdict(measured),
        "messages": [] if measured is None else compare_messages(rounds, measured),
        "check": [] if measured is None else compare_steps(rounds, setting, compute, measured),
        "links": None if links is None else asdict(links),
        "cluster": [] if links is None else [predict(setting, count, each, compute, links) for count in counts],
        "variants": [] if links is None else variants(setting, counts, compute.seconds(each), links),
        "launches": {
            str(count): [[[*key, seconds] for key, seconds in measured.items()] for measured in launches]
            for count, launches in rounds.items()
        },
    }


def exchange_of(setting: Report, count: int) -> Exchange:
    """The exchange of the trainer on `count` processes."""
    gradients, kind = setting["gradient_bytes"], setting["device_type"]
    if uses_one_bucket(gradients // 4):
        return Exchange(gradients, bucket=None, overlaps=False)
    in_rank_order = needs_rank_order(count, kind, setting["deterministic"])
    return Exchange(gradients, in_rank_order=in_rank_order, overlaps=kind != "cpu")


def medians(launches: Sequence[Mapping[Key, float]], kind: str) -> dict[Key, float]:
    return {key: median(measured[key] for measured in launches) for key in launches[0] if key[0] == kind}


def scaled(rounds: Rounds, setting: Report, count: int, images: int, single: int) -> dict[str, Any]:
    """A row of the table: `count` processes with `images` images each, relative to one process with `single` images."""
    launches = rounds[count]
    steps = [measured["step", images] for measured in launches]
    single_steps = [measured["step", single] for measured in rounds[1]]
    row: dict[str, Any] = {
        "processes": count,
        "images": images,
        "step": asdict(Spread.of(steps)),
        "rate": asdict(Spread.of([count * images / seconds for seconds in steps])),
        "efficiency": asdict(
            Spread.of(
                [
                    efficiency(count * images / seconds, single / single_seconds, count, setting["shared"])
                    for seconds, single_seconds in zip(steps, single_steps, strict=True)
                ]
            )
        ),
    }
    if count > 1:
        computes = [measured["compute", images] for measured in launches]
        row["compute"] = asdict(Spread.of(computes))
        row["exposed"] = asdict(Spread.of([a - b for a, b in zip(steps, computes, strict=True)]))
        row["alone"] = asdict(Spread.of([measured["gradients", setting["gradient_bytes"]] for measured in launches]))
    return row


def measured_link(rounds: Rounds) -> Link | None:
    """The link fitted to the all-reduces; None if there was only one process."""
    samples = [
        (size, count, seconds)
        for count, launches in rounds.items()
        for (_, size), seconds in medians(launches, "message").items()
    ]
    return fit_link(samples) if samples else None


def links_of(measured: Link | None, cluster: Mapping[str, Any]) -> Cluster | None:
    """The predicted cluster's links; None if a value is neither measured nor given.

    Args:
        cluster: latency (microseconds) and bandwidth (1e9 bytes/s) inside a node, None for the measured ones;
            network_latency and network_bandwidth between nodes, None for those inside a node; processes per_node, None
            for a single node.
    """
    local = overridden(measured, cluster["latency"], cluster["bandwidth"])
    if local is None or cluster["per_node"] is None:
        return None if local is None else Cluster(local)
    network = overridden(local, cluster["network_latency"], cluster["network_bandwidth"])
    return Cluster(local, network, cluster["per_node"])


def overridden(link: Link | None, latency: float | None, bandwidth: float | None) -> Link | None:
    """A link with the given latency (microseconds) and bandwidth (1e9 bytes/s), where they are not None."""
    if link is None and None in (latency, bandwidth):
        return None
    base = link or Link(0.0, 0.0)
    return Link(
        base.latency if latency is None else latency / 1e6,
        base.per_byte if bandwidth is None else 1 / (bandwidth * 1e9),
    )


def compare_messages(rounds: Rounds, link: Link) -> list[dict[str, Any]]:
    return [
        {"processes": count, "bytes": size, "measured": seconds, "predicted": ring(size, count, Cluster(link))}
        for count, launches in rounds.items()
        for (_, size), seconds in medians(launches, "message").items()
    ]


def compare_steps(rounds: Rounds, setting: Report, compute: Compute, link: Link) -> list[dict[str, Any]]:
    """Rows that compare predictions with measurements. Shared cores together compute the images of all processes."""
    rows = []
    for count, launches in rounds.items():
        for (_, images), measured in medians(launches, "step").items():
            computes = compute.seconds(images * count if setting["shared"] else images)
            predicted = step(computes, count, exchange_of(setting, count), Cluster(link))
            own_compute = measured if count == 1 else medians(launches, "compute")["compute", images]
            rows.append(
                {
                    "processes": count,
                    "images": images,
                    "compute": {"measured": own_compute, "predicted": computes},
                    "exposed": {"measured": measured - own_compute, "predicted": predicted - computes},
                    "step": {"measured": measured, "predicted": predicted},
                    "error": predicted / measured - 1,
                }
            )
    return rows


def predict(setting: Report, count: int, each: int, compute: Compute, links: Cluster) -> dict[str, Any]:
    """A row of the cluster: weak scaling with `each` images per process, strong scaling with at least 2 per process."""

    def at(images: float, single: float) -> dict[str, float]:
        seconds = step(compute.seconds(images), count, exchange_of(setting, count), links)
        rate = images * count / seconds
        single_rate = single / compute.seconds(single)
        return {"step": seconds, "rate": rate, "efficiency": efficiency(rate, single_rate, count, shared=False)}

    batch = setting["batch_size"]
    strong = at(batch / count, batch) if batch >= 2 * count else None
    return {"processes": count, "weak": at(each, each), "strong": strong}


def variants(setting: Report, counts: Sequence[int], compute: float, links: Cluster) -> list[dict[str, Any]]:
    """Other settings of the exchange and their weak-scaling efficiency on some numbers of processes."""
    shown = counts[1:][:: -max(1, (len(counts) - 1) // SHOWN)][::-1]
    usual, overlaps = exchange_of(setting, counts[-1]), setting["device_type"] != "cpu"
    changes: dict[str, dict[str, Any]] = {
        "one bucket" if usual.bucket is None else "buckets of 25 MiB": {},
        "buckets of 1 MiB": {"bucket": MIB, "overlaps": overlaps},
        "buckets of 100 MiB": {"bucket": 100 * MIB, "overlaps": overlaps},
        "gradients in bf16": {"half": True},
        "gradient accumulation of 4": {"accumulate": 4},
    }
    if usual.in_rank_order:
        changes["a ring, not rank order"] = {"in_rank_order": False}

    def efficiency_with(count: int, change: dict[str, Any]) -> float:
        exchange = replace(exchange_of(setting, count), **change)
        return exchange.accumulate * compute / step(compute, count, exchange, links)

    return [
        {"name": name, "efficiency": {str(count): efficiency_with(count, change) for count in shown}}
        for name, change in changes.items()
    ]

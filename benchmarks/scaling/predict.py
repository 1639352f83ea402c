"""Predicts training on many GPUs from the step time of one. Nothing is measured.

python -m benchmarks.scaling.predict --step-ms MS --batch-size N [--gpus 8,32,64,256]

The defaults of the links are those of nodes with eight H100 GPUs and an InfiniBand adapter for each: bandwidths from
NVIDIA's data sheets (450 GB/s by NVLink 4 in each direction, eight adapters of 400 Gbit/s per node), of which NCCL's
protocol LL128 uses 120 of 128 bytes; latencies from the model by which NCCL chooses its algorithm (src/graph/tuning.cc,
LL128). The latency between hosts, which carries the exchange of flags and the gathering of checkpoints over TCP, and
the duration of an empty step are assumptions without a source.

  weak        --batch-size images per GPU and step
  strong      --batch-size images per step, over all GPUs
  all-reduce  of the gradients, after the backward pass
  flags       exchange of flags per step, hidden unless it takes longer than the step
  epoch       further communication of an epoch: statistics of BatchNorm, metrics and two checkpoints

Efficiency is images per second divided by the number of GPUs times that of one GPU.
"""

import argparse
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from rich.console import Console

from benchmarks import command
from benchmarks.scaling.model import (
    ASSUMPTIONS,
    Cluster,
    Compute,
    Exchange,
    Link,
    all_reduce,
    efficiency,
    flag_exchange,
    gather,
    step,
)
from benchmarks.scaling.show import in_images, in_ms, new_table
from regnet.errors import UsageError

# Bytes per epoch and rank, of the network of configs/baseline.yaml: all statistics of BatchNorm; what each rank adds to
# a checkpoint (states of its random generators, training metrics); the evaluation, with a confusion matrix of int64.
STATISTICS, OF_A_RANK, EVALUATION = 100_000, 8_000, 8 * 100 * 100


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling.predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )

    def number(name: str, default: float | None, metavar: str, text: str) -> None:
        required = {"required": True} if default is None else {"default": default}
        shown = "" if default is None else " (default: %(default)s)"
        result.add_argument(name, type=float, metavar=metavar, help=f"{text}{shown}", **required)

    number("--step-ms", None, "MS", "duration of a step of one GPU")
    result.add_argument(
        "--batch-size", type=command.positive, required=True, metavar="N", help="images of that step, see above"
    )
    number("--empty-step-ms", 2.5, "MS", "part of --step-ms that does not depend on the number of images")
    result.add_argument(
        "--gpus", type=several, default="8,32,64,256", metavar="N,...", help="numbers of GPUs (default: %(default)s)"
    )
    result.add_argument("--per-node", type=command.positive, default=8, metavar="N", help="GPUs of a node (default: 8)")
    number("--gradients", 9.1, "MB", "size of the gradients in 1e6 bytes")
    number("--latency", 1.9, "US", "latency inside a node in microseconds")
    number("--bandwidth", 422, "GB/S", "bandwidth inside a node in 1e9 bytes/s")
    number("--network-latency", 8.5, "US", "latency between nodes in microseconds")
    number("--network-bandwidth", 375, "GB/S", "bandwidth of all network adapters of a node in 1e9 bytes/s")
    number("--start", 10, "US", "time until the first message of a collective of NCCL in microseconds")
    number("--host-latency", 30, "US", "latency between hosts in microseconds")
    number("--host-bandwidth", 1, "GB/S", "bandwidth between hosts in 1e9 bytes/s")
    return result


def several(text: str) -> list[int]:
    return [command.positive(number) for number in text.split(",")]


class Setup(NamedTuple):
    """What is predicted from.

    Attributes:
        batch: images per step of one GPU.
        compute: duration of its step.
        exchange: of the gradients.
        cluster: links between GPUs.
        host: links between the hosts of all processes.
    """

    batch: int
    compute: Compute
    exchange: Exchange
    cluster: Cluster
    host: Cluster


def setup_of(options: Mapping[str, Any]) -> Setup:
    def link(prefix: str) -> Link:
        return Link(options[f"{prefix}latency"] / 1e6, 1 / (options[f"{prefix}bandwidth"] * 1e9))

    batch, fixed = options["batch_size"], options["empty_step_ms"] / 1000
    return Setup(
        batch,
        Compute(fixed, (options["step_ms"] / 1000 - fixed) / batch),
        Exchange(round(options["gradients"] * 1e6), bucket=None, overlaps=False),
        Cluster(link(""), link("network_"), options["per_node"], options["start"] / 1e6),
        Cluster(link("host_")),
    )


def predict(setup: Setup, gpus: int) -> dict[str, Any]:
    """A row of the tables; all times are in seconds. Strong scaling has at least two images per GPU."""
    return {
        "gpus": gpus,
        "all_reduce": setup.exchange.seconds(setup.exchange.gradients, gpus, setup.cluster),
        "weak": scaled(setup, gpus, setup.batch),
        "strong": scaled(setup, gpus, setup.batch / gpus) if setup.batch >= 2 * gpus else None,
        "epoch": epoch_communication(gpus, setup.cluster, setup.host),
    }


def scaled(setup: Setup, gpus: int, images: float) -> dict[str, float]:
    """Steps with so many images per GPU."""
    seconds = step(setup.compute.seconds(images), gpus, setup.exchange, setup.cluster)
    flags = flag_exchange(seconds, gpus, setup.host)
    images_per_second = images * gpus / max(seconds, flags)
    single = setup.batch / setup.compute.seconds(setup.batch)
    return {
        "step": max(seconds, flags),
        "flags": flags,
        "rate": images_per_second,
        "efficiency": efficiency(images_per_second, single, gpus, shared=False),
    }


def epoch_communication(gpus: int, cluster: Cluster, host: Cluster) -> float:
    """Seconds of the communication of an epoch that does not belong to a step.

    A gathered object is two all-gathers, the first of the sizes. A broadcast takes half an all-reduce.
    """

    def gathered(size: float) -> float:
        return gather(8, gpus, host) + gather(size, gpus, host)

    statistics = all_reduce(STATISTICS, gpus, cluster) / 2 + all_reduce(STATISTICS / 2, gpus, cluster) / 2
    metrics = 4 * all_reduce(EVALUATION, gpus, cluster) + all_reduce(EVALUATION, gpus, host) / 2
    checkpoints = 2 * (gathered(OF_A_RANK) + gathered(8))
    return statistics + metrics + checkpoints


def show(options: Mapping[str, Any]) -> None:
    setup, console = setup_of(options), Console(highlight=False)
    rows = [predict(setup, gpus) for gpus in options["gpus"]]
    console.print("PREDICTED, not measured.")
    console.print(
        f"one GPU: {options['batch_size']} images in {options['step_ms']:g} ms, of which "
        f"{options['empty_step_ms']:g} ms for any number; gradients of {options['gradients']:g} MB"
    )
    console.print(
        f"nodes of {options['per_node']} GPUs: {options['latency']:g} us, {options['bandwidth']:g} GB/s inside; "
        f"{options['network_latency']:g} us, {options['network_bandwidth']:g} GB/s between; a collective starts in "
        f"{options['start']:g} us"
    )
    console.print(f"hosts: {options['host_latency']:g} us, {options['host_bandwidth']:g} GB/s")
    for kind, text in (("weak", "images per GPU and step"), ("strong", "images per step over all GPUs")):
        console.print(f"{kind} scaling: {options['batch_size']} {text}; ms")
        result = new_table("GPUs", "all-reduce", "step", "flags", "epoch", "images/s", "eff.")
        for row in rows:
            values = row[kind]
            if values is None:
                continue
            times = (row["all_reduce"], values["step"], values["flags"], row["epoch"])
            result.add_row(
                str(row["gpus"]), *map(in_ms, times), in_images(values["rate"]), f"{values['efficiency']:.3f}"
            )
        console.print(result)
    console.print("Assumptions of the model:")
    for line in ASSUMPTIONS:
        console.print(f"- {line}")


def main(argv: list[str]) -> int:
    """Exit code: 0 success, 2 invalid usage."""
    options = vars(parser().parse_args(argv))
    try:
        check(options)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    show(options)
    return 0


def check(options: Mapping[str, Any]) -> None:
    """Raises UsageError for an impossible option."""
    for name, value in options.items():
        if isinstance(value, float) and not 0 < value < float("inf"):
            raise UsageError(f"--{name.replace('_', '-')} {value}: must be a positive number")
    if options["empty_step_ms"] > options["step_ms"]:
        raise UsageError(
            f"--empty-step-ms {options['empty_step_ms']:g}: must be at most --step-ms, got {options['step_ms']:g}"
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Predicts the duration of a step on any number of processes. Pure functions; `ASSUMPTIONS` lists their assumptions.

The ring all-reduce is that of Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of
workstations" (2009). The cost of a message, latency plus size over bandwidth, follows Thakur, Rabenseifner and Gropp,
"Optimization of collective communication operations in MPICH" (2005).
"""

from dataclasses import dataclass

MIB = 2**20
FIRST_BUCKET = MIB  # bytes: DistributedDataParallel's default, so that communication starts early
BACKWARD = 2 / 3  # fraction of a step's compute: two matrix products for each one of the forward pass

ASSUMPTIONS = (
    "An all-reduce is one ring through all processes, over equal links without other traffic: n bytes among p "
    "processes take 2(p-1) messages of n/p bytes, each of which takes latency + size / bandwidth.",
    "The compute time of a process is fixed + images x per image, on any number of processes; all are equally fast.",
    f"The backward pass takes {BACKWARD:.2f} of it, and gradients become ready at a constant rate in bytes; the "
    "optimiser's step is counted as part of the forward pass.",
    "Gradients are sent in buckets (the first of 1 MiB), one after another, each as soon as it is full.",
    "Gradients in bf16 have half the bytes, and the conversion takes no time.",
    "Gradient accumulation of 4 computes 4 batches of that size per exchange, so its step has 4 times as many images.",
    "Loading, evaluation, checkpoints and start-up are not included.",
)


@dataclass(frozen=True)
class Link:
    """A link from one process to the next.

    Attributes:
        latency: seconds of an empty message.
        per_byte: additional seconds per byte; the inverse of the bandwidth.
    """

    latency: float
    per_byte: float


@dataclass(frozen=True)
class Compute:
    """Duration of a step without communication, in seconds: a fixed part and a part per image."""

    fixed: float
    per_image: float

    def seconds(self, images: float) -> float:
        return self.fixed + images * self.per_image


@dataclass(frozen=True)
class Exchange:
    """How gradients are averaged.

    Attributes:
        gradients: bytes of all gradients in fp32.
        bucket: bytes of every bucket except the first.
        half: whether gradients are sent in bf16.
        accumulate: batches per exchange.
        in_rank_order: whether every process gathers all gradients and adds them in rank order.
        overlaps: whether communication overlaps with the backward pass without slowing it.
    """

    gradients: int
    bucket: int = 25 * MIB
    half: bool = False
    accumulate: int = 1
    in_rank_order: bool = False
    overlaps: bool = True

    def seconds(self, size: float, processes: int, link: Link) -> float:
        """Duration of the exchange of `size` bytes in fp32, without computation."""
        sent = size / 2 if self.half else size
        return (gather if self.in_rank_order else ring)(sent, processes, link)


def ring(size: float, processes: int, link: Link) -> float:
    """Duration of a ring all-reduce of `size` bytes."""
    others = processes - 1
    return 2 * others * (link.latency + size / processes * link.per_byte)


def gather(size: float, processes: int, link: Link) -> float:
    """Duration of an all-gather of `size` bytes per process."""
    return (processes - 1) * (link.latency + size * link.per_byte)


def buckets(size: int, bucket: int) -> list[int]:
    """Bytes of each bucket, in sending order."""
    sizes = [min(size, FIRST_BUCKET)] if size else []
    remaining = size - sum(sizes)
    sizes += [bucket] * (remaining // bucket)
    return [*sizes, remaining % bucket] if remaining % bucket else sizes


def step(compute: float, processes: int, exchange: Exchange, link: Link) -> float:
    """Seconds per optimiser step, if a batch takes `compute` seconds without communication."""
    sent, end = 0, 0.0
    for size in buckets(exchange.gradients, exchange.bucket):
        sent += size
        remaining_backward = BACKWARD * compute * (1 - sent / exchange.gradients) if exchange.overlaps else 0.0
        end = max(end, compute - remaining_backward) + exchange.seconds(size, processes, link)
    return (exchange.accumulate - 1) * compute + max(compute, end)


def efficiency(rate: float, single: float, processes: int, shared: bool) -> float:
    """Throughput divided by the ideal throughput, which follows from that of one process (`single`).

    On a CPU the processes share the cores that a single process uses alone (`shared`), so the ideal is the throughput
    of one process. Otherwise each process has its own GPU or machine, and the ideal grows with their number.
    """
    return rate / single if shared else rate / (processes * single)

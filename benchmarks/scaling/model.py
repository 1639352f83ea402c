"""How long a step takes on so many processes, foretold: pure functions. `ASSUMED` says in words what they suppose.

The ring is that of Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations" (2009);
what a message costs, latency and size over bandwidth, is the model of Thakur, Rabenseifner and Gropp, "Optimization of
collective communication operations in MPICH" (2005).
"""

from dataclasses import dataclass

MIB = 2**20
FIRST_BUCKET = MIB  # bytes: DistributedDataParallel's, so that the exchange begins early
BACKWARD = 2 / 3  # of a step's compute: two products for each one of the forward pass

ASSUMED = (
    "An all-reduce is one ring through all processes, all of whose links are alike, with nobody else on them: "
    "n bytes among p take 2(p-1) messages of n/p bytes, each latency + size / bandwidth.",
    "A process's compute is fixed + images x per image, on any number of processes; none is ever slower than another.",
    f"Backward is {BACKWARD:.2f} of it, and gradients become ready evenly in it by bytes, the optimiser's step being "
    "counted as part of the forward pass.",
    "Gradients go in buckets, the first of 1 MiB, one after another, each when it is full.",
    "In bf16 gradients have half the bytes, and converting them costs nothing.",
    "Accumulation of 4 takes 4 batches of that size for each exchange: its step is of 4 times as many images.",
    "Loading, evaluation, checkpoints and the time to start are left out.",
)


@dataclass(frozen=True)
class Link:
    """From each process to the next.

    Attributes:
        latency: seconds of a message without a byte.
        per_byte: seconds that each byte adds; the inverse of the bandwidth.
    """

    latency: float
    per_byte: float


@dataclass(frozen=True)
class Compute:
    """A step's time in seconds without any exchange: for itself, and for each image."""

    fixed: float
    per_image: float

    def seconds(self, images: float) -> float:
        return self.fixed + images * self.per_image


@dataclass(frozen=True)
class Exchange:
    """How gradients are averaged.

    Attributes:
        gradients: bytes, in fp32.
        bucket: bytes of every bucket but the first.
        half: sent in bf16.
        accumulate: batches for each exchange.
        in_rank_order: every process gathers the gradients of all, and adds them itself.
        overlaps: goes on beside the backward pass, without slowing it.
    """

    gradients: int
    bucket: int = 25 * MIB
    half: bool = False
    accumulate: int = 1
    in_rank_order: bool = False
    overlaps: bool = True

    def seconds(self, size: float, processes: int, link: Link) -> float:
        """Of `size` bytes in fp32, alone."""
        sent = size / 2 if self.half else size
        return (gather if self.in_rank_order else ring)(sent, processes, link)


def ring(size: float, processes: int, link: Link) -> float:
    """Seconds of an all-reduce of so many bytes."""
    others = processes - 1
    return 2 * others * (link.latency + size / processes * link.per_byte)


def gather(size: float, processes: int, link: Link) -> float:
    """Seconds in which every process gets the so many bytes of every other."""
    return (processes - 1) * (link.latency + size * link.per_byte)


def buckets(size: int, bucket: int) -> list[int]:
    """Bytes of each bucket, in the order in which they are sent."""
    sizes = [min(size, FIRST_BUCKET)] if size else []
    left = size - sum(sizes)
    sizes += [bucket] * (left // bucket)
    return [*sizes, left % bucket] if left % bucket else sizes


def step(compute: float, processes: int, exchange: Exchange, link: Link) -> float:
    """Seconds between two steps of the optimiser, where a batch takes `compute` seconds without any exchange."""
    sent, ended = 0, 0.0
    for size in buckets(exchange.gradients, exchange.bucket):
        sent += size
        still_backward = BACKWARD * compute * (1 - sent / exchange.gradients) if exchange.overlaps else 0.0
        ended = max(ended, compute - still_backward) + exchange.seconds(size, processes, link)
    return (exchange.accumulate - 1) * compute + max(compute, ended)


def efficiency(rate: float, single: float, processes: int, shared: bool) -> float:
    """What images a second are of the most that they could be, given those of one process.

    One process that computes on a CPU has all of the machine's cores, which several share (`shared`): the most is then
    what one reaches. Each process with a GPU, or a machine, of its own adds as much again.
    """
    return rate / single if shared else rate / (processes * single)

"""Predicts the duration of a step on any number of processes. Pure functions; `ASSUMPTIONS` lists their assumptions.

The ring all-reduce is that of Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of
workstations" (2009). The cost of a message, latency plus size over bandwidth, follows Thakur, Rabenseifner and Gropp,
"Optimization of collective communication operations in MPICH" (2005). Rings and trees through several nodes, and the
choice between them, follow the model by which NCCL chooses (src/graph/tuning.cc).
"""

from dataclasses import dataclass
from math import ceil, log2

from regnet.distributed.shared_flags import exchange_interval

MIB = 2**20
FIRST_BUCKET = MIB  # bytes: DistributedDataParallel's default, so that communication starts early
BACKWARD = 2 / 3  # fraction of a step's compute: two matrix products for each one of the forward pass

FLAGS = 24  # bytes that regnet.distributed.shared_flags exchanges

ASSUMPTIONS = (
    "An all-reduce is one ring through all processes, over links without other traffic: n bytes among p processes take "
    "2(p-1) messages of n/p bytes, each of which takes latency + size / bandwidth.",
    "Through several nodes, 2 messages for each node but one take the network's latency, the others that of a node's "
    "links, and the slowest link is the bandwidth. A tree is used if it is faster: 2 log2(nodes) messages through the "
    "network, 2 for each process but one of a node, and 2n bytes.",
    "The compute time of a process is fixed + images x per image, on any number of processes; all are equally fast.",
    f"The backward pass takes {BACKWARD:.2f} of it, and gradients become ready at a constant rate in bytes; the "
    "optimiser's step is counted as part of the forward pass.",
    "Gradients of up to 25 million parameters are sent after the backward pass, at once; others in buckets (the first "
    "of 1 MiB), one after another, each as soon as it is full.",
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
class Cluster:
    """Nodes of equally many processes. A single node of any size: `Cluster(link)`.

    Attributes:
        local: link between two processes of a node.
        network: link between two nodes, with the bandwidth of all their network adapters; None for a single node.
        per_node: processes of a node, if there is a network.
        start: seconds until the first message of a collective.
    """

    local: Link
    network: Link | None = None
    per_node: int = 1
    start: float = 0.0

    def nodes(self, processes: int) -> int:
        return 1 if self.network is None else ceil(processes / self.per_node)

    def ring_latency(self, processes: int) -> float:
        """Seconds of an empty message from the first process through all others."""
        nodes = self.nodes(processes)
        hops = (processes - nodes) * self.local.latency
        return hops if self.network is None else hops + (nodes - 1) * self.network.latency

    def tree_latency(self, processes: int) -> float:
        """Seconds of an empty message from the leaves of a tree to its root."""
        assert self.network is not None
        hops = (min(processes, self.per_node) - 1) * self.local.latency
        return hops + ceil(log2(self.nodes(processes))) * self.network.latency

    def per_byte(self, processes: int) -> float:
        """Seconds per byte of the slowest link."""
        links = [self.local] if self.network is None or self.nodes(processes) == 1 else [self.local, self.network]
        return max(link.per_byte for link in links)


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
        bucket: bytes of every bucket except the first; None for a single bucket.
        half: whether gradients are sent in bf16.
        accumulate: batches per exchange.
        in_rank_order: whether every process gathers all gradients and adds them in rank order.
        overlaps: whether communication overlaps with the backward pass without slowing it.
    """

    gradients: int
    bucket: int | None = 25 * MIB
    half: bool = False
    accumulate: int = 1
    in_rank_order: bool = False
    overlaps: bool = True

    def seconds(self, size: float, processes: int, cluster: Cluster) -> float:
        """Duration of the exchange of `size` bytes in fp32, without computation."""
        sent = size / 2 if self.half else size
        return (gather if self.in_rank_order else all_reduce)(sent, processes, cluster)


def all_reduce(size: float, processes: int, cluster: Cluster) -> float:
    """Duration of an all-reduce of `size` bytes, by a ring or, between several nodes, by a tree if that is faster."""
    if cluster.nodes(processes) == 1:
        return ring(size, processes, cluster)
    return min(ring(size, processes, cluster), tree(size, processes, cluster))


def ring(size: float, processes: int, cluster: Cluster) -> float:
    """Duration of a ring all-reduce of `size` bytes."""
    transfer = (processes - 1) / processes * size * cluster.per_byte(processes)
    return cluster.start + 2 * (cluster.ring_latency(processes) + transfer)


def tree(size: float, processes: int, cluster: Cluster) -> float:
    """Duration of an all-reduce of `size` bytes by a tree of nodes, up and down; processes of a node form a chain."""
    return cluster.start + 2 * (cluster.tree_latency(processes) + size * cluster.per_byte(processes))


def gather(size: float, processes: int, cluster: Cluster) -> float:
    """Duration of an all-gather of `size` bytes per process, by a ring."""
    transfer = (processes - 1) * size * cluster.per_byte(processes)
    return cluster.start + cluster.ring_latency(processes) + transfer


def flag_exchange(seconds: float, processes: int, host: Cluster) -> float:
    """Seconds per step of the exchange of flags, which steps of `seconds` hide if it takes no longer than they do.

    Args:
        host: links between the processes' hosts.
    """
    return ring(FLAGS, processes, host) / exchange_interval(int(seconds * 1e6))


def buckets(size: int, bucket: int | None) -> list[int]:
    """Bytes of each bucket, in sending order."""
    if bucket is None:
        return [size] if size else []
    sizes = [min(size, FIRST_BUCKET)] if size else []
    remaining = size - sum(sizes)
    sizes += [bucket] * (remaining // bucket)
    return [*sizes, remaining % bucket] if remaining % bucket else sizes


def step(compute: float, processes: int, exchange: Exchange, cluster: Cluster) -> float:
    """Seconds per optimiser step, if a batch takes `compute` seconds without communication."""
    sent, end = 0, 0.0
    for size in buckets(exchange.gradients, exchange.bucket) if processes > 1 else []:
        sent += size
        remaining_backward = BACKWARD * compute * (1 - sent / exchange.gradients) if exchange.overlaps else 0.0
        end = max(end, compute - remaining_backward) + exchange.seconds(size, processes, cluster)
    return (exchange.accumulate - 1) * compute + max(compute, end)


def efficiency(rate: float, single: float, processes: int, shared: bool) -> float:
    """Throughput divided by the ideal throughput, which follows from that of one process (`single`).

    On a CPU the processes share the cores that a single process uses alone (`shared`), so the ideal is the throughput
    of one process. Otherwise each process has its own GPU or machine, and the ideal grows with their number.
    """
    return rate / single if shared else rate / (processes * single)

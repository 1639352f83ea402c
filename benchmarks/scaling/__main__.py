"""How does training scale over processes? python -m benchmarks.scaling [--json FILE] [--picture FILE.png]

1, 2, 4, ... processes, each number under its own torchrun, in turns, several rounds, every other one in reverse.
Measured are the trainer's own steps (its network, DistributedDataParallel, precision, optimiser; at a rate of 0, so
that all are alike) on one batch of real images that stays on the device:

  strong      --batch-size images a step in all, each process an equal part
  weak        each process as many as the largest number of processes gives it in strong scaling

  step        the whole step, by the slowest rank's clock, read while the device is idle
  compute     the same step, but that every rank keeps its gradients to itself
  visible     the difference: what of the exchange no compute hides; below 0 where noise is larger than it
  alone       an all-reduce of as many bytes as the gradients have, beside nothing

On GPUs each process has one of its own: efficiency is images a second over those of one process, times the number of
processes. On a CPU the same cores are there for all: one process has all of them as threads of torch, n processes an
n-th each, and efficiency is images a second over those of one process. With weak scaling that one process has the
batch of one process. Ratios are taken round by round.

All-reduces of 4 KiB to --largest-message tell latency and bandwidth, steps of one process tell compute, and from both
a model foretells steps of larger clusters: what a ring costs, what of it the backward pass hides, and what other
buckets, gradients in bf16 and accumulation would change. It is checked against every step that was measured, and what
it supposes is told under its tables. --latency and --bandwidth are for a cluster whose links are not this machine's.

On a CPU the machine must be idle.
"""

import sys

from benchmarks.command import tell_and_draw
from benchmarks.launch import exit_when_signalled
from benchmarks.scaling.measure import measure
from benchmarks.scaling.options import parser
from benchmarks.scaling.picture import picture
from benchmarks.scaling.show import show


def main(argv: list[str]) -> int:
    """Exit status 0 done, 1 a launch failed, 2 wrong usage or input."""
    return tell_and_draw(parser(__doc__).parse_args(argv), measure, show, picture)


if __name__ == "__main__":
    exit_when_signalled()
    sys.exit(main(sys.argv[1:]))

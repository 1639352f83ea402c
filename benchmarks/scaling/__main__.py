"""Measures how training scales over processes, and predicts larger clusters.

python -m benchmarks.scaling [--json FILE] [--figure FILE.png]

Runs 1, 2, 4, ... processes under torchrun, alternately over several rounds, every other round in reverse order. The
trainer's own steps (model, DistributedDataParallel, precision, optimiser) are timed on one batch of real images that
stays on the device, with a learning rate of 0 so that all steps are equal:

  strong      strong scaling: --batch-size images per step, split evenly over the processes
  weak        weak scaling: a constant batch per process, that of strong scaling at the largest number of processes

  step        duration of the complete step on the slowest rank, read while the device is idle
  compute     duration of the same step without the gradient exchange (no_sync)
  exposed     the difference: communication that is not hidden by computation; noise can make it negative
  alone       duration of an all-reduce of the gradients' size without computation

Efficiency compares images per second with those of one process. On GPUs each process has its own GPU, so the
throughput of one process is multiplied by the number of processes. On a CPU all processes share the same cores: one
process has all of them as torch threads, each of n processes has 1/n of them, and nothing is multiplied. In weak
scaling the single process computes the batch of one process. Ratios are computed round by round.

All-reduces of 4 KiB to --largest-message give latency and bandwidth, and steps of one process give the compute time.
From both, a model predicts larger clusters: the cost of an all-reduce, the part of it that the backward pass hides,
and the effect of other bucket sizes, bf16 gradients and gradient accumulation. Predictions are compared with every
measured step, and the model's assumptions are printed below the tables. Use --latency and --bandwidth for a cluster
with other links than this machine's, and --per-node for one of several nodes. python -m benchmarks.scaling.predict
predicts GPUs from a step time alone, without measuring.

On a CPU the machine must be otherwise idle.
"""

import sys

from benchmarks.command import run_benchmark_with_figure
from benchmarks.launch import exit_when_signalled
from benchmarks.scaling.figure import figure
from benchmarks.scaling.measure import measure
from benchmarks.scaling.options import parser
from benchmarks.scaling.show import show


def main(argv: list[str]) -> int:
    """Exit code: 0 success, 1 a launch failed, 2 invalid usage or input."""
    return run_benchmark_with_figure(parser(__doc__).parse_args(argv), measure, show, figure)


if __name__ == "__main__":
    exit_when_signalled()
    sys.exit(main(sys.argv[1:]))

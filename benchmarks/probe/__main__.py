"""Compares the time of each layer of the network with the time that moving its bytes takes.

python -m benchmarks.probe [--resolution N] [--batch-size N] [--set train.precision=bf16] [--json FILE]

Layers with few channels per group do little arithmetic per byte: their lower limit is the time of reading their inputs
and writing their outputs once. Every time is printed with its ratio to that limit, at the bandwidth of a large copy
that is measured in the same run. Small tensors stay in the GPU's cache, so a ratio can be below 1.

  convolutions  each shape that occurs in the network, forward, gradient of the input and gradient of the weight:
                  nhwc         channels last, algorithms chosen by cuDNN's heuristics (train.cudnn_benchmark false)
                  nhwc, tuned  channels last, algorithms chosen by measurement (train.cudnn_benchmark true)
                  nchw, tuned  channels first
                  dense        a grouped convolution as one of a single group: what weights padded with zeros would
                               cost, relative to the bytes of the grouped one. Channels last, tuned
  others        BatchNorm with the statistics of the batch, ReLU and addition of the shapes that follow the convolutions
  kernels       those of one uncompiled forward and backward pass, by total time

The last table sums each kind of layer over the network, with what perfect kernels would save in each step: the time
beyond that of the bytes. The line below it is for grouped convolutions in their fastest variant.

On a GPU ten calls are captured as a CUDA graph, so that launches are not measured. The process must be the only one
that uses the GPU.
"""

import argparse
import sys

from benchmarks import command
from benchmarks.probe.measure import measure
from benchmarks.probe.show import show
from commandline.exit_codes import exit_process
from regnet.config.schema import Config


def main(argv: list[str]) -> int:
    """Exit code: 0 success, 2 invalid usage or input."""
    parser = command.parser("benchmarks.probe", __doc__)
    parser.set_defaults(seconds=0.05)

    def configure(args: argparse.Namespace) -> Config:
        return command.configure(args, {"tracking.wandb": "disabled"})

    return command.run_in_process_group(parser.parse_args(argv), configure, measure, show)


if __name__ == "__main__":
    exit_process(main(sys.argv[1:]))

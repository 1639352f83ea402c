"""Compares the speed of this trainer with that of other trainers.

python -m benchmarks.peers [--json FILE] [--figure FILE.png]

All trainers use the same model, batch size, precision, memory format, augmentation and images:

  ours                this trainer: train_ddp.py with a configuration
  timm_loop           timm's loader, task, optimiser and evaluator
  torchvision_recipe  torchvision's reference recipe, reimplemented because its script is not part of the package
  lightning_fit       PyTorch Lightning
  accelerate_loop     Accelerate
  plain_ddp           a plain script with a DataLoader and DistributedDataParallel
  resident            this trainer's step on one batch that stays on the device: the upper limit

Each trainer runs in its own processes under torchrun; they alternate over several rounds. The other trainers read the
images from memory-mapped arrays and use the settings that their own guides recommend for speed; this trainer reads
its shards. All take steps of SGD with Nesterov momentum at a constant learning rate, on full batches. With --steps N
an epoch has N steps, and the other trainers' datasets hold no more images than that.

Images per second count training only, from the request for an epoch's first batch, without the first epoch. The time
until the end of all epochs starts at the launch and includes an evaluation of all validation images after each epoch
(not for `resident`). In that time this trainer also verifies its shards and writes checkpoints and metrics; the other
trainers write nothing. Memory is the sum over all processes of a launch with shared pages counted once, measured in a
launch of one epoch before the first round. GPU memory is the peak that torch allocated, summed over all ranks.

Needs pip install -r requirements-peers.txt. On a CPU the machine must be otherwise idle.
"""

import sys

from benchmarks.command import run_benchmark_with_figure
from benchmarks.launch import exit_when_signalled
from benchmarks.peers.compare import measure
from benchmarks.peers.options import parser
from benchmarks.peers.show import figure, show


def main(argv: list[str]) -> int:
    """Exit code: 0 success, 1 a trainer failed, 2 invalid usage or input."""
    return run_benchmark_with_figure(parser(__doc__).parse_args(argv), measure, show, figure)


if __name__ == "__main__":
    exit_when_signalled()
    sys.exit(main(sys.argv[1:]))

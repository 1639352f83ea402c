"""This trainer beside its peers: python -m benchmarks.peers [--json FILE] [--picture FILE.png]

The same network, batches, precision, memory format, augmentation and images, trained by

  ours                this trainer: train_ddp.py with a configuration
  timm_loop           timm's loader, task, optimiser and evaluator
  torchvision_recipe  torchvision's reference recipe, written anew: its script is in no package
  lightning_fit       PyTorch Lightning
  accelerate_loop     Accelerate
  plain_ddp           a plain script with a DataLoader and DistributedDataParallel
  resident            this trainer's step on one batch that stays on the device: the ceiling

each in its own processes under its own torchrun, in turns, several rounds. The peers get the images as arrays in
files that are mapped into memory, and the settings that their own guides recommend for speed; this trainer reads its
shards. Everybody takes steps of SGD with Nesterov momentum at a constant rate, over whole batches; with --steps N an
epoch has N, and the peers' loaders hold no more images than that.

Images a second are of training alone, over all epochs but the first, and begin when an epoch's first batch is asked
for. The time to the end of all epochs is from the launch and holds an evaluation of all test images after each epoch,
which all but `resident` make; this trainer also checks its shards and writes its checkpoints and its record in it,
while the peers keep nothing. Memory is that of all processes of a launch together, shared pages counted once, from a
launch of one epoch before the first round; GPU memory is the most that torch had allocated, over all ranks.

Needs pip install -r requirements-peers.txt. On a CPU the machine must be idle.
"""

import sys

from benchmarks.command import tell_and_draw
from benchmarks.launch import exit_when_signalled
from benchmarks.peers.compare import measure
from benchmarks.peers.options import parser
from benchmarks.peers.show import picture, show


def main(argv: list[str]) -> int:
    """Exit status 0 done, 1 a peer failed, 2 wrong usage or input."""
    return tell_and_draw(parser(__doc__).parse_args(argv), measure, show, picture)


if __name__ == "__main__":
    exit_when_signalled()
    sys.exit(main(sys.argv[1:]))

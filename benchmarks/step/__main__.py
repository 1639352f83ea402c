"""Measures where the time of a training step goes.

python -m benchmarks.step [--trace FILE.json] [--json FILE]          also under torchrun, with several processes

Variants, which alternate within one run and all use the trainer's own code:

  trainer     epochs of --steps steps as in training, from reading the shards to logging the losses
  resident    the same steps on one batch that stays on the device: the upper limit
  apart       the same epochs with each part of a step timed separately. The device is idle whenever the clock is read,
              so overlapping parts add up to more than the trainer's step
  alone       with several processes: like apart, but without gradient exchange. The difference in backward is the
              exposed time of the exchange

Parts: load waits for decoded samples (decoding runs concurrently) and copy moves them to the device; with all samples
cached on the device (data.cache), load gathers a batch there and nothing is copied. count updates the training
metrics. update is the optimiser and the EMA weights. report reads the losses from the device, once in
tracking.log_every steps (here once in --steps), and logs them. rest is the start and end of the epoch, the loop, and
the agreement between ranks. The learning rate is too small to change a weight.

Kernels a step are the operations on tensors that a step launches, by part; here loss is apart from forward, and rest is
what train_step.run does between the parts. They are counted on a CPU, in a single process, without compilation or CUDA
graphs. An operation on a list of tensors counts as one, and views count as none. A GPU launches at least one kernel for
nearly every operation, several for some of them, and none for an allocation, which counts too.

Host waits are calls that make the host wait for the device; there should be none between two reports. On CUDA they
are counted by torch's sync debug mode. In a single process on a CPU, Python calls are counted that would be such
waits on a GPU; calls inside torch's C++ code are not seen.

The hardware's peak rates are measured with large matrix products in the same precision and with copies in device
memory. A step's FLOPs are 2 per multiply-add of convolutions and linear layers, times three for forward and
backward. Its memory traffic is what all uncompiled operations of forward and backward read and write, without caches.
Percentages of the peak rates are those of complete steps on the resident batch.

--trace records three steps with torch.profiler, for chrome://tracing or Perfetto. On a CPU the machine must be
otherwise idle.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks import command
from benchmarks.step.measure import measure
from benchmarks.step.show import show
from commandline.exit_codes import exit_process
from regnet.config.schema import Config


def main(argv: list[str]) -> int:
    """Exit code: 0 success, 1 loader failure, 2 invalid usage or input."""
    parser = command.parser("benchmarks.step", __doc__, seconds="duration of each measurement of a peak rate")
    parser.add_argument(
        "--steps",
        type=command.positive,
        default=8,
        metavar="N",
        help="steps of each variant in each round (default: %(default)s)",
    )
    parser.add_argument("--trace", type=Path, metavar="FILE", help="also write a torch.profiler trace of three steps")
    args = parser.parse_args(argv)
    Path("runs").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".benchmark-", dir="runs") as runs:

        def configure(args: argparse.Namespace) -> Config:
            command.check_output_paths(args, "trace")
            more = {"runs_dir": runs, "tracking.wandb": "disabled", "tracking.log_every": args.steps}
            # Too small to change a weight: ranks stay identical without gradient exchange, and nothing diverges.
            constant_weights = {"optim.lr": 1e-30, "schedule.start_lr": 0, "schedule.min_lr": 0}
            return command.configure(
                args, {**more, **constant_weights, "train.max_steps_per_epoch": args.steps, "data.drop_last": "true"}
            )

        return command.run_in_process_group(args, configure, measure, show)


if __name__ == "__main__":
    exit_process(main(sys.argv[1:]))

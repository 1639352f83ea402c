"""Where does a step's time go? python -m benchmarks.step [--trace FILE.json] [--json FILE]

Or under torchrun, on several processes. Measured in one run and in turns, all with the trainer's own code:

  trainer     epochs of --steps steps, from the shards to the report of the losses, as they are trained
  resident    the same steps on one batch that stays on the device: the ceiling
  apart       the same epochs, each part of a step by itself: the device is idle whenever the clock is read, so that
              parts add up to more than the trainer's step wherever they otherwise overlap
  alone       on several processes: as before, but gradients stay where they are. What backward takes less is the
              exchange's visible time

load is the wait for decoded bytes, decoding itself goes on beside the step, and copy brings them to the device; where
data.cache keeps all samples there, load cuts a batch out of them and nothing is copied. count keeps the epoch's
accuracy; update is the optimiser and the moving average; report asks the device for the losses, once in
tracking.log_every steps (here once in --steps), and writes them down; rest is the epoch's start and end, the loop, and
what ranks agree on. The learning rate is too small to move a weight.

Host waits are calls that make the host wait for the device: in the steps between two reports there should be none.
They are counted on CUDA by torch's own watch, and in a process alone on a CPU by calls from Python that would be such
waits on a device; what torch itself does in C++ is not seen there.

The machine's rates are of large matrix products in the same precision, and of copies in the device's memory. A step's
work is 2 FLOP for a multiply-add of convolutions and linear layers, three times for forward and backward; its traffic
is what every operation of forward and backward reads and writes when it is not compiled, as if no cache kept any of it.
The shares are those of whole steps on the resident batch.

--trace records three steps with torch.profiler, for chrome://tracing or Perfetto. On a CPU the machine must be idle.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks import command
from benchmarks.step.measure import measure
from benchmarks.step.show import show
from regnet.config.schema import Config


def main(argv: list[str]) -> int:
    """Exit status 0 done, 1 the loader broke, 2 wrong usage or input."""
    parser = command.parser("benchmarks.step", __doc__, seconds="for each rate of the machine")
    parser.add_argument(
        "--steps", type=command.positive, default=8, metavar="N", help="of each side in each round (%(default)s)"
    )
    parser.add_argument("--trace", type=Path, metavar="FILE", help="write a torch.profiler trace of three steps")
    args = parser.parse_args(argv)
    Path("runs").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".benchmark-", dir="runs") as runs:

        def configure(args: argparse.Namespace) -> Config:
            command.check_output_paths(args, "trace")
            more = {"runs_dir": runs, "tracking.wandb": "disabled", "tracking.log_every": args.steps}
            # Too small to move a weight: ranks stay alike where gradients stay at home, and nothing diverges.
            still = {"optim.lr": 1e-30, "schedule.start_lr": 0, "schedule.min_lr": 0}
            return command.configure(
                args, {**more, **still, "train.max_steps_per_epoch": args.steps, "data.drop_last": "true"}
            )

        return command.run_in_process_group(args, configure, measure, show)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

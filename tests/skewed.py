"""The trainer with one rank, or the disk, made to differ from what it should be:

    python tests/skewed.py WHAT[:RANK[:STEP]] --config F ...

Everything else is real: processes, collectives, files. STEP counts this process's training steps from 1.
"""

import errno
import os
import runpy
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))


class Skew:
    """What is made to differ, and where."""

    def __init__(self, text: str) -> None:
        what, rank, step = [*text.split(":"), "", ""][:3]
        self.what, self.step = what, int(step or 1)  # 0 for every step
        self.here = not rank or int(rank) == int(os.environ.get("RANK", "0"))
        self.steps = 0

    def apply(self) -> None:
        if self.here:
            getattr(self, self.what)()

    def at_step(self, action) -> None:
        """Calls `action` in each training step, told whether it is the one."""
        from regnet.training.trainer import Trainer

        original = Trainer.step

        def step(trainer, batch, rate):
            self.steps += 1
            return action(self.step in (0, self.steps), lambda: original(trainer, batch, rate))

        Trainer.step = step

    def nan_loss(self) -> None:
        self.at_step(lambda now, step: step() * float("nan") if now else step())

    def inf_weight(self) -> None:
        """This rank's first weight is no number any more after that step."""
        import torch

        from regnet.training.trainer import Trainer

        original = Trainer.step

        def step(trainer, batch, rate):
            loss = original(trainer, batch, rate)
            self.steps += 1
            if self.steps == self.step:
                with torch.no_grad():
                    next(trainer.state.model.parameters())[0] = torch.inf
            return loss

        Trainer.step = step

    def inf_gradient(self) -> None:
        """An overflow in this rank's backward pass of that one step, as fp16 has them."""
        import torch
        from torch.nn import functional as F

        original = F.cross_entropy

        def step(now, step):
            F.cross_entropy = (lambda *a, **k: original(*a, **k) * torch.inf) if now else original
            return step()

        self.at_step(step)

    def dies(self) -> None:
        self.at_step(lambda now, step: os.kill(os.getpid(), signal.SIGKILL) if now else step())

    def raises(self) -> None:
        def step(now, step):
            if now:
                raise RuntimeError("a defect on this rank alone")
            return step()

        self.at_step(step)

    def slow_step(self) -> None:
        self.at_step(lambda now, step: (step(), time.sleep(60 if now else 0))[0])

    def slow_evaluation(self) -> None:
        from regnet.metrics.evaluation import EvaluationAccumulator

        original = EvaluationAccumulator.update

        def update(*args):
            time.sleep(1)
            original(*args)

        EvaluationAccumulator.update = update

    def slow_shutdown(self) -> None:
        """This rank parts from the others long after they would."""
        from regnet.distributed.heartbeat import Heartbeat

        original = Heartbeat.close

        def close(heartbeat) -> None:
            time.sleep(7)
            original(heartbeat)

        Heartbeat.close = close

    def hanging_wandb(self) -> None:
        """The last call of Weights & Biases never comes back."""
        import wandb

        wandb.Run.finish = lambda *_, **__: time.sleep(1000)

    def slow_disk(self) -> None:
        """Every fsync takes a while."""
        original = os.fsync

        def fsync(file) -> None:
            time.sleep(0.4)
            original(file)

        os.fsync = fsync

    def failing_disk(self) -> None:
        """That fsync, counted from 1, fails as a disk does that is about to be replaced."""
        original = os.fsync

        def fsync(file) -> None:
            self.steps += 1
            if self.steps == self.step:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            original(file)

        os.fsync = fsync

    def raises_while_disk_hangs(self) -> None:
        """A defect in that step, while a checkpoint waits for a disk that has stopped to answer."""

        def step(now, step):
            os.fsync = lambda file: time.sleep(300)
            if now:
                raise RuntimeError("a defect on this rank alone")
            return step()

        self.at_step(step)

    def inflated_metrics(self) -> None:
        """This rank believes that each evaluation was better than the one before."""
        from dataclasses import replace

        from regnet.metrics.evaluation import EvaluationAccumulator
        from regnet.metrics.training import TrainingAccumulator

        seen = []

        def flattered(original):
            def result(*args):
                seen.append(1)
                return replace(original(*args), top1=len(seen) / 1000, loss=1 / len(seen))

            return result

        TrainingAccumulator.result, EvaluationAccumulator.result = (
            flattered(TrainingAccumulator.result),
            flattered(EvaluationAccumulator.result),
        )

    def declining_metrics(self) -> None:
        """Each evaluation of the run is worse than the one before, whichever attempt makes it."""
        from dataclasses import replace

        from regnet.training.trainer import Trainer

        original = Trainer.evaluate

        def evaluate(trainer):
            result = original(trainer)
            return result and replace(result, top1=1 / (1 + trainer.state.progress.global_step))

        Trainer.evaluate = evaluate

    def fast_clock(self) -> None:
        """This rank's clock runs an hour ahead with every look at it."""
        import regnet.distributed.preemption

        looks = []
        ahead = SimpleNamespace(monotonic=lambda: time.monotonic() + 3600 * (looks.append(1) or len(looks)))
        regnet.preemption.time = ahead

    def record_buffers(self) -> None:
        """Writes what the BatchNorm statistics were: of this rank before each exchange, as evaluated, as saved."""
        import hashlib

        from regnet.training.state import TrainingState

        path = Path(os.environ["BUFFER_LOG"]) / f"rank-{os.environ.get('RANK', '0')}"

        def note(kind, network) -> None:
            digest = hashlib.sha256(b"".join(b.numpy().tobytes() for b in network.buffers())).hexdigest()
            with open(path, "a") as file:
                file.write(f"{kind} {digest}\n")

        sync, state_dict, evaluated = TrainingState.sync_buffers, TrainingState.state_dict, TrainingState.evaluated

        def sync_buffers(state, world):
            note("own", state.model)
            sync(state, world)

        def saved(state, world):
            note("saved", state.model)
            return state_dict(state, world)

        def used(state):
            network = evaluated.fget(state)
            note("evaluated", network)
            return network

        TrainingState.sync_buffers, TrainingState.state_dict = sync_buffers, saved
        TrainingState.evaluated = property(used)

    def broken_loader(self) -> None:
        """This rank's loader thread raises when it decodes that batch."""
        from data.reading.shard_reader import _Epoch

        original = _Epoch.run_pipeline

        def run_pipeline(epoch, index, *rest):
            if index == self.step:
                raise ValueError("no such pixel")
            return original(epoch, index, *rest)

        _Epoch.run_pipeline = run_pipeline

    def stalled_loader(self) -> None:
        """This rank's loader thread never delivers that batch."""
        from data.reading.shard_reader import _Epoch

        original = _Epoch.run_pipeline

        def run_pipeline(epoch, index, *rest):
            time.sleep(60 if index == self.step else 0)
            return original(epoch, index, *rest)

        _Epoch.run_pipeline = run_pipeline

    def killed_while_writing(self) -> None:
        """The kernel kills this process in the middle of the write that reaches byte STEP of any file."""
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.step, self.step))


if __name__ == "__main__":
    skew = Skew(sys.argv.pop(1))
    skew.apply()
    runpy.run_path(str(ROOT / "train_ddp.py"), run_name="__main__")

"""Runs the trainer with an injected fault, on one rank or on all:

    python tests/helpers/fault_injection.py FAULT[:RANK[:STEP]] --config F ...

FAULT is a method of `Fault`. Everything else is real: processes, collectives, files. STEP counts this process's
training steps from 1.
"""

import errno
import os
import runpy
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from limits import LIMIT

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))


class Fault:
    """A fault, and the rank and step where it occurs."""

    def __init__(self, text: str) -> None:
        name, rank, step = [*text.split(":"), "", ""][:3]
        self.name, self.step = name, int(step or 1)  # step 0: every step
        self.on_this_rank = not rank or int(rank) == int(os.environ.get("RANK", "0"))
        self.steps = 0

    def apply(self) -> None:
        if self.on_this_rank:
            getattr(self, self.name)()

    def at_step(self, action) -> None:
        """Replaces each training step by action(is_faulty_step, original_step)."""
        from regnet.training.train_step import TrainStep

        original = TrainStep.run

        def step(train_step, batch, lr):
            self.steps += 1
            return action(self.step in (0, self.steps), lambda: original(train_step, batch, lr))

        TrainStep.run = step

    def nan_loss(self) -> None:
        self.at_step(lambda now, step: step() * float("nan") if now else step())

    def inf_weight(self) -> None:
        """Sets this rank's first weight to infinity after the given step."""
        import torch

        from regnet.training.train_step import TrainStep

        original = TrainStep.run

        def step(train_step, batch, lr):
            loss = original(train_step, batch, lr)
            self.steps += 1
            if self.steps == self.step:
                with torch.no_grad():
                    next(train_step.state.model.parameters())[0] = torch.inf
            return loss

        TrainStep.run = step

    def inf_gradient(self) -> None:
        """Makes this rank's backward pass overflow in the given step, as can happen in fp16."""
        import torch
        from torch.nn import functional as F

        original = F.cross_entropy

        def step(now, step):
            F.cross_entropy = (lambda *a, **k: original(*a, **k) * torch.inf) if now else original
            return step()

        self.at_step(step)

    def rerun_graphs(self) -> None:
        """Captures on a CPU, by graphs whose replay runs the captured function again on the same tensors."""
        from regnet.training import cuda_graphs, step_capture

        step_capture.supports_graphs = lambda device: True
        cuda_graphs.GraphCapture.capture = lambda capture, function: self.counted(capture.what, function)

    def counted(self, what: str, function):
        print(f"captured {what}", flush=True)
        return function

    def failing_capture(self) -> None:
        """Every capture fails, as one whose function waits for the device."""
        from regnet.training import cuda_graphs, step_capture

        def capture(capture, function):
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

        step_capture.supports_graphs = lambda device: True
        cuda_graphs.GraphCapture.capture = capture

    def shared_gpu(self) -> None:
        """All ranks use the first GPU, and gloo, since NCCL refuses that."""
        import torch
        import torch.distributed as dist

        from regnet.distributed import world

        original = dist.init_process_group
        world.choose_device = lambda *_: torch.device("cuda", 0)
        dist.init_process_group = lambda backend, **options: original("gloo", **options)

    def several_buckets(self) -> None:
        """Exchanges gradients during the backward pass, as for a large network."""
        from regnet.training import builder

        builder.uses_one_bucket = lambda parameters: False

    def raises(self) -> None:
        def step(now, step):
            if now:
                raise RuntimeError("a defect on this rank alone")
            return step()

        self.at_step(step)

    def slow_step(self) -> None:
        self.at_step(lambda now, step: (step(), time.sleep(LIMIT if now else 0))[0])

    def slow_evaluation(self) -> None:
        from regnet.metrics.evaluation import EvaluationAccumulator

        original = EvaluationAccumulator.update

        def update(*args):
            time.sleep(1)
            original(*args)

        EvaluationAccumulator.update = update

    def slow_shutdown(self) -> None:
        """This rank closes its heartbeat connection long after the other ranks."""
        from regnet.distributed.heartbeat import Heartbeat

        original = Heartbeat.close

        def close(heartbeat) -> None:
            time.sleep(7)
            original(heartbeat)

        Heartbeat.close = close

    def hanging_wandb(self) -> None:
        """The final call of Weights & Biases does not return."""
        import wandb

        wandb.Run.finish = lambda *_, **__: time.sleep(LIMIT)

    def unreachable_wandb(self) -> None:
        """wandb.init does not return."""
        import wandb

        wandb.init = lambda **_: time.sleep(LIMIT)

    def connected_wandb(self) -> None:
        """Training begins only when Weights & Biases is connected."""
        from regnet.tracking.wandb_tracker import WandbTracker

        original = WandbTracker.__init__

        def connected(tracker, connect, *arguments) -> None:
            run = connect()
            original(tracker, lambda: run, *arguments)

        WandbTracker.__init__ = connected

    def impatient_wandb(self) -> None:
        """wandb asks every 0.1 s whether the run was stopped at the server."""
        from wandb.sdk.lib.run_stopping import RunStopChecker

        RunStopChecker.__init__.__kwdefaults__["poll_interval"] = 0.1

    def slow_disk(self) -> None:
        """Every fsync takes 0.4 s."""
        original = os.fsync

        def fsync(file) -> None:
            time.sleep(0.4)
            original(file)

        os.fsync = fsync

    def failing_disk(self) -> None:
        """The given fsync, counted from 1, fails with an I/O error."""
        original = os.fsync

        def fsync(file) -> None:
            self.steps += 1
            if self.steps == self.step:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            original(file)

        os.fsync = fsync

    def raises_while_disk_hangs(self) -> None:
        """An exception in the given step, while a checkpoint is blocked in fsync."""

        def step(now, step):
            os.fsync = lambda file: time.sleep(LIMIT)
            if now:
                raise RuntimeError("a defect on this rank alone")
            return step()

        self.at_step(step)

    def inflated_metrics(self) -> None:
        """On this rank, the metrics of each training epoch and evaluation are better than the previous ones."""
        from dataclasses import replace

        from regnet.metrics.evaluation import EvaluationAccumulator
        from regnet.metrics.training import TrainingAccumulator

        calls = []

        def improving(original):
            def result(*args):
                calls.append(1)
                return replace(original(*args), top1=len(calls) / 1000, loss=1 / len(calls))

            return result

        TrainingAccumulator.result, EvaluationAccumulator.result = (
            improving(TrainingAccumulator.result),
            improving(EvaluationAccumulator.result),
        )

    def declining_metrics(self) -> None:
        """Each evaluation of the run is worse than the previous one, across restarts too."""
        from dataclasses import replace

        from regnet.training.trainer import Trainer

        original = Trainer.evaluate

        def evaluate(trainer):
            result = original(trainer)
            return result and replace(result, top1=1 / (1 + trainer.state.progress.global_step))

        Trainer.evaluate = evaluate

    def fast_clock(self) -> None:
        """This rank's clock gains an hour each time it is read."""
        import regnet.distributed.preemption

        reads = []
        fast = SimpleNamespace(monotonic=lambda: time.monotonic() + 3600 * (reads.append(1) or len(reads)))
        regnet.distributed.preemption.time = fast

    def record_buffers(self) -> None:
        """Logs digests of the BatchNorm statistics: this rank's own before each sync, those evaluated, those saved."""
        import hashlib

        from regnet.training.state import TrainingState

        path = Path(os.environ["BUFFER_LOG"]) / f"rank-{os.environ.get('RANK', '0')}"

        def log(kind, model) -> None:
            digest = hashlib.sha256(b"".join(b.numpy().tobytes() for b in model.buffers())).hexdigest()
            with open(path, "a") as file:
                file.write(f"{kind} {digest}\n")

        sync, state_dict, evaluated = TrainingState.sync_buffers, TrainingState.state_dict, TrainingState.evaluated

        def sync_buffers(state, world):
            log("own", state.model)
            sync(state, world)

        def saved(state, world):
            log("saved", state.model)
            return state_dict(state, world)

        def used(state):
            model = evaluated.fget(state)
            log("evaluated", model)
            return model

        TrainingState.sync_buffers, TrainingState.state_dict = sync_buffers, saved
        TrainingState.evaluated = property(used)

    def broken_loader(self) -> None:
        """This rank's loader thread raises an exception at the given batch."""
        from data.reading.ffcv_pipeline import EpochThread

        original = EpochThread.run_pipeline

        def run_pipeline(epoch, index, *rest):
            if index == self.step:
                raise ValueError("no such pixel")
            return original(epoch, index, *rest)

        EpochThread.run_pipeline = run_pipeline

    def stalled_loader(self) -> None:
        """This rank's loader thread hangs at the given batch."""
        from data.reading.ffcv_pipeline import EpochThread

        original = EpochThread.run_pipeline

        def run_pipeline(epoch, index, *rest):
            time.sleep(LIMIT if index == self.step else 0)
            return original(epoch, index, *rest)

        EpochThread.run_pipeline = run_pipeline

    def killed_while_writing(self) -> None:
        """The kernel kills this process in the middle of the first write past byte STEP of a file."""
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.step, self.step))


if __name__ == "__main__":
    fault = Fault(sys.argv.pop(1))
    fault.apply()
    runpy.run_path(str(ROOT / "train_ddp.py"), run_name="__main__")

"""Faults of training steps, of captured graphs and of the loader."""

import os
import time

from injected_fault import InjectedFault
from limits import LIMIT


class TrainingFaults(InjectedFault):
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

    def large_loss_scale(self) -> None:
        """Starts with a loss scale with which gradients overflow in fp16."""
        from functools import partialmethod

        import torch

        scaler = torch.amp.GradScaler
        scaler.__init__ = partialmethod(scaler.__init__, init_scale=2.0**60)

    def rerun_graphs(self) -> None:
        """Captures on a CPU, by graphs whose replay runs the captured function again on the same tensors."""
        from regnet.training import cuda_graphs, step_capture

        step_capture.supports_graphs = lambda device: True
        cuda_graphs.GraphCapture.capture = lambda capture, function: self.announced(capture.what, function)

    def announced(self, what: str, function):
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

    def waits_for_signal(self) -> None:
        """From the given step of the run on, training waits for a signal: it cannot end before a test sends one."""
        from regnet.training.trainer import Trainer

        original = Trainer.report_steps

        def report_steps(trainer, pending):
            original(trainer, pending)
            while trainer.state.progress.global_step >= self.step and trainer.notice.reason is None:
                time.sleep(0.01)

        Trainer.report_steps = report_steps

    def slow_step(self) -> None:
        self.at_step(lambda now, step: (step(), time.sleep(LIMIT if now else 0))[0])

    def broken_loader(self) -> None:
        """This rank's loader thread raises an exception at the given batch."""
        from data.reading.ffcv_pipeline import EpochThread

        original = EpochThread.run_pipeline

        def run_pipeline(epoch, index, *rest):
            if index == self.step:
                raise ValueError("no such pixel")
            return original(epoch, index, *rest)

        EpochThread.run_pipeline = run_pipeline

    def pauses_reading(self) -> None:
        """Before the given read, this rank creates paused-RANK in the shards' directory and waits for a file there,
        continue.
        """
        from data.reading.mmap_shards import MappedShards

        original = MappedShards.check

        def check(shards):
            self.steps += 1
            if self.steps == self.step:
                folder = shards._files[0].path.parent
                (folder / f"paused-{os.environ.get('RANK', '0')}").touch()
                while not (folder / "continue").exists():
                    time.sleep(0.02)
            original(shards)

        MappedShards.check = check

    def stalled_loader(self) -> None:
        """This rank's loader thread hangs at the given batch."""
        from data.reading.ffcv_pipeline import EpochThread

        original = EpochThread.run_pipeline

        def run_pipeline(epoch, index, *rest):
            time.sleep(LIMIT if index == self.step else 0)
            return original(epoch, index, *rest)

        EpochThread.run_pipeline = run_pipeline

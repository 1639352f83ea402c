"""The training loop: fit -> train_epoch -> step; evaluate."""

import math
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from typing import NamedTuple, NoReturn

import torch
from torch import Tensor

from regnet.config.schema import Config
from regnet.distributed.preemption import PreemptionNotice
from regnet.distributed.shared_flags import SharedFlags
from regnet.distributed.world import World
from regnet.errors import Diverged
from regnet.metrics.confident_errors import ConfidentErrorAccumulator
from regnet.metrics.evaluation import Evaluation, EvaluationAccumulator
from regnet.metrics.training import TrainingAccumulator, TrainingResult
from regnet.optim.schedules import learning_rate
from regnet.tracking.base import EpochReport, StepReport
from regnet.training.batches import EvaluationBatches, TrainingBatches, take
from regnet.training.run import Run
from regnet.training.state import NonFinite
from regnet.training.train_step import TrainStep


class PendingStep(NamedTuple):
    """A step whose loss is still on the device: this rank's share of the mean over the global batch."""

    step: int
    lr: float
    loss: Tensor


class Trainer:
    """Trains one network; all ranks run it together.

    Args:
        run: receives reports and checkpoints.
        notice: preemption signals of this process.
    """

    def __init__(
        self,
        config: Config,
        world: World,
        train_step: TrainStep,
        train_batches: TrainingBatches,
        val_batches: EvaluationBatches,
        run: Run,
        notice: PreemptionNotice,
    ) -> None:
        self.config, self.world = config, world
        self.train_step, self.state = train_step, train_step.state
        self.train_batches, self.val_batches = train_batches, val_batches
        self.run, self.notice = run, notice
        self.classes = len(run.dataset.classes)
        self.steps_per_epoch = min(train_batches.steps, config.train.max_steps_per_epoch or train_batches.steps)
        self.flags = SharedFlags(world, flags=2)  # "this rank is preempted", "a checkpoint is due"; see train_epoch
        self.confident_errors = ConfidentErrorAccumulator()

    def fit(self) -> Evaluation | None:
        """Trains until the last epoch or early stopping; returns the last evaluation, or None if preempted first."""
        result = self._fit()
        self.flags.wait()
        self.run.wait()
        # Gathered only for the last evaluation, because they carry images.
        return None if result is None else replace(result, confident_errors=self.confident_errors.result(self.world))

    def _fit(self) -> Evaluation | None:
        self.notice.set_time_limit(0)  # an earlier run in this process may have reached its own
        if any(self.world.gather(self.notice.reason is not None)):
            return None
        self.notice.set_time_limit(self.config.train.max_minutes)
        val_result = None
        progress = self.state.progress
        # An epoch that an earlier attempt has started is completed, even with fewer epochs or less patience now.
        while progress.step or (progress.epoch < self.config.train.epochs and not self.state.stopping.should_stop):
            started = time.perf_counter() - progress.seconds
            if not self.train_epoch(started):
                return None
            train_result = self.state.metrics.summed(self.world).result()
            train_seconds = time.perf_counter() - started
            progress.seconds = train_seconds
            self.save()  # before the evaluation, in which the run may be preempted or killed
            val_result = self.evaluate()
            if val_result is None:
                return None
            seconds = time.perf_counter() - started
            # All ranks take rank zero's numbers, so that they decide alike (early stopping, best checkpoint).
            results = self.world.broadcast_object((train_result, val_result))
            self.end_epoch(*results, train_seconds, seconds)
        return val_result if val_result is not None else self.evaluate()

    def train_epoch(self, started: float) -> bool:
        """Trains the rest of the current epoch; returns False if preempted, once a checkpoint is saved.

        Afterwards all ranks have the same BatchNorm statistics, for the evaluation and the checkpoints.

        Args:
            started: time.perf_counter() minus the seconds already spent on this epoch.
        """
        progress = self.state.progress
        self.train_step.network.train()
        self.run.begin_epoch(progress.epoch + 1, self.steps_per_epoch, progress.step)
        pending: list[PendingStep] = []
        saved_at = time.monotonic()
        self.flags.restart()
        batches = self.train_batches.epoch(progress.epoch, progress.step)
        for batch in take(batches, self.steps_per_epoch - progress.step):
            lr = self.lr_at(progress.global_step)
            loss = self.train_step.run(batch, lr)
            progress.step += 1
            progress.global_step += 1
            pending.append(PendingStep(progress.global_step, lr, loss))
            if len(pending) == self.config.tracking.log_every or progress.step == self.steps_per_epoch:
                self.report_steps(pending)
            overdue = self._overdue(saved_at)
            if overdue:
                saved_at = time.monotonic()  # reset now, or it would be requested again: the save follows later
            preempted, save = self.flags.exchange(self.notice.reason is not None, overdue)
            if preempted or self._checkpoint_due(save):
                self.report_steps(pending)
                progress.seconds = time.perf_counter() - started
                self.state.sync_buffers(self.world)
                self.save()
            if preempted:
                return False
        self.state.sync_buffers(self.world)
        return True

    def _overdue(self, saved_at: float) -> bool:
        minutes = (time.monotonic() - saved_at) / 60
        return self.world.is_main and 0 < self.config.checkpoint.every_minutes <= minutes

    def _checkpoint_due(self, requested: bool) -> bool:
        progress, every = self.state.progress, self.config.checkpoint.every_steps
        due = requested or (every > 0 and progress.global_step % every == 0)
        return due and progress.step < self.steps_per_epoch  # the end of the epoch saves anyway

    def lr_at(self, step: int) -> float:
        """The learning rate of global step `step`, counted from 0; with optim.layer_decay, that of the head."""
        config = self.config
        return learning_rate(step, self.steps_per_epoch, config.train.epochs, config.optim.lr, config.schedule)

    def report_steps(self, pending: list[PendingStep]) -> None:
        """Reports the global mean loss of each pending step: one collective and one synchronisation for all.

        Raises:
            Diverged: on all ranks at once, for a loss that is not finite.
        """
        if not pending:
            return
        # In float64 the sum over ranks does not depend on how many steps are reported together.
        losses = self.world.sum_(torch.stack([step.loss for step in pending]).double()).tolist()
        epoch = self.state.progress.epoch + 1
        reports = [StepReport(epoch, step.step, step.lr, loss) for step, loss in zip(pending, losses, strict=True)]
        pending.clear()
        self.run.log_steps(reports)
        self._check_finite(reports)

    def _check_finite(self, reports: Sequence[StepReport]) -> None:
        precision = self.train_step.precision
        for report in reports:
            if not math.isfinite(report.loss) and not precision.skips_overflow:
                self.diverged(f"the loss is {report.loss}", report.step, report.lr)
        if precision.overflows():
            self.diverged("gradients overflow at every loss scale", reports[-1].step, reports[-1].lr)

    def diverged(self, what: str, step: int, lr: float) -> NoReturn:
        last = self.run.last_checkpoint()
        raise Diverged(f"{what} at step {step} (learning rate {lr:.3g}); {last}")

    def save(self, is_best: bool = False) -> None:
        """Saves a checkpoint, unless a weight is not finite.

        Raises:
            Diverged: on all ranks at once, for a weight that is not finite.
        """
        try:
            self.run.save(self.state, is_best)
        except NonFinite as name:
            steps = self.state.progress.global_step
            self.diverged(f"{name} is not finite", steps, self.lr_at(steps - 1))

    @torch.inference_mode()
    def evaluate(self) -> Evaluation | None:
        """Counts every validation sample exactly once over all ranks; None if preempted before the end."""
        self.state.evaluated.eval()
        metrics = EvaluationAccumulator(self.classes, self.world.device)
        self.confident_errors = ConfidentErrorAccumulator()
        self.flags.restart()
        with closing(iter(self.val_batches)) as batches:
            for _ in range(self.val_batches.steps):
                # a rank may have one sample less than another, and so one batch less
                batch = next(batches, None)
                if batch is not None:
                    logits = self.train_step.predict(batch.images)
                    metrics.update(logits, batch.labels)
                    self.confident_errors.update(batch.images, logits, batch.labels)
                preempted, _ = self.flags.exchange(self.notice.reason is not None, False)
                if preempted:
                    return None
        return metrics.result(self.world)

    def end_epoch(
        self, train_result: TrainingResult, val_result: Evaluation, train_seconds: float, seconds: float
    ) -> None:
        """Marks the epoch as complete, reports it and saves a checkpoint."""
        state, progress = self.state, self.state.progress
        on_loss = self.config.early_stopping.monitor == "train_loss"
        state.stopping.update(train_result.loss if on_loss else val_result.top1)
        is_best = val_result.top1 > progress.best_top1
        if is_best:
            progress.best_top1, progress.best_step = val_result.top1, progress.global_step
        progress.epoch += 1
        lr = self.lr_at(progress.global_step - self.steps_per_epoch)
        throughput = train_result.samples / train_seconds
        report = EpochReport(progress.epoch, progress.global_step, lr, train_result, val_result, seconds, throughput)
        progress.step, progress.seconds = 0, 0.0
        state.metrics = TrainingAccumulator(self.classes, self.world.device)
        self.run.log_epoch(report)
        self.save(is_best)
